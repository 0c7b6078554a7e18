"""Cross-entropy with pairwise class balance."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import checked_reduction
from .pairwise_balance import PairwiseBalance


class PCBLoss(nn.Module):
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
        super().__init__()
        self.num_classes = num_classes
        self.balance = PairwiseBalance(num_classes, alpha, **kwargs)
        self.reduction, self.loss_weight = checked_reduction(reduction), loss_weight

    def forward(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
    ) -> Tensor:
        """Compute the loss of scores (N, C + 1); arguments as of :class:`BinaryClassLoss`."""
        reduction = checked_reduction(reduction_override or self.reduction)
        pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
        weight = torch.ones_like(pred[:, 0]) if weight is None else weight
        objects = F.one_hot(label, self.num_classes + 1)[:, :-1] * (weight > 0)[:, None]
        objects = objects.to(pred.dtype)
        self.balance.update(pred.detach()[:, :-1].softmax(dim=1), objects)
        share = self.balance.share() * objects.sum(dim=1)
        log_p, soft = pred.log_softmax(dim=1), self.balance.targets(objects)
        divergence = F.kl_div(log_p[:, :-1], soft, reduction='none').sum(dim=1)
        losses = (1 - share) * F.nll_loss(log_p, label, reduction='none') + share * divergence
        losses = self.loss_weight * losses * weight
        if reduction != 'mean':
            return losses if reduction == 'none' else losses.sum()
        count = len(label) if avg_factor is None else avg_factor
        return losses.sum() / max(count, torch.finfo(pred.dtype).eps)
