"""Cross-entropy of scores that the class frequencies have changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import torch
from torch import Tensor

from ..calibration import PriorLike
from .base import Call, PriorLoss
from .cross_entropy import checked_normalizer, weighted_cross_entropy


class AdjustedCrossEntropyLoss(PriorLoss):
    """Cross-entropy of what :meth:`adjusted` makes of the scores: a subclass says what that is.

    Labels may be shares t of the classes, shape (N, C), as mixed images have them: an image is then
    an element of each class c with t_c > 0, of weight t_c. Of one-hot labels that is the loss of
    the class indices; of the reduction ``'none'``, it is that of each share that is not 0.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        background: Whether the last score is that of a background. Default: False.
        class_weight: Of the loss of each label, shape (A,). Default: None, 1.
        normalizer: What the mean divides by, see :func:`weighted_cross_entropy`. Default:
            ``'elements'``.
        kwargs: Arguments of :class:`PriorLoss`.
    """

    class_weight: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        background: bool = False,
        class_weight: Optional[Tensor] = None,
        normalizer: str = 'elements',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **kwargs)
        self.normalizer = checked_normalizer(normalizer)
        if class_weight is None:
            class_weight = torch.ones(self.num_classes + background)
        # Not persistent, as all that a config says: a checkpoint of another loss has no such key.
        self.register_buffer('class_weight', class_weight, persistent=False)

    @property
    def num_scores(self) -> int:
        """A, scores of an element."""
        return len(self.class_weight)

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores (N, A, *) whose cross-entropy it is, of those of the model.

        Args:
            pred: In float32 at least.
            label: Shape (N, *), 0 where it is ignored.
        """
        return pred

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The weighted cross-entropy, see :func:`weighted_cross_entropy`."""
        self._check_scores(pred)
        if call.label.dim() == pred.dim():
            pred, call = _as_elements(pred, call)
        return weighted_cross_entropy(
            self.adjusted(pred, call.label.where(call.label != call.ignore_index, 0)),
            call.label,
            self.class_weight,
            weight=call.weight,
            ignore_index=call.ignore_index,
            reduction=call.reduction,
            avg_factor=call.avg_factor,
            normalizer=self.normalizer,
        )

    def extra_repr(self) -> str:
        return f'{self.num_classes} classes, normalizer={self.normalizer}'


def _as_elements(pred: Tensor, call: Call) -> tuple[Tensor, Call]:
    """Scores and labels of each class that an image has a share of, of shares (N, C)."""
    rows, columns = call.label.nonzero(as_tuple=True)
    shares = call.label[rows, columns].to(pred.dtype)
    weight = shares if call.weight is None else shares * call.weight[rows]
    avg_factor = len(pred) if call.avg_factor is None else call.avg_factor
    return pred[rows], replace(call, label=columns, weight=weight, avg_factor=avg_factor)


def along_classes(values: Tensor, scores: Tensor) -> Tensor:
    """Values (A,) in the shape and the dtype in which they meet scores (N, A, *)."""
    return values.to(scores.dtype).view(1, -1, *(1,) * (scores.dim() - 2))
