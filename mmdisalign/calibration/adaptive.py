"""The adaptive calibration function of DisAlign."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveCalibration(nn.Module):
    r"""Calibrate class scores with a magnitude and a margin, gated by the input.

    .. math:: \hat z = (1 + \sigma(x)\,\alpha)\, z + \sigma(x)\,\beta

    Source: Zhang et al., "Distribution Alignment: A Unified Framework for Long-tail Visual
    Recognition", CVPR 2021, section 3.2. It starts as the identity, bit for bit: ``magnitude`` (α)
    and ``margin`` (β) are zero, so the calibrated model is the stage-1 model until it is trained.

    Args:
        num_classes: Number of classes C that are scored.
        in_channels: Number of channels F of the features that the confidence σ(x) reads.
        confidence: Replaces the linear layer below the sigmoid: a module from features (N, F, *) to
            (N, 1, *). Default: None, a linear layer, which on maps is a 1x1 convolution.

    Attributes:
        magnitude: α, shape (C,).
        margin: β, shape (C,).
        confidence: The layer below the sigmoid; by default with ``weight`` (1, F) and ``bias``
            (1,).
    """

    def __init__(
        self, num_classes: int, in_channels: int, confidence: Optional[nn.Module] = None
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(
                'num_classes and in_channels must be positive, '
                f'got num_classes={num_classes}, in_channels={in_channels}'
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.magnitude = nn.Parameter(torch.zeros(num_classes))
        self.margin = nn.Parameter(torch.zeros(num_classes))
        if confidence is None:
            confidence = nn.Linear(in_channels, 1)
            nn.init.normal_(confidence.weight, std=0.01)
            nn.init.zeros_(confidence.bias)
        self.confidence = confidence

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Calibrate the scores of a batch.

        Half-precision input is computed and returned in float32, also under autocast: α·z at a
        logit of 30 has an absolute error of 0.1 in bfloat16, as much as what is learned.

        Args:
            logits: Class scores z, shape (N, C, *).
            features: What the classifier saw, shape (N, F, *), with the same ``*``, or with 1 where
                one σ is of several positions.

        Returns:
            Calibrated scores, shape (N, C, *).
        """
        self._check_shapes(logits, features)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(dtype)
            sigma = self.sigma(features.to(dtype))
            shape = (1, -1) + (1,) * (logits.dim() - 2)
            magnitude, margin = (p.view(shape).to(dtype) for p in (self.magnitude, self.margin))
            # z + σ(αz + β): one multiplication less than above, and exact where α = β = 0.
            return torch.addcmul(logits, sigma, torch.addcmul(margin, magnitude, logits))

    def sigma(self, features: Tensor) -> Tensor:
        """Confidence σ(x) in (0, 1), shape (N, 1, *), of features (N, F, *)."""
        if not isinstance(self.confidence, nn.Linear):
            own = next(self.confidence.parameters()).dtype
            return self.confidence(features.to(own)).to(features.dtype).sigmoid()
        weight, bias = (p.to(features.dtype) for p in self.confidence.parameters())
        if features.dim() == 2:
            return F.linear(features, weight, bias).sigmoid()
        score = weight @ features.flatten(2) + bias
        return score.unflatten(2, features.shape[2:]).sigmoid()

    def extra_repr(self) -> str:
        return f'num_classes={self.num_classes}, in_channels={self.in_channels}'

    def _check_shapes(self, logits: Tensor, features: Tensor) -> None:
        if logits.shape[1] != self.num_classes or features.shape[1] != self.in_channels:
            raise ValueError(
                f'expected logits (N, {self.num_classes}, *) and features '
                f'(N, {self.in_channels}, *), got {tuple(logits.shape)} and {tuple(features.shape)}'
            )
        positions = zip(features.shape[2:], logits.shape[2:])
        if features.dim() != logits.dim() or any(own not in (1, of) for own, of in positions):
            raise ValueError(
                f'logits and features differ in their positions: {tuple(logits.shape)} and '
                f'{tuple(features.shape)}'
            )
