"""Gaussian clouded logits: the scores of rare classes are moved down at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, filled_counts
from .adjusted import AdjustedCrossEntropyLoss, along_classes


class GCLLoss(AdjustedCrossEntropyLoss):
    r"""Cross-entropy of :math:`s (z_c - a\, |\epsilon|\, \delta_c - m [c = y])`, of cosines z.

    :math:`\delta_c = (\log n_{max} - \log n_c) / (\log n_{max} - \log n_{min})`, and ε is drawn for
    each score from a normal distribution of variance 1/9, cut to [-1, 1]. Source: Li et al.,
    "Long-tailed Visual Recognition via Gaussian Clouded Logit Adjustment", CVPR 2022. For a cosine
    classifier whose own factor is 1; its second stage retrains that on balanced classes.

    Args:
        class_prior: Class counts of the training data: anything that ``ClassPrior.build`` takes.
        amplitude: a. Default: 0.5.
        margin: m. Default: 0.
        scale: s. Default: 30.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_gcl'``.
    """

    cloud: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        amplitude: float = 0.5,
        margin: float = 0.0,
        scale: float = 30.0,
        *,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, **{'loss_name': 'loss_gcl', **kwargs})
        self.margin, self.scale = margin, scale
        counts = filled_counts(self.class_prior, zero_count)
        logs = torch.from_numpy(counts.clip(min=counts[counts > 0].min())).log()
        span = (logs.max() - logs.min()).clamp(min=1e-9)
        self.register_buffer('cloud', amplitude * (logs.max() - logs) / span, persistent=False)

    def adjusted(self, pred: Tensor, label: Tensor) -> Tensor:
        """The scores, moved down."""
        noise = (torch.randn_like(pred) / 3).clamp(-1, 1).abs()
        moved = pred - noise * along_classes(self.cloud, pred)
        lower = torch.full_like(pred[:, :1], -self.margin)
        return self.scale * moved.scatter_add(1, label.unsqueeze(1), lower)
