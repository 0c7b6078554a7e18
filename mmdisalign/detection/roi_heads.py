"""Two-stage detectors whose classifiers are calibrated, whatever their heads."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Optional

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads import SCNetRoIHead, TridentRoIHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike, ZeroCount
from ..engine import CalibrationStageMixin, refusal, registered_class
from .bbox_heads import calibrated
from .losses import GRWCrossEntropyLoss

BRANCHES = 'its branches train together, and one of them predicts'  # TridentNet's


class CalibratedRoIHeadMixin:
    """Lets an mmdet RoI head compute its classification loss alone; mixed in before its class."""

    _classification_only = False

    @property
    def with_mask(self) -> bool:
        """Whether there is a mask head, and it is to run."""
        return super().with_mask and not self._classification_only

    @property
    def interleaved(self) -> bool:
        """HTC's option: whether the mask branch refines the boxes for the next stage.

        Where it does not run, the stages hand them on as those of a Cascade R-CNN do.
        """
        return self._interleaved and not self._classification_only

    @interleaved.setter
    def interleaved(self, interleaved: bool) -> None:
        self._interleaved = interleaved

    def classification_loss(self, *args: Any) -> dict[str, Tensor]:
        """The classification losses, by the inherited ``loss``: no mask head, no regression.

        Args:
            args: Arguments of mmdet's ``StandardRoIHead.loss``.
        """
        self._classification_only = True
        try:
            losses = self.loss(*args)
        finally:
            self._classification_only = False
        # Other losses, such as HTC's semantic one, have nothing to train.
        losses = {key: value for key, value in losses.items() if 'loss' not in key or 'cls' in key}
        # A cascade that runs out of proposals leaves its last stages without a loss, and DDP waits
        # for the gradient of every parameter.
        first = next(key for key in losses if 'loss' in key)
        losses[first] = losses[first] + sum(
            0 * p.sum() for p in self.parameters() if p.requires_grad
        )
        return losses


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
            takes. Softmax cross-entropy becomes :class:`GRWCrossEntropyLoss`; another loss is an
            error. Default: None, the heads keep theirs.
        exp_scale: ρ of that loss. Default: 0.8, the released value for LVIS.
        zero_count: How that loss treats classes that were never seen, see
            :func:`generalized_reweight`. Default: None, they are an error.
        normalizer: What that loss divides by. Default: ``'class_weight'``, as released.
        stage: ``'calibration'`` or ``'joint'``, which trains everything.
            Default: ``'calibration'``.
        kwargs: Arguments of ``TwoStageDetector``.
    """

    classifier_weight = 'fc_cls.weight'
    num_background = 1

    def __init__(
        self,
        *,
        roi_head: Any = None,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.8,
        zero_count: ZeroCount = None,
        normalizer: str = 'class_weight',
        stage: str = 'calibration',
        **kwargs: Any,
    ) -> None:
        if roi_head is None:
            raise TypeError(
                f'{type(self).__name__} is for a detector with a roi_head; of any other, write '
                "type=f'mmdisalign.detection.Calibrated{_base_.model.type}'"
            )
        roi_head = copy.deepcopy(dict(roi_head))
        grw = {'exp_scale': exp_scale, 'zero_count': zero_count, 'normalizer': normalizer}
        if class_prior is not None:
            # Built once, not by the loss of each stage of a cascade: LVIS's file has a gigabyte.
            grw['class_prior'] = ClassPrior.build(class_prior)
        roi_head['type'] = calibrated_roi_head(registered_class(roi_head['type'], MODELS))
        heads = roi_head['bbox_head']
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            head['type'] = calibrated(registered_class(head['type'], MODELS))
            if class_prior is not None:
                head['loss_cls'] = _grw_loss(head.get('loss_cls', {}), grw)
        super().__init__(roi_head=roi_head, **kwargs)
        if self.with_rpn and not isinstance(self.rpn_head, RPNHead):
            raise TypeError(
                f'a detector with {type(self.rpn_head).__name__} cannot be calibrated: it makes no '
                'proposals without its losses; RPNHead does'
            )
        self._enter_stage(stage)
        for head in self._calibrated_heads():
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
        return self._classification_loss(batch_inputs, batch_data_samples)

    def _classification_loss(self, inputs: Tensor, samples: SampleList) -> dict[str, Tensor]:
        """That of the bbox heads, without those of proposals, boxes and masks."""
        with torch.no_grad():
            features = self.extract_feat(inputs)
            proposals = self._proposals(features, samples)
        return self.roi_head.classification_loss(features, proposals, samples)

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

    def _calibrated_heads(self) -> list[nn.Module]:
        heads = self.roi_head.bbox_head
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


@cache
def calibrated_roi_head(roi_head: type) -> type:
    """The class of a RoI head that can compute its classification loss alone.

    Raises:
        TypeError: If the head cannot.
    """
    if issubclass(roi_head, CalibratedRoIHeadMixin):
        return roi_head
    if issubclass(roi_head, SCNetRoIHead):
        raise refusal(roi_head, 'it does not run without masks')
    if issubclass(roi_head, TridentRoIHead):
        raise refusal(roi_head, BRANCHES)
    return type(f'DisAlign{roi_head.__name__}', (CalibratedRoIHeadMixin, roi_head), {})


def _grw_loss(loss: dict, grw: dict) -> dict:
    """GRW cross-entropy in the place of softmax cross-entropy.

    Raises:
        ValueError: If the loss is another one, or has options that would be lost.
    """
    options = {'type': 'CrossEntropyLoss', **loss}
    kind = registered_class(options.pop('type'), MODELS)
    weight = options.pop('loss_weight', 1.0)
    lost = {key: value for key, value in options.items() if value not in (None, False, 'mean')}
    if kind is not CrossEntropyLoss or lost:
        what = f'{kind.__name__} {lost}' if lost else kind.__name__
        raise ValueError(
            f'class_prior replaces plain softmax CrossEntropyLoss, but loss_cls is {what}: leave '
            'class_prior out, or put GRWCrossEntropyLoss into loss_cls'
        )
    return {'type': GRWCrossEntropyLoss, **grw, 'loss_weight': weight}
