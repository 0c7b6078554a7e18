"""Cross-entropy of upsampled scores, which are never held all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cross_entropy import mean_divisor, weighted_cross_entropy

BandLoss = Callable[[Tensor, Tensor], Tensor]

# Scores of a band. On a CPU, 2**19 to 2**21 are about as fast, larger ones leave the caches; where
# other processes want the cores, threads wait for each other in every band, so it is not the least.
# On an H200, 2**26 is 2 per cent faster than 2**24, and takes up to twice the memory.
CPU_TILE, TILE = 2**20, 2**24


def tiled_cross_entropy(
    scores: Tensor,
    label: Tensor,
    class_weight: Tensor,
    *,
    align_corners: bool = False,
    ignore_index: int = -100,
    reduction: str = 'mean',
    normalizer: str = 'elements',
) -> tuple[Tensor, Tensor]:
    """:func:`weighted_cross_entropy` of scores that are upsampled to their labels, band by band.

    Value and gradient are those of ``F.interpolate(scores, (H, W), mode='bilinear')`` and that
    function, up to rounding. The gradient of a band's loss needs no other band, so it is computed
    with the loss: no band is kept for the backward pass, or computed again in it; that pass only
    scales the gradient of the scores, and cannot be differentiated. At a time, memory holds one
    image's scores of shape (C, h, W), their gradient and one band. Half precision is computed in
    float32, from the upsampling on.

    Args:
        scores: Class scores, shape (N, C, h, w).
        label: Class indices, shape (N, H, W), int64.
        class_weight: Shape (C,).
        align_corners: As of ``F.interpolate``.
        ignore_index: The label of ignored elements.
        reduction: ``'mean'`` or ``'sum'``.
        normalizer: What the mean divides by.

    Returns:
        The loss, and the number of elements, ignored ones left out, that score highest at their
        label.

    Raises:
        ValueError: If the reduction is another.
    """
    if reduction not in ('mean', 'sum'):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    class_weight = class_weight.to(scores.dtype)
    ignored = {'ignore_index': ignore_index}
    band_loss = partial(
        weighted_cross_entropy, class_weight=class_weight, reduction='sum', **ignored
    )
    loss, hits = _TiledSum.apply(scores, label, band_loss, align_corners)
    if reduction == 'mean':
        loss = loss / mean_divisor(label, class_weight, normalizer=normalizer, **ignored)
    return loss, (hits & (label != ignore_index)).sum()


class _TiledSum(torch.autograd.Function):
    """Sum of a loss of scores and labels over bands, and where the label scores highest."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, label: Tensor, band_loss: BandLoss, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        bands = _bands(scores, label.shape[1:], align_corners)
        total, hits = scores.new_zeros(()), torch.empty_like(label, dtype=torch.bool)
        gradient = torch.empty_like(scores) if ctx.needs_input_grad[0] else None
        for i, image in enumerate(scores.detach()):
            with torch.set_grad_enabled(gradient is not None):
                image.requires_grad_(gradient is not None)
                wide = _widened(image, label.shape[2], align_corners)
            loss, wide_gradient = _sum_of_bands(wide, label[i], bands, band_loss, hits[i])
            total += loss
            if gradient is not None:
                (gradient[i],) = torch.autograd.grad(wide, image, wide_gradient.view_as(wide))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Optional[Tensor], ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None


class _Band(NamedTuple):
    """Rows of the upsampled scores.

    Attributes:
        rows: Which these are.
        sources: The rows of the scores that they are made of.
        taps: How: a matrix of as many rows, and columns for the sources.
    """

    rows: slice
    sources: slice
    taps: Tensor


def _bands(scores: Tensor, size: Sequence[int], align_corners: bool) -> list[_Band]:
    # Bilinear interpolation is linear along each axis, and what it makes of the identity is its
    # matrix; on the CPU, or each band would wait for a GPU to tell its sources.
    identity = torch.eye(scores.shape[2], dtype=scores.dtype)[None]
    matrix = F.interpolate(identity, size[0], mode='linear', align_corners=align_corners)[0].T
    tile = CPU_TILE if scores.device.type == 'cpu' else TILE
    step = max(1, tile // (scores.shape[1] * size[1]))
    on_device, bands = matrix.to(scores.device), []
    for start in range(0, size[0], step):
        rows = slice(start, start + step)
        used = matrix[rows].any(dim=0).nonzero()
        sources = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(rows, sources, on_device[rows, sources]))
    return bands


def _widened(scores: Tensor, width: int, align_corners: bool) -> Tensor:
    """Scores (C, h, w) at their final width, shape (h, C, W): a row of pixels is in one piece."""
    rows = scores.transpose(0, 1)
    if rows.device.type == 'cpu':
        return F.interpolate(rows, width, mode='linear', align_corners=align_corners)
    # CUDA's linear kernel has a thread for each column, which goes through all rows and classes.
    size = (rows.shape[1], width)
    return F.interpolate(rows[None], size, mode='bilinear', align_corners=align_corners)[0]


def _sum_of_bands(
    wide: Tensor, label: Tensor, bands: list[_Band], band_loss: BandLoss, hits: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of an image's loss and its gradient, shape (h, C * W); fills the hits, shape (H, W)."""
    scores = wide.detach().flatten(1)
    total, gradient = scores.new_zeros(()), torch.zeros_like(scores)
    for rows, sources, taps in bands:
        # Or autocast would multiply these float32 matrices in half precision.
        with torch.autocast(scores.device.type, enabled=False):
            band = (taps @ scores[sources]).unflatten(1, wide.shape[1:])
            with torch.set_grad_enabled(wide.requires_grad):
                loss = band_loss(band.requires_grad_(wide.requires_grad), label[rows])
            if wide.requires_grad:
                (band_gradient,) = torch.autograd.grad(loss, band)
                gradient[sources].addmm_(taps.T, band_gradient.flatten(1))
        total += loss.detach()
        hits[rows] = band.detach().topk(1, dim=1).indices.squeeze(1) == label[rows]
    return total, gradient
