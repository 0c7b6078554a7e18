"""Binary classification of each class by itself: what losses of that family have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import checked_reduction
from .links import link_named


@dataclass(frozen=True)
class Rows:
    """What the scores of N elements should have said.

    Attributes:
        target: Of each score, shape (N, A), in [0, 1].
        weight: Of each element, shape (N,); 0 of those that are ignored.
        scale: What the sum of all losses is multiplied by.
        num_classes: C, the first C of the A scores.
    """

    target: Tensor
    weight: Tensor
    scale: float
    num_classes: int

    @property
    def counted(self) -> Tensor:
        """Which elements have a weight, shape (N,)."""
        return self.weight > 0

    @property
    def is_object(self) -> Tensor:
        """Which are of a class, not of the background, shape (N,)."""
        return self.target[:, : self.num_classes].sum(dim=1) > 0


class BinaryClassLoss(nn.Module):
    r"""Weighted binary cross-entropy of each class; called as OpenMMLab's losses are.

    .. math:: \sum_c w_c \bigl(-y_c \log p_c - (1 - y_c) \log (1 - p_c)\bigr)

    A subclass says what w is, in :meth:`class_weights`, and no more. Labels 0 to C - 1 are classes,
    C is the background, all others are ignored. Computed in float32 under autocast.

    Args:
        num_classes: Number of classes C.
        link: What makes a probability p of a score, ``'sigmoid'`` or ``'gumbel'``.
            Default: ``'sigmoid'``.
        background: Whether the background has a score of its own, behind the classes'.
            Default: False, it is where no class is.
        reduction: ``'none'``, of each element, ``'mean'`` or ``'sum'``. The mean is the sum divided
            by ``avg_factor`` or, without one, by the number of elements N. Default: ``'mean'``.
        loss_weight: Factor of the loss. Default: 1.0.
        initial_probability: Of each class, where training begins: the bias of the layer that makes
            the scores. Default: None, that layer's own.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        link: str = 'sigmoid',
        background: bool = False,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        initial_probability: Optional[float] = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.link = link_named(link)
        self.num_scores = num_classes + background
        self.reduction = checked_reduction(reduction)
        self.loss_weight = loss_weight
        self.initial_bias = None
        if initial_probability is not None:
            self.initial_bias = self.link.score(initial_probability)

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """w of scores (N, A), without a gradient; of a shape that broadcasts to theirs."""
        return torch.ones_like(scores)

    def element_losses(self, scores: Tensor, rows: Rows) -> Tensor:
        """The loss of each score, (N, A)."""
        return self.class_weights(scores, rows) * self.link.losses(scores, rows.target)

    def targets(self, scores: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """What one-hot targets (N, A) become, of the elements that count, (N,)."""
        return target

    def probabilities(self, pred: Tensor) -> Tensor:
        """Probabilities (N, C + 1) of scores (N, A), the background's last: 0 without a score."""
        found = self.link.probability(pred.to(torch.promote_types(pred.dtype, torch.float32)))
        return F.pad(found, (0, self.num_classes + 1 - self.num_scores))

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
            pred: Scores, shape (N, A): C, or C + 1 with the background's.
            label: Class indices, shape (N,), int64; C is the background.
            weight: Of each element, shape (N,).
            avg_factor: What the mean divides by. Default: None, N.
            reduction_override: In the place of ``reduction``.
            ignore_index: One more label that is ignored.
        """
        if pred.dim() != 2 or pred.shape[1] != self.num_scores:
            raise ValueError(
                f'{type(self).__name__} of {self.num_classes} classes is of scores '
                f'(N, {self.num_scores}), got {tuple(pred.shape)}'
            )
        reduction = checked_reduction(reduction_override or self.reduction)
        scores = pred.to(torch.promote_types(pred.dtype, torch.float32))
        valid = (label >= 0) & (label <= self.num_classes)
        if ignore_index is not None:
            valid &= label != ignore_index
        counted = valid.to(scores.dtype) if weight is None else valid * weight.to(scores.dtype)
        classes = F.one_hot(label.where(valid, self.num_classes), self.num_classes + 1)
        target = classes[:, : self.num_scores].to(scores.dtype)
        target = self.targets(scores, target, counted > 0)
        scale = self.loss_weight
        if reduction == 'mean':
            count = self._count(len(label)) if avg_factor is None else avg_factor
            scale = scale / max(count, torch.finfo(scores.dtype).eps)
        rows = Rows(target, counted, scale, self.num_classes)
        losses = self.element_losses(scores, rows).sum(dim=1) * counted
        return scale * (losses if reduction == 'none' else losses.sum())

    def _count(self, elements: int) -> int:
        """What the mean over so many elements divides by."""
        return elements

    def extra_repr(self) -> str:
        return f'{self.num_classes} classes, {type(self.link).__name__.lower()}'


def starting_low(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a loss in whose head classes begin as improbable as its link has it."""
    return {'initial_probability': link_named(options.get('link', 'sigmoid')).initial, **options}
