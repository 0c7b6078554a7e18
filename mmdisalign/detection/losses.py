"""GRW cross-entropy for bbox heads."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS

from .. import losses
from ..calibration import PriorLike


@MODELS.register_module()
class GRWCrossEntropyLoss(losses.GRWCrossEntropyLoss):
    """:class:`mmdisalign.losses.GRWCrossEntropyLoss` over foreground and background.

    The prior weighs the foreground classes; the background, the last score, has weight 1. As in the
    released detection code, the mean is over the sum of the weights of the sampled proposals.

    Args:
        class_prior: Frequencies of the foreground classes.
        exp_scale: ρ.
        normalizer: Default: ``'class_weight'``. With ``'elements'`` or ``'valid'``, mmdet's
            ``avg_factor`` is the number of proposals.
        kwargs: Other arguments of the base class.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        exp_scale: float,
        *,
        normalizer: str = 'class_weight',
        **kwargs: Any,
    ) -> None:
        # No label of a detector means 'ignore': label_weights do, and 255 may be a class.
        kwargs = {'background_weight': 1.0, 'ignore_index': -100, 'loss_name': 'loss_cls', **kwargs}
        super().__init__(class_prior, exp_scale, normalizer=normalizer, **kwargs)
