"""Distribution-balanced loss, for images with several labels."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike, filled_counts
from .base import Call, PriorLoss


class DistributionBalancedLoss(PriorLoss):
    r"""Binary losses that are re-balanced within each image, and tolerant of negatives.

    With labels t and scores shifted to :math:`s_c = z_c + \nu \log \frac{n_c}{M - n_c}`, a positive
    has the loss :math:`\mathrm{softplus}(-s)` and a negative
    :math:`\mathrm{softplus}(\lambda s) / \lambda`, times :math:`2 (1 - p_t)^\gamma` and the weight
    :math:`\alpha + \mathrm{sigmoid}(\beta (r - \mu))`,
    :math:`r_c = n_c^{-1} / \sum_k t_k n_k^{-1}`. Source: Wu et al., "Distribution-Balanced Loss for
    Multi-Label Classification in Long-Tailed Datasets", ECCV 2020, sections 3.2 and 3.3. ν is κ in
    the paper, and κ / λ in what was released.

    The mean is over all N · C terms, whatever ``avg_factor``: with mmpretrain's, the number of
    images, the loss would be C times as large.

    Args:
        class_prior: Images n with each label: anything that ``ClassPrior.build`` takes.
        num_images: M, of the training data.
        alpha: α; None: no re-balancing. Default: 0.1.
        beta: β. Default: 10.
        mu: μ. Default: 0.2.
        neg_scale: λ. Default: 2.
        kappa: κ. Default: 0.05.
        focal_gamma: γ; 0: no focal factor. Default: 2.
        bias: ``'released'`` or ``'paper'``. Default: ``'released'``.
        kwargs: Arguments of :class:`PriorLoss`; the name is ``'loss_db'``.

    Raises:
        ValueError: If all images have a label, or none has.
    """

    shift: Tensor
    rarity: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        num_images: float,
        *,
        alpha: Optional[float] = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        neg_scale: float = 2.0,
        kappa: float = 0.05,
        focal_gamma: float = 2.0,
        bias: str = 'released',
        **kwargs: Any,
    ) -> None:
        zero_count = kwargs.pop('zero_count', None)
        if zero_count == 'ignore':
            raise ValueError("zero_count='ignore' gives no bias of a class: 'min', or a number")
        super().__init__(class_prior, **{'loss_name': 'loss_db', **kwargs})
        if bias not in ('released', 'paper'):
            raise ValueError(f"bias must be 'released' or 'paper', got {bias!r}")
        counts = torch.from_numpy(filled_counts(self.class_prior, zero_count))
        if counts.max() >= num_images:
            name = self.class_prior.name_of(int(counts.argmax()))
            raise ValueError(f'{name} is in {counts.max():g} of num_images={num_images:g} images')
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.neg_scale, self.focal_gamma = neg_scale, focal_gamma
        factor = kappa / neg_scale if bias == 'released' else kappa
        shift = factor * (counts / (num_images - counts)).log()
        self.register_buffer('shift', shift, persistent=False)
        self.register_buffer('rarity', 1 / counts, persistent=False)

    def image_weights(self, target: Tensor) -> Tensor:
        """The weights of the terms of each image, (N, C); of one without a label α + 1."""
        if self.alpha is None:
            return torch.ones_like(target)
        rarity = self.rarity.to(target.dtype)
        share = rarity / (target @ rarity).clamp(min=1e-12)[:, None]
        return self.alpha + torch.sigmoid(self.beta * (share - self.mu))

    def compute(self, pred: Tensor, call: Call) -> Tensor:
        """The mean over all terms, of labels (N, C) of 0 and 1."""
        self._check_scores(pred)
        target, scores = call.label.to(pred.dtype), pred + self.shift.to(pred.dtype)
        if target.shape != pred.shape or not ((target == 0) | (target == 1)).all():
            raise ValueError(
                'DistributionBalancedLoss is of labels (N, C) of 0 and 1, as '
                'MultiLabelLinearClsHead makes them, not of mixed images: leave Mixup and CutMix '
                'out'
            )
        scaled = torch.where(target > 0, -scores, self.neg_scale * scores)
        terms = F.softplus(scaled)
        losses = terms / torch.where(target > 0, 1.0, self.neg_scale)
        if self.focal_gamma:
            losses = 2 * (-torch.expm1(-terms)) ** self.focal_gamma * losses
        valid = torch.ones(len(pred), dtype=torch.bool, device=pred.device)
        means = (self.image_weights(target) * losses).mean(dim=1) * call.weights(valid, pred.dtype)
        if call.reduction == 'none':
            return means
        return means.sum() / (len(means) if call.reduction == 'mean' else 1)
