"""Label-distribution-aware margins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .adjusted import AdjustedCrossEntropyLoss


class LDAMLoss(AdjustedCrossEntropyLoss):
    r"""Cross-entropy of :math:`s (z_c - \Delta_y [c = y])`, of cosines z.

    :math:`\Delta_c = m (n_{min} / n_c)^{1/4}`. Source: Cao et al., "Learning Imbalanced Datasets
    with Label-Distribution-Aware Margin Loss", NeurIPS 2019, equation 13; its deferred
    re-weighting is ``DeferredReweightingHook``. For a cosine classifier whose own factor is 1.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        margin: m, of the rarest class. Default: 0.5.
        scale: s. Default: 30.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_ldam'``.
    """

    margins: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        margin: float = 0.5,
        scale: float = 30.0,
        *,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_ldam', **kwargs})
        self.scale = scale
        counts = filled_counts(self.class_prior, zero_count)
        least = counts[counts > 0].min()
        margins = margin * (least / counts.clip(min=least)) ** 0.25 * (counts > 0)
        self.register_buffer('margins', torch.from_numpy(margins), persistent=False)

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, less their labels' margins."""
        own = self.margins.to(pred.dtype)[label].unsqueeze(1)
        return self.scale * pred.scatter_add(1, label.unsqueeze(1), -own)
