"""The bi-level objective of the Meta Sampler: what class sampling rates are learned from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

LabeledFeatures = tuple[Tensor, Tensor]


def meta_loss(
    log_rates: Tensor,
    classifier: nn.Module,
    inner: LabeledFeatures,
    outer: LabeledFeatures,
    *,
    log_counts: Tensor,
    inner_lr: float,
    temperature: float,
    noise: Tensor,
) -> Tensor:
    r"""Loss on balanced data of a classifier after one step on data that was sampled by the rates.

    .. math::
        \theta'(\psi) = \theta - \eta \nabla_\theta L_\mathrm{BalancedSoftmax}(\theta; \psi),
        \qquad L_\mathrm{meta}(\psi) = L_\mathrm{CE}(\theta'(\psi))

    Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020,
    section 3.2. It differs from the description there in three ways:

    - The Gumbel-softmax selection is soft in the loss too, not one-hot with a straight-through
      gradient, so that the gradient with respect to the rates is the exact one of this function.
      The loss of a selection is the mixture of the losses of the instances; at a temperature
      near 1, mixtures are more even than the rates.
    - It selects among the instances of a batch that was drawn with the present rates, not among
      the whole data set: its probabilities are relative to the classes in the batch.
    - The inner step is one of plain gradient descent, whatever optimiser trains the classifier.

    As there, only the classifier takes the inner step: the features are constants.

    Args:
        log_rates: ψ, logarithms of the class sampling rates up to a constant, shape (C,). The
            result is differentiable with respect to it.
        classifier: From features (N, F) to scores (N, C). Its parameters get no gradient.
        inner: Features (B, F) and labels (B,) of a batch drawn with the present rates.
        outer: Features (M, F) and labels (M,) of a class-balanced batch.
        log_counts: Logarithms of the numbers of training images a class, shape (C,).
        inner_lr: η, learning rate of the inner step.
        temperature: Of the Gumbel-softmax; near 0, the selections are near one-hot.
        noise: Gumbel noise of each selection and instance, shape (S, B).

    Returns:
        The loss, a scalar.
    """
    selection = gumbel_selection(log_rates, inner[1], temperature=temperature, noise=noise)
    parameters = inner_step(
        classifier, inner, selection.mean(0), log_counts=log_counts, inner_lr=inner_lr
    )
    features, labels = outer
    return F.cross_entropy(stepped_scores(classifier, parameters, features), labels)


def gumbel_selection(
    log_rates: Tensor, labels: Tensor, *, temperature: float, noise: Tensor
) -> Tensor:
    """Select instances of a batch by the rates of their classes.

    The instances of a class share its rate, so a class is selected by its rate whatever the number
    of its instances in the batch.

    Args:
        log_rates: Logarithms of the rates, shape (C,).
        labels: Labels of the batch, shape (B,).
        temperature: Of the softmax.
        noise: Gumbel noise of each selection and instance, shape (S, B).

    Returns:
        The share of each instance in each selection, shape (S, B), rows sum to 1.
    """
    counts = torch.bincount(labels, minlength=len(log_rates))[labels]
    logits = log_rates[labels] - counts.to(log_rates.dtype).log()
    return ((logits + noise) / temperature).softmax(1)


def inner_step(
    classifier: nn.Module,
    batch: LabeledFeatures,
    weight: Tensor,
    *,
    log_counts: Tensor,
    inner_lr: float,
) -> dict[str, Tensor]:
    """Parameters of a classifier after a step down the Balanced Softmax loss of a weighted batch.

    Args:
        classifier: From features (N, F) to scores (N, C).
        batch: Features (B, F) and labels (B,).
        weight: Weight of each instance in the loss, shape (B,).
        log_counts: Logarithms of the class counts, shape (C,).
        inner_lr: Length of the step.

    Returns:
        The new parameters by name, differentiable with respect to ``weight``.
    """
    features, labels = batch
    # Of its own graph: neither what the classifier trains nor its gradients are touched.
    parameters = {
        name: parameter.detach().requires_grad_()
        for name, parameter in classifier.named_parameters()
    }
    scores = stepped_scores(classifier, parameters, features)
    losses = F.cross_entropy(scores + log_counts, labels, reduction='none')
    gradients = torch.autograd.grad(
        (weight * losses).sum(), list(parameters.values()), create_graph=True
    )
    return {
        name: parameter - inner_lr * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients)
    }


def stepped_scores(
    classifier: nn.Module, parameters: Mapping[str, Tensor], features: Tensor
) -> Tensor:
    """Scores (N, C) of features (N, F) with other parameters; what it remembers stays as it is."""
    buffers = {name: own.clone() for name, own in classifier.named_buffers()}
    return functional_call(classifier, {**parameters, **buffers}, (features,))
