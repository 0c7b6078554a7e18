"""Cross-entropy with generalized re-weighting."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike, ZeroCount, generalized_reweight

NORMALIZERS = ('elements', 'valid', 'class_weight')
REDUCTIONS = ('none', 'mean', 'sum')


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
    eps = torch.finfo(loss.dtype).eps
    valid = label != ignore_index
    if normalizer != 'class_weight':
        count = loss.numel() if normalizer == 'elements' else int(valid.sum())
        return loss.sum() / max(count if avg_factor is None else avg_factor, eps)
    total = class_weight[label.where(valid, 0)] * valid
    if weight is not None:
        total = total * weight
    return loss.sum() / total.sum().clamp(min=eps)


class GRWCrossEntropyLoss(nn.Module):
    """Cross-entropy whose class weights undo the class frequencies, as far as ``exp_scale`` says.

    Source: Zhang et al., CVPR 2021, section 3.3. See :func:`generalized_reweight` for the weights
    and :func:`weighted_cross_entropy` for the normalisers. The call is that of OpenMMLab's losses.

    Args:
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes.
        exp_scale: ρ, how far the frequencies are undone: 0 is plain cross-entropy, 1 balances the
            classes fully. The released values are 0.2 (ADE20K), 0.8 (LVIS) and 1.2 (ImageNet-LT).
        normalizer: ``'elements'``, ``'valid'`` or ``'class_weight'``. Default: ``'elements'``.
        background_weight: Weight of a background class that follows those of the prior in the
            scores, as in a detector. Default: None, there is none.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        ignore_index: The label that has no loss, where the caller does not say. Default: None,
            255 if there are at most 255 classes, as 8-bit label maps use it, else -100.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``. Default: ``'mean'``.
        loss_weight: Factor of the loss. Default: 1.0.
        loss_name: Name in the log; it must begin with ``loss_`` to be trained. Default:
            ``'loss_grw'``.
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
        ignore_index: Optional[int] = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        loss_name: str = 'loss_grw',
    ) -> None:
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f'normalizer must be one of {NORMALIZERS}, got {normalizer!r}')
        prior = ClassPrior.build(class_prior)
        self.exp_scale = exp_scale
        self.normalizer = normalizer
        self.num_classes = len(prior)
        self.ignore_index = ignore_index
        if ignore_index is None:
            self.ignore_index = 255 if self.num_classes <= 255 else -100
        self.reduction = _checked_reduction(reduction)
        self.loss_weight = loss_weight
        self._loss_name = loss_name
        # Not persistent: a stage-1 checkpoint has no such key, and the config is what defines it.
        weight = generalized_reweight(prior, exp_scale, zero_count=zero_count)
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
        if pred.shape[1] != len(self.class_weight):
            background = len(self.class_weight) - self.num_classes
            raise ValueError(
                f'the class prior has {self.num_classes} classes{" and background" * background}, '
                f'but the scores have {pred.shape[1]}: {tuple(pred.shape)}'
            )
        return self.loss_weight * weighted_cross_entropy(
            pred,
            label,
            self.class_weight,
            weight=weight,
            ignore_index=self.ignore_index if ignore_index is None else ignore_index,
            reduction=_checked_reduction(reduction_override or self.reduction),
            avg_factor=avg_factor,
            normalizer=self.normalizer,
        )

    @property
    def loss_name(self) -> str:
        """Name of the loss in the log."""
        return self._loss_name

    def extra_repr(self) -> str:
        return (
            f'{self.num_classes} classes, exp_scale={self.exp_scale}, normalizer={self.normalizer}'
        )


def _checked_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
    return reduction
