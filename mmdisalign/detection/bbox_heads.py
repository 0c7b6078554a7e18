"""Calibrated bbox heads: each is its mmdet head with a calibrated classifier, ``fc_cls``."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Optional

from mmdet.models.roi_heads import bbox_heads as heads
from mmdet.registry import MODELS
from torch import Tensor

from ..engine import check_prior, derive, refusal, registered_class
from .classifiers import CalibratedClassifierMixin, calibrated_classifier


class ClassificationLossMixin:
    """Lets a bbox head leave box regression out of its losses; mixed in before the head's class.

    Attributes:
        classification_only: Whether it does. Default: False.
    """

    classification_only = False

    def loss(
        self, cls_score: Tensor, bbox_pred: Optional[Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of the head; arguments as of mmdet's ``BBoxHead.loss``."""
        losses = super().loss(
            cls_score, None if self.classification_only else bbox_pred, *args, **kwargs
        )
        if not any('loss_cls' in name for name in losses):  # Seesaw has two
            # mmdet has no loss without a proposal, and then no gradient for DDP to reduce.
            losses['loss_cls'] = cls_score.sum()
        return losses


class CalibratedBBoxHeadMixin(ClassificationLossMixin):
    """Gives a bbox head a calibrated classifier, through its ``cls_predictor_cfg``.

    Mixed in before the head's class.
    """

    def __init__(self, *args: Any, cls_predictor_cfg: Optional[dict] = None, **kwargs: Any) -> None:
        predictor = dict(cls_predictor_cfg or {'type': 'Linear'})
        predictor['type'] = calibrated_classifier(registered_class(predictor['type'], MODELS))
        super().__init__(*args, cls_predictor_cfg=predictor, **kwargs)
        self._check_classifier()
        check_prior(self.loss_cls, self.num_classes, 'bbox head')

    def _check_classifier(self) -> None:
        if not isinstance(getattr(self, 'fc_cls', None), CalibratedClassifierMixin):
            raise refusal(type(self), 'it does not build its classifier from cls_predictor_cfg')
        loss = type(self.loss_cls).__name__
        if self.custom_cls_channels or self.custom_activation:
            raise refusal(type(self), f'with {loss}, which has score channels of its own')
        if getattr(self.loss_cls, 'use_sigmoid', False):
            raise refusal(type(self), f'with {loss} on sigmoid scores, not softmax ones')


@cache
def calibrated(head: type) -> type:
    """The calibrated class of a bbox head class, registered in mmdet as ``DisAlign<head>``.

    Args:
        head: A subclass of mmdet's ``BBoxHead`` that builds its classifier from
            ``cls_predictor_cfg``.

    Raises:
        TypeError: If the head does not; it may also be found out when the head is built.
    """
    if issubclass(head, CalibratedBBoxHeadMixin):
        return head
    if not issubclass(head, heads.BBoxHead):
        raise refusal(head, 'it is not an mmdet BBoxHead')
    parameters = inspect.signature(head.__init__).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if 'cls_predictor_cfg' not in parameters and not passes_on:
        raise refusal(head, 'it does not build its classifier from cls_predictor_cfg')
    return derive(head, CalibratedBBoxHeadMixin, MODELS)


DisAlignConvFCBBoxHead = calibrated(heads.ConvFCBBoxHead)
DisAlignShared2FCBBoxHead = calibrated(heads.Shared2FCBBoxHead)
DisAlignShared4Conv1FCBBoxHead = calibrated(heads.Shared4Conv1FCBBoxHead)
