"""Class-balanced loss: classes weighed by their effective number of samples."""

from __future__ import annotations

from typing import Any

from ..calibration import ClassPrior, PriorLike, ZeroCount, effective_number_weights
from .adjusted import AdjustedCrossEntropyLoss


class ClassBalancedLoss(AdjustedCrossEntropyLoss):
    """Cross-entropy weighed by :func:`effective_number_weights`.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        beta: β. Default: 0.9999.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is
            ``'loss_class_balanced'``.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        beta: float = 0.9999,
        *,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        prior = ClassPrior.build(class_prior)
        weight = effective_number_weights(prior, beta, zero_count=zero_count)
        kwargs = {'loss_name': 'loss_class_balanced', **kwargs}
        super().__init__(prior, class_weight=weight, **kwargs)
