"""A library's own classification loss, with weights for its classes: GRW inside any of them."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from ..calibration import mix_in

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
        counted = {name: b.clone() for name, b in self.named_buffers() if name != 'grw_weight'}
        weight = own if weight is None else weight * own
        loss = super().forward(scores, labels, weight, *args, **kw)
        for name, before in counted.items():  # what Seesaw counts is of stage 1, and stays
            self.get_buffer(name).copy_(before)
        return loss


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
        at, columns = self._positive_terms(pred, target, kwargs)
        if not len(columns):
            return loss
        term_target = _of_one_column(pred, target, at, is_one='pos_inds' in kwargs)
        term = super().forward(pred[at][:, None], term_target, reduction_override='none')
        extra = (self.grw_weight.to(loss.dtype)[columns] - 1) * term.reshape(-1)
        if weight is not None:
            of_terms = weight[at] if weight.shape == pred.shape else weight[at[:-1]]
            extra = extra * of_terms.reshape(-1)
        if reduction == 'none':
            return loss.index_put(at if loss.shape == pred.shape else at[:-1], extra, True)
        if reduction == 'sum':
            return loss + extra.sum()
        if avg_factor is None:  # a loss that sums over classes takes the mean over elements
            avg_factor = pred.numel() if term.dim() == 2 else len(pred)
        return loss + extra.sum() / (avg_factor + torch.finfo(torch.float32).eps)

    def _positive_terms(
        self, pred: Tensor, target: Target, options: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Indices of the positive terms in the scores, each (P,), and their classes (P,)."""
        if options.get('pos_inds') is not None:  # CenterNet's: the target is a map of negatives
            return (options['pos_inds'], options['pos_labels']), options['pos_labels']
        if isinstance(target, tuple) or target.dim() < pred.dim():
            labels = target[0] if isinstance(target, tuple) else target
            rows = torch.where((labels >= 0) & (labels < pred.shape[-1]))
            return (*rows, labels[rows]), labels[rows]
        # A Gaussian's peak alone is an object; elsewhere a target above 0 is its quality.
        peaks = hasattr(self, 'pos_weight') and not hasattr(self, 'use_sigmoid')
        at = torch.where(target.eq(1) if peaks else target > 0)
        return at, at[1] if peaks else at[-1]


def _of_one_column(pred: Tensor, target: Target, at: tuple[Tensor, ...], is_one: bool) -> Target:
    """Target of the positive terms, as of a loss of one class."""
    if is_one:
        return torch.ones_like(pred[at][:, None])
    if isinstance(target, tuple):
        return torch.zeros_like(at[-1]), target[1][at[:-1]]
    return torch.zeros_like(at[-1]) if target.dim() < pred.dim() else target[at][:, None]


def reweight_loss(loss: nn.Module, class_weight: Tensor, *, on_sigmoids: bool) -> None:
    """Give a classification loss the weights of GRW, in place; its state dict stays as it is.

    Args:
        loss: Called as mmdet's are: ``loss(scores, target, weight, avg_factor=...)``.
        class_weight: w, shape (C,).
        on_sigmoids: Whether its terms are each class's own; else each element has one label.
    """
    mixin = ReweightedPositivesMixin if on_sigmoids else ReweightedRowsMixin
    mix_in(loss, mixin, 'Reweighted')
    loss.register_buffer('grw_weight', class_weight, persistent=False)
