"""How all losses are called, and what those have in common that know the class frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike

REDUCTIONS = ('none', 'mean', 'sum')


@dataclass(frozen=True)
class Call:
    """What a loss is called with, beside the scores.

    Attributes:
        label: Class indices, shape (N, *), int64.
        weight: Of each element, shape (N, *), or None.
        avg_factor: What the mean divides by, or None.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        ignore_index: The label that has no loss, or None.
    """

    label: Tensor
    weight: Optional[Tensor]
    avg_factor: Optional[float]
    reduction: str
    ignore_index: Optional[int]

    def valid(self, num_classes: int) -> Tensor:
        """Which labels are of a class or, the label C, of the background; shape (N, *)."""
        valid = (self.label >= 0) & (self.label <= num_classes)
        return valid if self.ignore_index is None else valid & (self.label != self.ignore_index)

    def weights(self, valid: Tensor, dtype: torch.dtype) -> Tensor:
        """Of the elements, shape (N,), 0 of those that are not valid."""
        return valid.to(dtype) if self.weight is None else valid * self.weight.to(dtype)

    def divisor(self, dtype: torch.dtype, count: Optional[int] = None) -> float:
        """What the sum is divided by: ``avg_factor``, or a count, by default N; else 1."""
        if self.reduction != 'mean':
            return 1.0
        count = len(self.label) if count is None else count
        return max(count if self.avg_factor is None else self.avg_factor, torch.finfo(dtype).eps)

    def reduced(self, losses: Tensor, count: Optional[int] = None) -> Tensor:
        """Losses, their first dimension N, or their sum or mean; see :meth:`divisor`."""
        if self.reduction == 'none':
            return losses
        return losses.sum() / self.divisor(losses.dtype, count)


class ClassLoss(nn.Module):
    """A loss on class scores, called as OpenMMLab's are; computed in float32 under autocast.

    A subclass says what it is, in :meth:`compute`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. Default: ``'mean'``.
        loss_weight: Factor of the loss. Default: 1.0.
    """

    ignore_index: Optional[int] = None

    def __init__(self, *, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = checked_reduction(reduction)
        self.loss_weight = loss_weight

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The loss without its factor, of scores in float32 at least."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
        ignore_index: Optional[int] = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred: Class scores, shape (N, A) or (N, A, *), see the class.
            label: Class indices, shape (N, *), int64.
            weight: Of each element, shape (N, *).
            avg_factor: What the mean divides by, where the loss divides by a number of elements.
                Default: None, their number.
            reduction_override: In the place of ``reduction``.
            ignore_index: In the place of the loss's own.
        """
        reduction = checked_reduction(reduction_override or self.reduction)
        ignored = self.ignore_index if ignore_index is None else ignore_index
        pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
        with torch.autocast(pred.device.type, enabled=False):  # of products of matrices
            return self.loss_weight * self.compute(
                pred, Call(label, weight, avg_factor, reduction, ignored)
            )

    def counts(self, scores: Tensor) -> bool:
        """Whether a call is one of training, whose elements count in what a loss remembers.

        Samplers and assigners ask for losses, too, without a gradient and each process as often as
        it likes; and what is frozen remembers what it was.
        """
        return self.training and scores.requires_grad


class PriorLoss(ClassLoss):
    """A loss on class scores that is built from a class prior.

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
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        self.class_prior = ClassPrior.build(class_prior)
        self.num_classes = len(self.class_prior)
        self.ignore_index = ignore_index
        if ignore_index is None:
            self.ignore_index = 255 if self.num_classes <= 255 else -100
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name of the loss in the log."""
        return self._loss_name

    @property
    def num_scores(self) -> int:
        """A, scores of an element: C, or more with a background's."""
        return self.num_classes

    def _check_scores(self, pred: Tensor) -> None:
        if pred.shape[1] != self.num_scores:
            background = ' and background' if self.num_scores > self.num_classes else ''
            raise ValueError(
                f'the class prior has {self.num_classes} classes{background}, but the scores have '
                f'{pred.shape[1]}: {tuple(pred.shape)}'
            )


def checked_reduction(reduction: str) -> str:
    """The reduction, or ValueError if there is none of that name."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
    return reduction
