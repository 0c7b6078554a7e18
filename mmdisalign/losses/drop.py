"""DropLoss: backgrounds push the rare down as seldom as there are rare objects."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import processes
from .binary import Rows
from .eql import EQLLoss


class DropLoss(EQLLoss):
    r"""EQL that also leaves out negatives of rare classes on backgrounds, at random.

    Each is kept with the share that rare objects have of the batch's, of all processes, or of the
    level's; without an object, all are.
    Source: Hsieh et al., "DropLoss for Long-Tail Instance Segmentation", AAAI 2021, equation 5.
    With ``link='gumbel'``, it is what GOL (Alexandridis et al., ECCV 2022) was released with.
    Arguments as of :class:`EQLLoss`.
    """

    def left_out(self, scores: Tensor, rows: Rows) -> Tensor:
        """Of which elements negatives of rare classes have no loss, (N, C)."""
        objects = (rows.is_object & rows.counted).to(scores.dtype)
        rare = (rows.target * self.tail).sum(dim=1) * objects
        counts = torch.stack([rare.sum(), objects.sum()])
        if self.counts(scores):
            counts = processes.summed(counts)
        # Of no object the share is NaN, and nothing is above that.
        dropped = torch.rand_like(scores) > counts[0] / counts[1]
        return torch.where(rows.is_object[:, None], True, dropped)
