"""The loss of stage 2 as one pass fits to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

import numpy as np
from torch import Tensor

from ..calibration import ClassPrior
from ..losses import GRWCrossEntropyLoss
from .fitting import Counted, Samples, softmax_losses


@dataclass
class FittedLoss:
    """A loss that is a weighted mean over elements; GRW cross-entropy unless a subclass says else.

    Attributes:
        class_prior: Of the classes.
        exp_scale: ρ.
        class_weight: w of the classes, and of a background or no object if it is compared with
            them, shape (C,) or (C + 1,).
        normalizer: What the mean divides by, see :func:`normalizer_of`.
        counted: How much of each element counts, where the loss chooses the hardest.
        follows: Whether weights of the loss follow the scores, see :func:`fit_calibration`.
        several: Whether an element may be of several classes.
    """

    class_prior: ClassPrior
    exp_scale: float
    class_weight: Tensor
    normalizer: str

    counted: ClassVar[Optional[Counted]] = None
    follows: ClassVar[bool] = False
    several: ClassVar[bool] = False

    @classmethod
    def of(cls, loss: GRWCrossEntropyLoss) -> FittedLoss:
        """That of a loss that is one of elements already."""
        return cls(loss.class_prior, loss.exp_scale, loss.class_weight, loss.normalizer)

    @property
    def on_sigmoids(self) -> bool:
        """Whether the scores of an element are each on a sigmoid, and so not compared."""
        return self.normalizer in ('positives', 'qualities')

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_prior)

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each element, (n,), see :class:`ElementLosses`."""
        return softmax_losses(self.class_scores(scores), label, quality, class_weight)

    def class_scores(self, scores: Tensor) -> Tensor:
        """Of scores and what passes beside them, those that are compared, (n, C) or (n, C + 1)."""
        return scores[:, : len(self.class_weight)]

    def seen(self, samples: Samples) -> np.ndarray:
        """How many samples there are of each class, (C,)."""
        return np.bincount(samples.label, minlength=self.num_classes)[: self.num_classes]
