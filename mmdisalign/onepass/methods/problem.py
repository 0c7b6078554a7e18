"""What a method is fitted to: samples, and what is known of their classifier and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...calibration import ClassPrior, ZeroCount, generalized_reweight
from ..fitted_loss import FittedLoss
from ..fitting import ElementLosses, Fit, Samples, fit_calibration, normalizer_of

Layer = TypeVar('Layer', bound=nn.Module)
Scores = TypeVar('Scores', bound=nn.Module)


@dataclass
class Problem:
    """Samples of what a classifier saw, and what is known of it.

    Attributes:
        samples: Of the training data, or of what else is fitted to.
        loss: What DisAlign's calibration of the classifier minimises.
        chosen: Which samples count, (n,). Default: None, all.
        weight: Of the classifier, shape (A, F), A the scores of a sample: the classes', and behind
            them a background's; or that of a kernel. Default: None, it is not linear or not known.
        bias: Of the classifier, shape (A,). Default: None, it has none.
        layer: The classifier itself, for methods that are of one kind alone, see
            :meth:`own_layer`. Default: None, it is not known.
        per_valid: Elements, ignored ones included, for each that samples stand for.
        zero_count: How to weigh classes that were never seen.
        weight_decay: Of what is learned.
        seed: Of what starts at random.
        progress: Called after each evaluation of a loss with its number and the loss.
        start: Where a fit begins, of what it is fitted to alike. Default: None, untouched.
        fits: What the fits of the last method came to.
    """

    samples: Samples
    loss: FittedLoss
    chosen: Optional[np.ndarray] = None
    weight: Optional[Tensor] = None
    bias: Optional[Tensor] = None
    layer: Optional[nn.Module] = None
    per_valid: float = 1.0
    zero_count: ZeroCount = None
    weight_decay: float = 0.0
    seed: int = 0
    progress: Optional[Callable[[int, float], None]] = None
    start: Optional[nn.Module] = None
    fits: list[Fit] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.chosen is None:
            self.chosen = np.arange(len(self.samples))

    @property
    def prior(self) -> ClassPrior:
        """Of the training data."""
        return self.loss.class_prior

    @property
    def num_classes(self) -> int:
        """C, without a background."""
        return len(self.prior)

    @property
    def num_scores(self) -> int:
        """A: C, or C + 1 with a background or no object."""
        return len(self.loss.class_weight)

    @property
    def in_channels(self) -> int:
        """F."""
        return self.samples.features.shape[2]

    @property
    def has_background(self) -> bool:
        """Whether a score of a background is compared with those of the classes."""
        return self.num_scores > self.num_classes

    def refuse(self, method: str, reason: str) -> ValueError:
        """The error that says why a method has no meaning here."""
        return ValueError(f'{method} cannot be fitted: {reason}')

    def softmax_only(self, method: str) -> None:
        """Raise ValueError if the classifier's scores are each on a sigmoid of its own."""
        if self.loss.on_sigmoids:
            raise self.refuse(method, 'it is for scores on a softmax, and these are on sigmoids')
        if self.loss.follows:
            raise self.refuse(
                method,
                'it is for scores on one softmax, and these are of classes and of objects',
            )

    def unscaled(self, method: str) -> None:
        """Raise ValueError if the scores are multiplied before they are compared (IIF)."""
        if hasattr(self.loss, 'factors'):
            raise self.refuse(method, 'the scores are multiplied by inverse frequencies already')

    def no_background(self, method: str, reason: str) -> None:
        """Raise ValueError if there is a score of a background."""
        if self.has_background:
            raise self.refuse(method, reason)

    def classifier(self, method: str) -> tuple[Tensor, Optional[Tensor]]:
        """Weight (A, F) and bias (A,) of the classifier.

        Raises:
            ValueError: If it is not linear in the features of a sample.
        """
        if self.weight is None:
            raise self.refuse(
                method, 'it changes the weights of a linear classifier, and this is none'
            )
        weight = self.weight.detach().flatten(1).float()
        if weight.shape[1] != self.in_channels:
            raise self.refuse(
                method, 'the classifier sees more than the features of a position: it has a kernel'
            )
        return weight, None if self.bias is None else self.bias.detach().float()

    def own_layer(self, method: str, kind: type[Layer]) -> Layer:
        """The classifier itself; ValueError if it is not of the kind that a method is for."""
        if not isinstance(self.layer, kind):
            raise self.refuse(method, f'the classifier is not a {kind.__name__}')
        return self.layer

    def class_weight(self, exp_scale: float) -> Tensor:
        """GRW's weights with an exponent ρ, shape (A,): 0 weighs all alike, 1 balances classes."""
        own = generalized_reweight(self.prior, exp_scale, zero_count=self.zero_count)
        return torch.cat([own, self.loss.class_weight[self.num_classes :].cpu()])

    def minimise(
        self,
        scores: Scores,
        class_weight: Tensor,
        *,
        element_losses: Optional[ElementLosses] = None,
        weight_decay: Optional[float] = None,
    ) -> Scores:
        """Fit what makes scores, in place, to the mean loss of the samples; returns it.

        Args:
            scores: Has ``num_classes``, and learns what requires a gradient.
            class_weight: w, shape (A,).
            element_losses: Default: None, that of DisAlign's loss.
            weight_decay: Default: None, the problem's.
        """
        if type(self.start) is type(scores):
            scores.load_state_dict(self.start.state_dict())
        total = normalizer_of(
            self.loss.normalizer,
            self.samples,
            self.chosen,
            class_weight,
            self.per_valid,
            self.num_classes,
        )
        own = element_losses is None
        found = fit_calibration(
            scores,
            self.samples.of(scores),
            self.chosen,
            class_weight,
            total,
            element_losses=self.loss.element_losses if own else element_losses,
            counted=self.loss.counted if own else None,
            follows=self.loss.follows and own,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
            progress=self.progress,
        )
        self.fits.append(found)
        return scores.requires_grad_(False)
