"""Two-stage detectors whose classifiers are calibrated, whatever their heads."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Optional

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ..calibration import PriorLike
from ..engine import CalibrationStageMixin
from .bbox_heads import calibrated, registered_class


class CalibratedRoIHeadMixin:
    """Lets an mmdet RoI head compute its classification loss alone; mixed in before its class."""

    _mask_is_hidden = False

    @property
    def with_mask(self) -> bool:
        """Whether there is a mask head, and it is to run."""
        return super().with_mask and not self._mask_is_hidden

    def classification_loss(self, *args: Any) -> dict[str, Tensor]:
        """The classification losses, by the inherited ``loss``: no mask head, no regression.

        Args:
            args: Arguments of mmdet's ``StandardRoIHead.loss``.
        """
        self._mask_is_hidden = True
        try:
            losses = self.loss(*args)
        finally:
            self._mask_is_hidden = False
        # Other losses, such as HTC's semantic one, have nothing to train.
        return {key: value for key, value in losses.items() if 'loss' not in key or 'cls' in key}


@MODELS.register_module()
class CalibratedTwoStageDetector(CalibrationStageMixin, TwoStageDetector):
    """A two-stage mmdet detector that learns to calibrate the scores of its bbox heads.

    Written over a stage-1 config of Faster, Mask, Cascade or Cascade Mask R-CNN or of HTC, it
    makes stage 2 of it: each classifier is calibrated, at every stage of a cascade, and in the
    stage ``'calibration'`` all else is frozen, in eval mode and without autograd. Proposals are
    sampled as in training; the losses of the RPN, of box regression and of masks are not computed.

    Args:
        roi_head: Config of the RoI head; its bbox heads must build their classifier from
            ``cls_predictor_cfg``.
        class_prior: Frequencies of the training instances: anything that ``ClassPrior.build``
            takes. The loss becomes :class:`GRWCrossEntropyLoss`. Default: None, the heads keep
            theirs.
        exp_scale: ρ of that loss. Default: 0.8, the released value for LVIS.
        stage: ``'calibration'`` or ``'joint'``, which trains everything.
            Default: ``'calibration'``.
        kwargs: Arguments of ``TwoStageDetector``.
    """

    classifier_weight = 'fc_cls.weight'
    num_background = 1

    def __init__(
        self,
        *,
        roi_head: Any,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.8,
        stage: str = 'calibration',
        **kwargs: Any,
    ) -> None:
        roi_head = copy.deepcopy(dict(roi_head))
        roi_head['type'] = calibrated_roi_head(registered_class(roi_head['type']))
        heads = roi_head['bbox_head']
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            head['type'] = calibrated(registered_class(head['type']))
            if class_prior is not None:
                head['loss_cls'] = _grw_loss(head.get('loss_cls', {}), class_prior, exp_scale)
        super().__init__(roi_head=roi_head, **kwargs)
        self._enter_stage(stage)
        for head in self._bbox_heads():
            head.classification_only = self.calibrating

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch; in the stage ``'calibration'``, of classification alone.

        Args:
            batch_inputs: Images, shape (N, 3, H, W).
            batch_data_samples: Ground truth of each image.
        """
        self._check_loaded()
        if not self.calibrating:
            return super().loss(batch_inputs, batch_data_samples)
        with torch.no_grad():
            features = self.extract_feat(batch_inputs)
            proposals = self._proposals(features, batch_data_samples)
        return self.roi_head.classification_loss(features, proposals, batch_data_samples)

    def _proposals(self, features: tuple[Tensor, ...], samples: SampleList) -> InstanceList:
        """What the RPN proposes in training, without its losses."""
        if not self.with_rpn:
            return [sample.proposals for sample in samples]
        return self.rpn_head.predict_by_feat(
            *self.rpn_head(features),
            batch_img_metas=[sample.metainfo for sample in samples],
            cfg=self.train_cfg.get('rpn_proposal', self.test_cfg.rpn),
            rescale=False,
        )

    def _bbox_heads(self) -> list[nn.Module]:
        heads = self.roi_head.bbox_head
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


@cache
def calibrated_roi_head(roi_head: type) -> type:
    """The class of a RoI head that can compute its classification loss alone."""
    if issubclass(roi_head, CalibratedRoIHeadMixin):
        return roi_head
    return type(f'DisAlign{roi_head.__name__}', (CalibratedRoIHeadMixin, roi_head), {})


def _grw_loss(loss: dict, class_prior: PriorLike, exp_scale: float) -> dict:
    """GRW cross-entropy in the place of softmax cross-entropy; another loss is refused later."""
    if loss.get('type', 'CrossEntropyLoss') != 'CrossEntropyLoss' or loss.get('use_sigmoid', False):
        return loss
    grw = {'type': 'GRWCrossEntropyLoss', 'class_prior': class_prior, 'exp_scale': exp_scale}
    return {**grw, 'loss_weight': loss.get('loss_weight', 1.0)}
