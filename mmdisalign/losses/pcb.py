"""Cross-entropy with pairwise class balance."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import Call, ClassLoss
from .pairwise_balance import PairwiseBalance


class PCBLoss(ClassLoss):
    r"""Of objects :math:`(1 - \alpha) \mathrm{CE} + \alpha\, \mathrm{KL}(t \| p)`, else CE.

    t is the soft target of :class:`PairwiseBalance`. The released code divides the second term by
    the number of elements and does not weigh them; here it is as the first.

    Args:
        num_classes: Number of classes C; the background has a score, the last.
        alpha: α. Default: 0.4, as released.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. Default: ``'mean'``.
        loss_weight: Factor of the loss. Default: 1.0.
        kwargs: Arguments of :class:`PairwiseBalance`.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.4,
        *,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(reduction=reduction, loss_weight=loss_weight)
        self.num_classes, self.num_scores = num_classes, num_classes + 1
        self.balance = PairwiseBalance(num_classes, alpha, **kwargs)

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The mean over elements, or over ``avg_factor``."""
        valid = call.valid(self.num_classes)
        weight, label = call.weights(valid, pred.dtype), call.label.where(valid, 0)
        objects = F.one_hot(label, self.num_classes + 1)[:, :-1] * (weight > 0)[:, None]
        objects = objects.to(pred.dtype)
        if self.counts(pred):
            self.balance.update(pred.detach()[:, :-1].softmax(dim=1), objects)
        share = self.balance.share() * objects.sum(dim=1)
        log_p, soft = pred.log_softmax(dim=1), self.balance.targets(objects)
        divergence = F.kl_div(log_p[:, :-1], soft, reduction='none').sum(dim=1)
        losses = (1 - share) * F.nll_loss(log_p, label, reduction='none') + share * divergence
        return call.reduced(losses * weight)
