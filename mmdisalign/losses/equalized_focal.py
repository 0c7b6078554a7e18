"""Equalized focal loss: the less balanced a class, the more its loss is of the hard."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .binary import BinaryClassLoss, Rows
from .gradient_ratio import GradientRatio


class EqualizedFocalLoss(BinaryClassLoss):
    r""":math:`-\alpha_t \frac{\gamma_c}{\gamma} (1 - p_t)^{\gamma_c} \log p_t`,
    :math:`\gamma_c = \gamma + s (1 - \min(g_c, 1))`

    g is the :class:`GradientRatio` of the class, and p_t the probability of what is right. Source:
    Li et al., "Equalized Focal Loss for Dense Long-Tailed Object Detection", CVPR 2022, equations 4
    to 6. With g = 1 it is the focal loss.

    Args:
        num_classes: Number of classes C.
        scale_factor: s. Default: 8.
        gamma: γ, the focusing factor of a balanced class. Default: 2.
        alpha: α of positives, 1 - α of negatives; below 0, neither. Default: 0.25.
        kwargs: Of :class:`BinaryClassLoss`.
    """

    sigmoid_only = True  # whose gradient it is

    def __init__(
        self,
        num_classes: int,
        scale_factor: float = 8.0,
        *,
        gamma: float = 2.0,
        alpha: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.gamma, self.alpha, self.scale_factor = gamma, alpha, scale_factor
        self.gradient_ratio = GradientRatio(num_classes, initial=1.0)

    def class_weights(self, scores: Tensor, rows: Rows) -> Tensor:
        """The weighting factors γ_c / γ, (C,), times α."""
        if self.alpha < 0:
            return self._focusing(scores) / self.gamma
        alpha = self.alpha * rows.target + (1 - self.alpha) * (1 - rows.target)
        return alpha * self._focusing(scores) / self.gamma

    def _focusing(self, scores: Tensor) -> Tensor:
        ratio = self.gradient_ratio().clamp(max=1.0).to(scores.dtype)
        return self.gamma + self.scale_factor * (1 - ratio)

    def element_losses(self, scores: Tensor, rows: Rows) -> Tensor:
        """The loss of each score, (N, C), whose gradient then counts."""
        counts = self.counts(scores)
        if counts:
            self.gradient_ratio.begin()
        weights, focusing = self.class_weights(scores, rows), self._focusing(scores)
        right = (2 * rows.target - 1) * scores  # the logit of p_t
        cross_entropy = -F.logsigmoid(right)
        hardness = torch.exp(focusing * F.logsigmoid(-right))
        losses = weights * hardness * cross_entropy
        if counts:
            slope = focusing * right.sigmoid() * cross_entropy + (-right).sigmoid()
            gradient = weights * hardness * slope * rows.scale * rows.weight[:, None]
            self.gradient_ratio.add(gradient, rows.target)
            self.gradient_ratio.end_with(losses)
        return losses
