"""Losses for bbox heads: those of ``mmdisalign.losses`` with a detector's background."""

from __future__ import annotations

from typing import Any, Optional, Union

import torch
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from torch import Tensor

from .. import losses
from ..calibration import PriorLike

# No label of a detector means 'ignore': label_weights do, and 255 may be a class.
BBOX_HEAD = {'ignore_index': -100, 'loss_name': 'loss_cls'}


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
        kwargs = {'background_weight': 1.0, **BBOX_HEAD, **kwargs}
        super().__init__(class_prior, exp_scale, normalizer=normalizer, **kwargs)


@MODELS.register_module()
class BalancedSoftmaxLoss(losses.BalancedSoftmaxLoss):
    """:class:`mmdisalign.losses.BalancedSoftmaxLoss` over foreground and background.

    Args:
        class_prior: Counts of the foreground classes.
        background_count: A number, or ``'left_out'``. Default: ``'left_out'``.
        kwargs: Other arguments of the base class.
    """

    def __init__(
        self,
        class_prior: PriorLike,
        *,
        background_count: Union[float, str] = 'left_out',
        **kwargs: Any,
    ) -> None:
        super().__init__(class_prior, background_count=background_count, **{**BBOX_HEAD, **kwargs})


@MODELS.register_module()
class BalancedSigmoidLoss(losses.BalancedSigmoidLoss):
    """:class:`mmdisalign.losses.BalancedSigmoidLoss` for a bbox head, which gets C scores.

    Args:
        class_prior: Counts of the foreground classes.
        kwargs: Other arguments of the base class.
    """

    # What mmdet's bbox heads ask of a loss that is not on a softmax.
    custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(self, class_prior: PriorLike, **kwargs: Any) -> None:
        super().__init__(class_prior, **{**BBOX_HEAD, **kwargs})

    def get_cls_channels(self, num_classes: int) -> int:
        """Number of scores: those of the classes, the background has none."""
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Probabilities (N, C + 1) of scores (N, C): mmdet drops the last, the background's."""
        return torch.cat([cls_score.sigmoid(), cls_score.new_zeros(len(cls_score), 1)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Optional[Tensor]]:
        """Accuracy, in per cent, over the proposals of an object."""
        foreground = labels < self.num_classes
        return {'acc_classes': accuracy(cls_score[foreground], labels[foreground])}
