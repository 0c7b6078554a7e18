"""Cross-entropy with generalized re-weighting."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calibration import PriorLike, ZeroCount, generalized_reweight
from .base import PriorLoss

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


class GRWCrossEntropyLoss(PriorLoss):
    """Cross-entropy whose class weights undo the class frequencies, as far as ``exp_scale`` says.

    Source: Zhang et al., CVPR 2021, section 3.3. See :func:`generalized_reweight` for the weights
    and :func:`weighted_cross_entropy` for the normalisers.

    Args:
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes.
        exp_scale: ρ, how far the frequencies are undone: 0 is plain cross-entropy, 1 balances the
            classes fully. The released values are 0.2 (ADE20K), 0.8 (LVIS) and 1.2 (ImageNet-LT).
        normalizer: ``'elements'``, ``'valid'`` or ``'class_weight'``. Default: ``'elements'``.
        background_weight: Weight of a background class that follows those of the prior in the
            scores, as in a detector. Default: None, there is none.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        loss_name: Name in the log. Default: ``'loss_grw'``.
        kwargs: Arguments of :class:`PriorLoss`.
    """

    class_weight: Tensor

    def __init__(
        self,
        class_prior: PriorLike,
        exp_scale: float,
        *,
        normalizer: str = 'elements',
        background_weight: Optional[float] = None,
        zero_count: ZeroCount = None,
        loss_name: str = 'loss_grw',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, loss_name=loss_name, **kwargs)
        self.exp_scale = exp_scale
        self.normalizer = checked_normalizer(normalizer)
        # Not persistent: a stage-1 checkpoint has no such key, and the config is what defines it.
        weight = generalized_reweight(self.class_prior, exp_scale, zero_count=zero_count)
        if background_weight is not None:
            weight = torch.cat([weight, weight.new_tensor([background_weight])])
        self.register_buffer('class_weight', weight, persistent=False)

    def forward(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        avg_factor: Optional[float] = None,
        reduction_override: Optional[str] = None,
        ignore_index: Optional[int] = None,
    ) -> Tensor:
        """Compute the loss; arguments as of :func:`weighted_cross_entropy`."""
        self._check_scores(pred, len(self.class_weight))
        return self.loss_weight * weighted_cross_entropy(
            pred,
            label,
            self.class_weight,
            weight=weight,
            avg_factor=avg_factor,
            normalizer=self.normalizer,
            **self._call_options(reduction_override, ignore_index),
        )

    def extra_repr(self) -> str:
        return (
            f'{self.num_classes} classes, exp_scale={self.exp_scale}, normalizer={self.normalizer}'
        )


def checked_normalizer(normalizer: str) -> str:
    """The normaliser, or ValueError if there is none of that name."""
    if normalizer not in NORMALIZERS:
        raise ValueError(f'normalizer must be one of {NORMALIZERS}, got {normalizer!r}')
    return normalizer
