"""Cross-entropy with generalized re-weighting."""

from __future__ import annotations

from typing import Any, Optional

import torch

from ..calibration import ClassPrior, PriorLike, ZeroCount, generalized_reweight
from .adjusted import AdjustedCrossEntropyLoss


class GRWCrossEntropyLoss(AdjustedCrossEntropyLoss):
    """Cross-entropy whose class weights undo the class frequencies, as far as ``exp_scale`` says.

    Source: Zhang et al., CVPR 2021, section 3.3. See :func:`generalized_reweight` for the weights
    and :func:`weighted_cross_entropy` for the normalisers.

    Args:
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes.
        exp_scale: ρ, how far the frequencies are undone: 0 is plain cross-entropy, 1 balances the
            classes fully. The released values are 0.2 (ADE20K), 0.8 (LVIS) and 1.2 (ImageNet-LT).
        background_weight: Weight of a background class that follows those of the prior in the
            scores, as in a detector. Default: None, there is none.
        zero_count: How to treat classes that the prior never saw. Default: None, an error.
        kwargs: Arguments of :class:`AdjustedCrossEntropyLoss`; the name is ``'loss_grw'``.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        exp_scale: float,
        *,
        background_weight: Optional[float] = None,
        zero_count: ZeroCount = None,
        **kwargs: Any,
    ) -> None:
        prior = ClassPrior.build(class_prior)
        weight = generalized_reweight(prior, exp_scale, zero_count=zero_count)
        if background_weight is not None:
            weight = torch.cat([weight, weight.new_tensor([background_weight])])
        kwargs = {'loss_name': 'loss_grw', **kwargs}
        super().__init__(prior, class_weight=weight, **kwargs)
        self.exp_scale = exp_scale

    def extra_repr(self) -> str:
        return (
            f'{self.num_classes} classes, exp_scale={self.exp_scale}, normalizer={self.normalizer}'
        )
