"""Class-wise difficulty-balanced loss."""

from __future__ import annotations

from typing import Any, Union

from torch import Tensor

from ..calibration import PriorLike
from .adjusted import AdjustedCrossEntropyLoss
from .difficulty import DYNAMIC, checked_tau, difficulty_weights


class CDBLoss(AdjustedCrossEntropyLoss):
    """Cross-entropy weighed by :func:`difficulty_weights`; a hook says how accurate classes are.

    Until it does, all weights are 1. They are not in checkpoints: the hook's state is.

    Args:
        class_prior: Names the classes; their counts have no say.
        tau: τ, or ``'dynamic'``. Default: ``'dynamic'``.
        least: What a difficulty is at least. Default: 0.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_cdb'``.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        tau: Union[float, str] = DYNAMIC,
        least: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_cdb', **kwargs})
        self.tau, self.least = checked_tau(tau), least

    def set_accuracy(self, accuracy: Tensor) -> None:
        """Take the accuracies of the classes, in [0, 1], (C,)."""
        own = difficulty_weights(accuracy.double(), self.tau, self.least)
        self.class_weight.copy_(own)
