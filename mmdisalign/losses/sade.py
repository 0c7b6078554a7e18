"""SADE: three experts, for the data as they are, for balanced and for inverted ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..calibration import PriorLike, filled_counts
from .adjusted import AdjustedCrossEntropyLoss


class DiverseExpertLoss(AdjustedCrossEntropyLoss):
    r"""Sum of the cross-entropies of three experts' scores, each adjusted otherwise.

    :math:`z`, :math:`z + \log \pi` and :math:`z + \log \pi - \tau \log \bar\pi`, where
    :math:`\bar\pi` has the frequencies in the inverse order. Source: Zhang et al., "Self-Supervised
    Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition", NeurIPS 2022,
    equations 1 to 3. At test, the scores are averaged.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        tau: τ. Default: 2.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_experts'``.
    """

    shifts: Tensor

    def __init__(self, class_prior: PriorLike, tau: float = 2.0, **kwargs: Any) -> None:
        zero_count = kwargs.pop('zero_count', None)
        super().__init__(class_prior, **{'loss_name': 'loss_experts', **kwargs})
        counts = torch.from_numpy(filled_counts(self.class_prior, zero_count))
        logs = (counts / counts.sum()).log()
        inverse = logs.sort().values.flip(0)[logs.argsort(stable=True).argsort()]
        shifts = torch.stack([torch.zeros_like(logs), logs, logs - tau * inverse])
        self.register_buffer('shifts', shifts, persistent=False)

    def forward(self, pred: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss of scores (3, N, C); other arguments as of :class:`ClassLoss`."""
        if pred.dim() != 3 or len(pred) != len(self.shifts):
            raise ValueError(
                f'expected scores of three experts, (3, N, C), got {tuple(pred.shape)}'
            )
        parent = super().forward
        return sum(
            parent(own + shift.to(own), *args, **kwargs) for own, shift in zip(pred, self.shifts)
        )
