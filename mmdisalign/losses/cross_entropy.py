"""Class-weighted cross-entropy, and what its mean divides by."""

from __future__ import annotations

from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALIZERS = ('elements', 'valid', 'class_weight')


def weighted_cross_entropy(
    pred: Tensor,
    label: Tensor,
    class_weight: Tensor,
    *,
    weight: Optional[Tensor] = None,
    ignore_index: int = -100,
    reduction: str = 'mean',
    avg_factor: Optional[float] = None,
    normalizer: str = 'elements',
) -> Tensor:
    r"""Class-weighted cross-entropy with a stated normaliser.

    An element i with label y has the loss :math:`-u_i\, w_y \log \mathrm{softmax}(z_i)_y`; an
    ignored one has 0. The mean is the sum of these, divided by

    - ``'elements'``: the number of elements, ignored ones included (the released segmentation
      code);
    - ``'valid'``: the number of elements that are not ignored;
    - ``'class_weight'``: the sum of :math:`u_i w_y` over them (the released detection and
      classification code; what ``torch.nn.CrossEntropyLoss(weight=...)`` does);
    - ``avg_factor`` in the place of the first two, where it is given.

    Where nothing is valid the mean is 0, with a zero gradient.

    Args:
        pred: Class scores, shape (N, C, *).
        label: Class indices, shape (N, *), int64.
        class_weight: w, shape (C,).
        weight: u, per element, shape (N, *).
        ignore_index: The label of ignored elements.
        reduction: ``'none'`` (shape (N, *)), ``'mean'`` or ``'sum'``.
        avg_factor: The number of elements as the caller counts them.
        normalizer: What the mean divides by.
    """
    pred = pred.to(torch.promote_types(pred.dtype, torch.float32))
    class_weight = class_weight.to(pred.dtype)
    loss = F.cross_entropy(pred, label, class_weight, ignore_index=ignore_index, reduction='none')
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if reduction == 'sum':
        return loss.sum()
    return loss.sum() / mean_divisor(
        label,
        class_weight,
        weight=weight,
        ignore_index=ignore_index,
        avg_factor=avg_factor,
        normalizer=normalizer,
    )


def mean_divisor(
    label: Tensor,
    class_weight: Tensor,
    *,
    weight: Optional[Tensor] = None,
    ignore_index: int = -100,
    avg_factor: Optional[float] = None,
    normalizer: str = 'elements',
) -> Union[float, Tensor]:
    """What the mean of :func:`weighted_cross_entropy` divides the sum by; positive.

    Args: as of that function; ``class_weight`` in the dtype of the loss.
    """
    dtype = class_weight.dtype if weight is None else torch.result_type(class_weight, weight)
    eps = torch.finfo(dtype).eps
    valid = label != ignore_index
    if normalizer != 'class_weight':
        count = label.numel() if normalizer == 'elements' else int(valid.sum())
        return max(count if avg_factor is None else avg_factor, eps)
    total = class_weight[label.where(valid, 0)] * valid
    if weight is not None:
        total = total * weight
    return total.sum().clamp(min=eps)


def checked_normalizer(normalizer: str) -> str:
    """The normaliser, or ValueError if there is none of that name."""
    if normalizer not in NORMALIZERS:
        raise ValueError(f'normalizer must be one of {NORMALIZERS}, got {normalizer!r}')
    return normalizer
