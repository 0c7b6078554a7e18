"""Difficulty-Net: class weights that a small network makes of all classes' accuracies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..calibration import PriorLike
from ..calibration.meta_sampler import LabeledFeatures, inner_step, stepped_scores
from .adjusted import AdjustedCrossEntropyLoss


class DifficultyNet(nn.Module):
    """Difficulties d in (0, 1) of accuracies A, both (C,): three layers, the last with sigmoids.

    Source: Sinha & Ohashi, "Difficulty-Net: Learning to Predict Difficulty for Long-Tailed
    Recognition", WACV 2023, section 3.

    Args:
        num_classes: C.
        hidden: Channels between. Default: 128, as for CIFAR.
        bias: Whether layers have one. Default: False, likewise; with it for ImageNet-LT.
    """

    def __init__(self, num_classes: int, hidden: int = 128, bias: bool = False) -> None:
        super().__init__()
        self.linear1 = nn.Linear(num_classes, hidden, bias)
        self.linear2 = nn.Linear(hidden, hidden, bias)
        self.linear3 = nn.Linear(hidden, num_classes, bias)

    def forward(self, accuracy: Tensor) -> Tensor:
        """Difficulties, (C,)."""
        return self.linear3(self.linear2(self.linear1(accuracy).relu()).relu()).sigmoid()


def weights_of_difficulties(difficulty: Tensor) -> Tensor:
    """Class weights of mean 1, in proportion, (C,)."""
    return len(difficulty) * difficulty / difficulty.sum()


def driver_loss(difficulty: Tensor, accuracy: Tensor) -> Tensor:
    r""":math:`\frac{1}{C} \sum_c (d_c - 1 + A_c / \sum_k A_k)^2`: what difficulties begin from."""
    return (difficulty - 1 + accuracy / (accuracy.sum() + 1e-12)).square().mean()


def difficulty_meta_loss(
    net: DifficultyNet,
    accuracy: Tensor,
    classifier: nn.Module,
    inner: LabeledFeatures,
    outer: LabeledFeatures,
    *,
    inner_lr: float,
    driver_weight: float = 0.3,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the network learns from: the loss on balanced data after a step with its weights.

    Only the classifier takes the step, of plain gradient descent, and the features are constants;
    in the paper the whole model does.

    Args:
        net: Makes the difficulties.
        accuracy: A, shape (C,).
        classifier: From features (N, F) to scores (N, C). Its parameters get no gradient.
        inner: Features (B, F) and labels (B,) of a batch.
        outer: Features (M, F) and labels (M,) of a balanced batch.
        inner_lr: Length of the step.
        driver_weight: λ, of :func:`driver_loss`.

    Returns:
        The loss, and the parameters of the classifier after the step.
    """
    difficulty, label = net(accuracy), inner[1]
    weight = weights_of_difficulties(difficulty)[label] / len(label)
    none = torch.zeros_like(difficulty)
    after = inner_step(classifier, inner, weight, log_counts=none, inner_lr=inner_lr)
    features, labels = outer
    loss = F.cross_entropy(stepped_scores(classifier, after, features), labels)
    return loss + driver_weight * driver_loss(difficulty, accuracy), after


class DifficultyNetLoss(AdjustedCrossEntropyLoss):
    """Cross-entropy with the class weights of a :class:`DifficultyNet`, which a hook trains.

    The published figures come from code that differs: the gradient of the meta loss does not reach
    the network there, and with its Balanced Softmax no image is weighed by its class. Here the
    paper is followed.

    Args:
        class_prior: Names the classes; their counts have no say.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_difficulty'``.
    """

    def __init__(self, class_prior: PriorLike, **kwargs: Any) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_difficulty', **kwargs})

    @torch.no_grad()
    def set_difficulty(self, difficulty: Tensor) -> None:
        """Take the difficulties of the classes, (C,)."""
        self.class_weight.copy_(weights_of_difficulties(difficulty))
