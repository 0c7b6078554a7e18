"""Gumbel optimized loss: binary cross-entropy of Gumbel probabilities."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Call
from .binary import BinaryClassLoss, starting_low

MOST = 20.0


class GumbelLoss(BinaryClassLoss):
    """Binary cross-entropy of Gumbel probabilities of the classes and of the background.

    Source: Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss",
    ECCV 2022; its forms with the weights of EQL or DropLoss, which it was released with, are theirs
    with ``link='gumbel'``. The whole loss is at most 20, and then has no gradient, as released.
    Without ``avg_factor``, the mean is over all scores.

    Args:
        num_classes: Number of classes C.
        kwargs: Of :class:`BinaryClassLoss`, see :func:`starting_low`.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        kwargs = starting_low({**kwargs, 'link': 'gumbel'})
        super().__init__(num_classes, background=True, **kwargs)

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The loss, at most 20."""
        return super().compute(pred, call).clamp(max=MOST)

    def _count(self, elements: int) -> int:
        return elements * self.num_scores
