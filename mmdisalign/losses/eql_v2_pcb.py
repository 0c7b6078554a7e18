"""Equalization loss v2 with pairwise class balance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .eql_v2 import EQLv2Loss
from .pairwise_balance import PairwiseBalance


class EQLv2PCBLoss(EQLv2Loss):
    """:class:`EQLv2Loss`, its targets of objects mixed with those of :class:`PairwiseBalance`.

    The matrix is of sigmoids, and nothing is scaled to the sum 1, as released.

    Args:
        num_classes: Number of classes C.
        alpha_pcb: The share of the soft targets. Default: 0.2, as released.
        balance: Other arguments of :class:`PairwiseBalance`. Default: None, none.
        kwargs: Of :class:`EQLv2Loss`.
    """

    def __init__(
        self, num_classes: int, alpha_pcb: float = 0.2, *, balance: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.balance = PairwiseBalance(num_classes, alpha_pcb, scaled=False, **(balance or {}))

    def targets(self, scores: Tensor, target: Tensor, counted: Tensor) -> Tensor:
        """One-hot targets (N, C + 1), softened where they are of an object that counts."""
        objects = target[:, :-1] * counted[:, None]
        if self.counts(scores):
            self.balance.update(scores.detach()[:, :-1].sigmoid(), objects)
        share = self.balance.share() * objects.sum(dim=1, keepdim=True)
        soft = share * self.balance.targets(objects) + (1 - share) * target[:, :-1]
        return torch.cat([soft, target[:, -1:]], dim=1)
