"""The adaptive calibration function of DisAlign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Scores of a tile on a CPU: what is computed of them stays in its caches, in memory that the system
# gives once. From 2**17 to 2**20 are about as fast.
TILE = 2**19


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
        scores, sigma, magnitude, margin = self._terms(logits, features)
        # z + σ(αz + β): one multiplication less than above, and exact where α = β = 0.
        return torch.addcmul(scores, sigma, _affine(scores, magnitude, margin))

    def in_place(self, logits: Tensor, features: Tensor) -> Tensor:
        """As calling it, for scores that nobody else has: without gradients, they are overwritten.

        That takes a fraction of the time and memory. Where hooks watch the calibration, it is
        called as ever, for they may keep the scores; and so where a graph is traced.

        Returns:
            Calibrated scores, shape (N, C, *): ``logits`` itself, or a new tensor.
        """
        is_watched = self._forward_pre_hooks or self._forward_hooks
        if torch.is_grad_enabled() or is_watched or torch.jit.is_tracing():
            return self(logits, features)
        scores, *others = self._terms(logits, features)
        for tile, sigma, magnitude, margin in _tiles(scores, *others):
            tile.addcmul_(sigma, _affine(tile, magnitude, margin))
        return scores

    def sigma(self, features: Tensor) -> Tensor:
        """Confidence σ(x) in (0, 1), shape (N, 1, *), of features (N, F, *)."""
        if not isinstance(self.confidence, nn.Linear):
            own = next(self.confidence.parameters()).dtype
            return self.confidence(features.to(own)).to(features.dtype).sigmoid()
        linear = self.confidence
        weight, bias = linear.weight.to(features.dtype), linear.bias.to(features.dtype)
        if features.dim() == 2:
            return F.linear(features, weight, bias).sigmoid()
        rows = weight.expand(features.shape[0], 1, -1)
        score = torch.baddbmm(bias, rows, features.flatten(2))
        return score.unflatten(2, features.shape[2:]).sigmoid()

    def _terms(self, logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, σ(x), α and β in one precision, and in shapes that broadcast to that of z."""
        self._check_shapes(logits, features)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with _no_autocast(logits.device.type):
            sigma = self.sigma(features.to(dtype))
        shape = (1, -1) + (1,) * (logits.dim() - 2)
        magnitude, margin = self.magnitude.view(shape), self.margin.view(shape)
        return logits.to(dtype), sigma, magnitude.to(dtype), margin.to(dtype)

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


def _no_autocast(device_type: str) -> AbstractContextManager:
    """Keeps the precision of products; where nothing would change it, for nothing."""
    try:
        is_on = torch.is_autocast_enabled(device_type)
    except TypeError:  # before PyTorch 2.4, it answers for CUDA alone
        is_on = True
    return torch.autocast(device_type, enabled=False) if is_on else nullcontext()


def _affine(scores: Tensor, magnitude: Tensor, margin: Tensor) -> Tensor:
    """αz + β."""
    if scores.dim() > 2 and scores.device.type == 'cpu':
        # There, addcmul is slow where α and β have one value each for many positions.
        return torch.mul(scores, magnitude).add_(margin)
    return torch.addcmul(margin, magnitude, scores)


def _tiles(scores: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of scores (N, C), or classes of maps (N, C, *); and what broadcasts to them."""
    axis = 0 if scores.dim() == 2 else 1
    size = scores.shape[axis]
    step = max(1, TILE * size // max(1, scores.numel()))
    if scores.device.type != 'cpu' or step >= size:
        yield scores, *others
        return
    parts = [
        each.split(step, axis) if each.shape[axis] == size else repeat(each) for each in others
    ]
    yield from zip(scores.split(step, axis), *parts)
