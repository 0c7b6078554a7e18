"""The softmax form of the equalization loss."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike
from .adjusted import AdjustedCrossEntropyLoss, along_classes
from .tail import tail_classes


class SoftmaxEQLLoss(AdjustedCrossEntropyLoss):
    r"""Cross-entropy over a softmax that rare classes are left out of with probability γ.

    The label is in it always; each class of each element is left out or not by itself. Source: Tan
    et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, equation 7.

    Args:
        class_prior: Image counts of the training data: anything that ``ClassPrior.build`` takes.
        gamma: γ. Default: 0.9.
        lambda_: Share of the images below which a class is rare, strictly. Default: 1.76e-3.
        num_images: Of the training data, see :func:`tail_classes`.
        background: Whether there is a score of a background, the last. Default: False.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_softmax_eql'``.
    """

    tail: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        gamma: float = 0.9,
        lambda_: float = 1.76e-3,
        num_images: Optional[float] = None,
        *,
        background: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs = {'loss_name': 'loss_softmax_eql', **kwargs}
        super().__init__(class_prior, background=background, **kwargs)
        self.gamma = gamma
        tail = tail_classes(self.class_prior, lambda_, num_images)
        self.register_buffer('tail', F.pad(tail, (0, int(background))), persistent=False)

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, -∞ of what is left out."""
        left_out = (torch.rand_like(pred) <= self.gamma) & along_classes(self.tail, pred).bool()
        own = torch.zeros_like(left_out).scatter(1, label.unsqueeze(1), True)
        return pred.masked_fill(left_out & ~own, -torch.inf)
