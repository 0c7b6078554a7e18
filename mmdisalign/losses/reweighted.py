"""A library's own classification loss, with weights for its classes: GRW inside any of them."""

from __future__ import annotations

from functools import cache
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

# Labels, labels with the quality of the positive ones, or a map of a target for each score.
Target = Union[Tensor, tuple[Tensor, Tensor]]


class ReweightedRowsMixin:
    """Weighs each element of a softmax loss by its class; mixed in before the loss's class.

    The weight of an element, which has one label, is multiplied by w of that label, and 1 for
    labels from C on, a background. What the loss is divided by stays: the library's ``avg_factor``.
    """

    grw_weight: Tensor

    def forward(
        self, scores: Tensor, labels: Tensor, weight: Optional[Tensor] = None, *args: Any, **kw: Any
    ) -> Any:
        """As of the loss's own forward."""
        own = torch.cat([self.grw_weight, self.grw_weight.new_ones(1)]).to(scores.dtype)
        own = own[labels.clamp(min=0, max=len(self.grw_weight))]
        return super().forward(scores, labels, own if weight is None else weight * own, *args, **kw)


class ReweightedPositivesMixin:
    r"""Weighs the positive terms of a sigmoid loss by their class; mixed in before its class.

    A loss on sigmoids is a sum over elements and classes. Its term for class c of an element that
    is of class c is multiplied by w_c; all other terms are as they were:

    .. math:: \sum_n \Big( \sum_c \ell_{nc} + (w_{y_n} - 1)\, \ell_{n y_n} \Big)

    where the last sum is the loss's own, of one column. So it is GRW for any loss whose terms do
    not see each other: focal, quality focal, varifocal, Gaussian focal, binary cross-entropy.

    This form is ours: the paper has softmax cross-entropy alone. AP per class is unmoved by a
    monotone map of that class's scores, so what α and β can change in a sigmoid detector is the
    choice between classes: NMS across classes, the cut at so many detections, recall at a
    threshold; only σ(x) can reorder detections of one class.
    """

    grw_weight: Tensor

    def forward(
        self,
        pred: Tensor,
        target: Target,
        weight: Optional[Tensor] = None,
        avg_factor: Any = None,
        reduction_override: Optional[str] = None,
        **kwargs: Any,
    ) -> Tensor:
        """As of the loss's own forward."""
        options = {'avg_factor': avg_factor, 'reduction_override': reduction_override}
        loss = super().forward(pred, target, weight=weight, **options, **kwargs)
        reduction = reduction_override or self.reduction
        if reduction == 'none' and not torch.is_grad_enabled():
            return loss  # of an assignment, which stays the library's
        rows, columns = self._positives(pred, target, kwargs)
        if not len(rows):
            return loss
        if reduction == 'mean' and avg_factor is None:
            options['avg_factor'] = _terms(pred, target)
        scores = pred.movedim(1, -1)[(*rows.unbind(1), columns)][:, None]
        own = (self.grw_weight.to(scores.dtype) - 1)[columns]
        if weight is not None:
            given = weight.movedim(1, -1) if weight.dim() == pred.dim() > 1 else weight
            at = (*rows.unbind(1), columns) if weight.shape == pred.shape else (*rows.unbind(1),)
            own = own * given[at].reshape(len(rows), -1)[:, 0]
        if 'pos_inds' in kwargs:
            own_target, own = torch.ones_like(scores), own[:, None]
        else:
            own_target, own = _of_one_column(pred, target, rows, columns, own)
        extra = super().forward(scores, own_target, weight=own, **options)
        if reduction != 'none':
            return loss + extra
        if loss.dim() == 1:
            return loss.index_add(0, rows[:, 0], extra.reshape(-1).to(loss))
        at = (*rows.unbind(1), columns)
        return loss.index_put(at, extra.reshape(-1).to(loss), accumulate=True)

    def _positives(self, pred: Tensor, target: Target, options: dict) -> tuple[Tensor, Tensor]:
        """Where the positive terms are: positions (P, D) without the classes, and classes (P,)."""
        if options.get('pos_inds') is not None:  # CenterNet's: the target is a map of negatives
            return options['pos_inds'][:, None], options['pos_labels']
        if isinstance(target, tuple) or target.dim() < pred.dim():
            labels = target[0] if isinstance(target, tuple) else target
            rows = ((labels >= 0) & (labels < pred.shape[1])).nonzero()
            return rows, labels[(*rows.unbind(1),)]
        # A Gaussian's peak alone is an object; elsewhere a target above 0 is its quality.
        peak = hasattr(self, 'pos_weight') and not getattr(self, 'use_sigmoid', False)
        where = (target.eq(1) if peak else target > 0).movedim(1, -1).nonzero()
        return where[:, :-1], where[:, -1]


def _of_one_column(
    pred: Tensor, target: Target, rows: Tensor, columns: Tensor, weight: Tensor
) -> tuple[Target, Tensor]:
    """Target (P,) or (P, 1) and weight of the positive terms, as losses of one class."""
    label = torch.zeros_like(columns)
    if isinstance(target, tuple):
        return (label, target[1][(*rows.unbind(1),)]), weight
    if target.dim() < pred.dim():
        return label, weight
    return target.movedim(1, -1)[(*rows.unbind(1), columns)][:, None], weight[:, None]


def _terms(pred: Tensor, target: Target) -> int:
    """Of how many terms a loss takes the mean, where it is not told."""
    return len(pred) if isinstance(target, tuple) else pred.numel()


@cache
def _reweighted_class(loss: type, mixin: type) -> type:
    doc = f'``{loss.__name__}`` with weights for its classes; see :class:`{mixin.__name__}`.'
    body = {'__doc__': doc, '__module__': __name__}
    return type(f'Reweighted{loss.__name__}', (mixin, loss), body)


def reweight_loss(loss: nn.Module, class_weight: Tensor, *, on_sigmoids: bool) -> None:
    """Give a classification loss the weights of GRW, in place; its state dict stays as it is.

    Args:
        loss: Called as mmdet's are: ``loss(scores, target, weight, avg_factor=...)``.
        class_weight: w, shape (C,).
        on_sigmoids: Whether its terms are each class's own; else each element has one label.
    """
    mixin = ReweightedPositivesMixin if on_sigmoids else ReweightedRowsMixin
    loss.__class__ = _reweighted_class(type(loss), mixin)
    loss.register_buffer('grw_weight', class_weight, persistent=False)
