"""Binary classification of each class by itself: what losses of that family have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Call, ClassLoss
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


class BinaryClassLoss(ClassLoss):
    r"""Weighted binary cross-entropy of each class.

    .. math:: \sum_c w_c \bigl(-y_c \log p_c - (1 - y_c) \log (1 - p_c)\bigr)

    A subclass says what w is, in :meth:`class_weights`, and no more. Labels 0 to C - 1 are classes,
    C is the background, all others are ignored.

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

    sigmoid_only = False

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
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        if self.sigmoid_only and link != 'sigmoid':
            raise ValueError(f'{type(self).__name__} is of sigmoids alone, got link={link!r}')
        self.num_classes = num_classes
        self.link = link_named(link)
        self.num_scores = num_classes + background
        self.initial_bias = None
        if initial_probability is not None:
            self.initial_bias = self.link.score(initial_probability)

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """w of scores (N, A), of a shape that broadcasts to theirs."""
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

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The losses of all scores, reduced; of the reduction ``'none'`` (N, A)."""
        if pred.dim() != 2 or pred.shape[1] != self.num_scores:
            raise ValueError(
                f'{type(self).__name__} of {self.num_classes} classes is of scores '
                f'(N, {self.num_scores}), got {tuple(pred.shape)}'
            )
        label, count = call.label, self._count(len(call.label))
        valid = call.valid(self.num_classes)
        weight = call.weights(valid, pred.dtype)
        classes = F.one_hot(label.where(valid, self.num_classes), self.num_classes + 1)
        target = self.targets(pred, classes[:, : self.num_scores].to(pred.dtype), weight > 0)
        scale = self.loss_weight / call.divisor(pred.dtype, count)
        losses = self.element_losses(pred, Rows(target, weight, scale, self.num_classes))
        return call.reduced(losses * weight[:, None], count)

    def _count(self, elements: int) -> int:
        """What the mean over so many elements divides by."""
        return elements

    def extra_repr(self) -> str:
        return f'{self.num_classes} classes, {type(self.link).__name__.lower()}'


def starting_low(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a loss in whose head classes begin as improbable as its link has it."""
    return {'initial_probability': link_named(options.get('link', 'sigmoid')).initial, **options}
