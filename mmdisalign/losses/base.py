"""What losses that know the class frequencies have in common."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike

REDUCTIONS = ('none', 'mean', 'sum')


class PriorLoss(nn.Module):
    """A loss on class scores that is built from a class prior; called as OpenMMLab's losses are.

    A subclass implements ``forward(pred, label, weight, avg_factor, reduction_override,
    ignore_index)``.

    Args:
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes.
        loss_name: Name in the log; it must begin with ``loss_`` to be trained.
        ignore_index: The label that has no loss, where the caller does not say. Default: None,
            255 if there are at most 255 classes, as 8-bit label maps use it, else -100.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. Default: ``'mean'``.
        loss_weight: Factor of the loss. Default: 1.0.

    Attributes:
        class_prior: The prior.
        num_classes: Its number of classes C.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        loss_name: str,
        ignore_index: Optional[int] = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.class_prior = ClassPrior.build(class_prior)
        self.num_classes = len(self.class_prior)
        self.ignore_index = ignore_index
        if ignore_index is None:
            self.ignore_index = 255 if self.num_classes <= 255 else -100
        self.reduction = checked_reduction(reduction)
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name of the loss in the log."""
        return self._loss_name

    def _check_scores(self, pred: Tensor, num_scores: int) -> None:
        if pred.shape[1] != num_scores:
            background = ' and background' if num_scores > self.num_classes else ''
            raise ValueError(
                f'the class prior has {self.num_classes} classes{background}, but the scores have '
                f'{pred.shape[1]}: {tuple(pred.shape)}'
            )

    def _call_options(
        self, reduction_override: Optional[str], ignore_index: Optional[int]
    ) -> dict[str, object]:
        """``reduction`` and ``ignore_index`` of one call."""
        return {
            'reduction': checked_reduction(reduction_override or self.reduction),
            'ignore_index': self.ignore_index if ignore_index is None else ignore_index,
        }


def checked_reduction(reduction: str) -> str:
    """The reduction, or ValueError if there is none of that name."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
    return reduction
