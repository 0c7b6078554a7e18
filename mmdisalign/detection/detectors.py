"""Detectors whose classification layers calibrate their scores: one mixin for all of mmdet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Optional

import torch
from mmdet.models.dense_heads import RPNHead, SSDHead
from mmdet.models.detectors import (
    BaseDetector,
    Detectron2Wrapper,
    SemiBaseDetector,
    TridentFasterRCNN,
    TwoStageDetector,
    TwoStagePanopticSegmentor,
)
from mmdet.models.mot import BaseMOTModel
from mmdet.models.roi_heads.bbox_heads import BBoxHead, SABLHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ..calibration import ClassPrior, PriorLike, ZeroCount, generalized_reweight, mix_in
from ..engine import (
    CalibrationStageMixin,
    as_in_training,
    derive,
    refusal,
    registered_class,
    trained_terms,
    unknown_arguments,
)
from ..losses import reweight_loss
from ..losses.cross_entropy import checked_normalizer
from .layers import ScoringHead, calibrate_head, on_sigmoids, scoring_heads
from .losses import GRWCrossEntropyLoss, PCBLoss, SeesawPCBLoss, stage2_loss
from .roi_heads import BRANCHES, ClassificationLossMixin, calibrated_roi_head

# Terms that have a gradient and are not of the classes of what predicts.
OTHER_TERMS = {
    'dn_loss_cls',  # of queries made of the truth (DINO)
    'enc_loss_cls',  # of the queries that the encoder proposes, some without classes
    'loss_carl',  # of boxes, weighed by their scores (PISA)
    *('loss_conf', 'loss_wh', 'loss_xy'),  # of what YOLOv3's layer makes beside the scores
}
REFUSED = {
    BaseMOTModel: 'it tracks in videos, calibrate its detector',
    SemiBaseDetector: 'its student learns from its teacher, calibrate the config of one of them',
    TridentFasterRCNN: BRANCHES,
    Detectron2Wrapper: 'its model is not of mmdet',
}


class CalibratedDetectorMixin(CalibrationStageMixin):
    """Makes stage 2 of a detector: its classification layers calibrate their scores, and train.

    Mixed in before the detector's class, which is built as it is, assigns labels and computes its
    losses as it does; of those, the terms of classes remain, see :meth:`_of_classes`. The
    calibrations are in the layers, see :func:`calibrate_layer`, one a head; levels whose layers see
    other channels have their own.

    The losses get the weights of GRW where they are: :class:`GRWCrossEntropyLoss` in the place of a
    bbox head's plain softmax cross-entropy; else :class:`ReweightedRowsMixin` in one on a softmax
    (DETR, Mask2Former, SSD, YOLACT, Seesaw), whose weight of no object stays, and
    :class:`ReweightedPositivesMixin` in one on sigmoids (focal and its kin).

    Args:
        class_prior: Frequencies of the training instances: anything that ``ClassPrior.build``
            takes. Of one of things and stuff, a detector whose boxes are of things (PanopticFPN)
            takes those. Default: None, the losses stay as they are.
        exp_scale: ρ. Default: 0.8, the released value for LVIS.
        zero_count: How to weigh classes that were never seen, see :func:`generalized_reweight`.
            Default: None, they are an error.
        stage: ``'calibration'`` or ``'joint'``, which trains everything.
            Default: ``'calibration'``.
        calibrated_layers: Names of classification layers in the model, for a head of one's own:
            ``['bbox_head.conv_cls']``; ``*`` is each of a list, ``-1`` its last. Default: (), the
            layers of mmdet's heads.
        kwargs: Arguments of the detector.

    Raises:
        TypeError: If no layer is known, or one cannot be calibrated.
        ValueError: If a prior is of other classes.
    """

    def __init__(
        self,
        *,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.8,
        zero_count: ZeroCount = None,
        stage: str = 'calibration',
        calibrated_layers: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        _check_arguments(type(self), kwargs)
        super().__init__(**kwargs)
        self._heads = scoring_heads(self, calibrated_layers)
        for found in self._heads:
            calibrate_head(found)
        self.class_prior = None if class_prior is None else _scored(self, class_prior)
        self.exp_scale = exp_scale
        if self.class_prior is not None:
            for found in self._heads:
                _reweight(found, self.class_prior, exp_scale, zero_count)
        if stage == 'calibration':
            _check_weighed(self, self._heads)
        self._name_classifier()
        self._has_short_way = _shorten(self)
        self._enter_stage(stage)
        for found in self._heads:
            if hasattr(found.head, 'initial_epoch') and self.calibrating:
                found.head.initial_epoch = 0  # it assigns as at the end of stage 1 (TOOD)
            if isinstance(found.head, ClassificationLossMixin):
                found.head.classification_only = self.calibrating

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch; in the stage ``'calibration'``, of classification alone.

        Args:
            batch_inputs: Images, shape (N, 3, H, W).
            batch_data_samples: Ground truth of each image.
        """
        self._check_loaded()
        if not self.calibrating:
            return super().loss(batch_inputs, batch_data_samples)
        if self._has_short_way:
            return self._of_classes(self._classification_loss(batch_inputs, batch_data_samples))
        # What is below the heads stays in eval.
        heads = [child for name, child in self.named_children() if 'head' in name]
        with as_in_training(self, *self._calibrated_heads(), *heads):
            losses = super().loss(batch_inputs, batch_data_samples)
        return self._of_classes(losses)

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
        return [found.head for found in self._heads]

    def _of_classes(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """The terms of classes, and what is logged beside them.

        They are told by their gradients, not by their names, which a head of one's own may choose:
        while all else is frozen, those of boxes, masks and proposals have none.
        """
        own = {k: v for k, v in losses.items() if k.rpartition('.')[2] not in OTHER_TERMS}
        kept = trained_terms(self, own)
        first = next(key for key in kept if 'loss' in key)
        # DDP waits for the gradient of every parameter, also of a level without an object, or of a
        # cascade's stage without a proposal.
        every = sum(0 * p.sum() for p in self.parameters() if p.requires_grad)
        value = kept[first]
        kept[first] = [*value[:-1], value[-1] + every] if isinstance(value, list) else value + every
        return kept

    def _name_classifier(self) -> None:
        """The error for a checkpoint of other classes says how many it has."""
        found = self._heads[0]
        name, layer = next(iter(found.layers.items()))
        anchors = found.layout.anchors(layer.weight.shape[0])
        # Of several anchors, the rows are not the classes.
        self.classifier_weight = f'{name}.weight' if anchors == 1 else 'of one anchor'
        self.num_background = found.layout.before + found.layout.after


@MODELS.register_module()
class CalibratedTwoStageDetector(CalibratedDetectorMixin, TwoStageDetector):
    """A two-stage mmdet detector that learns to calibrate the scores of its bbox heads.

    The name of stage 2 for Faster, Mask, Cascade and Cascade Mask R-CNN and HTC, whose own types
    add nothing to ``TwoStageDetector``. Each classifier is calibrated, at every stage of a cascade.
    Proposals are sampled as in training; in the stage ``'calibration'``, the losses of the RPN, of
    box regression and of masks are not computed.

    Args:
        roi_head: Config of the RoI head.
        normalizer: What the :class:`GRWCrossEntropyLoss` divides by that takes the place of softmax
            cross-entropy. Default: ``'class_weight'``, as released.
        kwargs: Arguments of :class:`CalibratedDetectorMixin` and of ``TwoStageDetector``.
    """

    def __init__(
        self, *, roi_head: Any = None, normalizer: str = 'class_weight', **kwargs: Any
    ) -> None:
        if roi_head is None:
            raise TypeError(
                f'{type(self).__name__} is for a detector with a roi_head; of any other, write '
                "type=f'mmdisalign.detection.Calibrated{_base_.model.type}'"
            )
        super().__init__(roi_head=roi_head, **kwargs)
        if self.class_prior is not None:
            for head in self._calibrated_heads():
                _set_normalizer(head, normalizer)


def _set_normalizer(head: nn.Module, normalizer: str) -> None:
    loss = head.loss_cls
    if isinstance(loss, GRWCrossEntropyLoss):
        loss.normalizer = checked_normalizer(normalizer)
    elif normalizer != 'class_weight':
        name = type(loss).__name__.removeprefix('Reweighted')
        raise ValueError(
            f'normalizer={normalizer!r} is of GRWCrossEntropyLoss, which takes the place of plain '
            f'softmax cross-entropy; {name} divides as it does: leave normalizer out'
        )


class ReweightedSSDMixin:
    """SSD computes its cross-entropy itself: the weights of the anchors get those of GRW."""

    grw_weight: Tensor

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchor: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """As of mmdet's ``SSDHead``."""
        own = torch.cat([self.grw_weight, self.grw_weight.new_ones(1)])[labels]
        return super().loss_by_feat_single(
            cls_score, bbox_pred, anchor, labels, label_weights * own, *args, **kwargs
        )


@cache
def calibrated_detector(kind: type) -> type:
    """The calibrated class of a detector class, registered in mmdet as ``Calibrated<kind>``.

    It is also an attribute of :mod:`mmdisalign.detection`, so that a config can name it:
    ``type='mmdisalign.detection.CalibratedRetinaNet'``.
    """
    if issubclass(kind, CalibrationStageMixin):
        return kind
    if not issubclass(kind, (BaseDetector, BaseMOTModel)):
        raise refusal(kind, 'it is not an mmdet detector')
    for base, reason in REFUSED.items():
        if issubclass(kind, base):
            raise refusal(kind, reason)
    return derive(kind, CalibratedDetectorMixin, MODELS, f'Calibrated{kind.__name__}')


def calibrated_model(model: Mapping[str, Any]) -> str:
    """The ``type`` of stage 2 for the config of a detector.

    Raises:
        TypeError: If it is not a detector.
    """
    kind = registered_class(model.get('type'), MODELS)
    return f'mmdisalign.detection.{calibrated_detector(kind).__name__}'


def _check_weighed(model: nn.Module, found: Sequence[ScoringHead]) -> None:
    """Raise ValueError if no loss knows how frequent the classes are: calibration has no use."""
    if model.class_prior is None and not any(hasattr(own.loss, 'class_prior') for own in found):
        raise ValueError(
            'the calibration stage needs class frequencies: set class_prior on the model '
            '(tools/class_prior.py counts them), or GRWCrossEntropyLoss as loss_cls of a bbox head'
        )


def _check_arguments(ours: type, options: Mapping[str, Any]) -> None:
    """Raise TypeError if a config is of a detector of another type, or an option is misspelt."""
    unknown = unknown_arguments(ours, options)
    if unknown:
        raise TypeError(
            f'{ours.__name__} has no {", ".join(unknown)}: that is misspelt, or the model of stage '
            "1 is of another type; write type=f'mmdisalign.detection.Calibrated{_base_.model.type}'"
        )


def _scored(model: nn.Module, class_prior: PriorLike) -> ClassPrior:
    """The prior of the classes that a detector's calibrated heads score.

    mmdet has things before stuff, and stuff is of a two-stage segmentor's semantic head.
    """
    prior = ClassPrior.build(class_prior)
    if isinstance(model, TwoStagePanopticSegmentor) and len(prior) == model.num_classes:
        return prior.first(model.num_things_classes)
    return prior


def _reweight(
    found: ScoringHead, prior: ClassPrior, exp_scale: float, zero_count: ZeroCount
) -> None:
    """Give the classification loss of a head the weights of GRW."""
    head, classes = found.head, found.layout.num_classes
    if len(prior) != classes:
        raise ValueError(
            f'the class prior has {len(prior)} classes, but {type(head).__name__} has {classes}'
        )
    weight = generalized_reweight(prior, exp_scale, zero_count=zero_count)
    if isinstance(head, SSDHead):
        mix_in(head, ReweightedSSDMixin, 'Reweighted')
        head.register_buffer('grw_weight', weight, persistent=False)
        head.loss_cls = None  # mmdet 3.3's predict asks for it, and SSDHead has none
        return
    loss = found.loss
    if not isinstance(loss, nn.Module):
        raise refusal(type(head), 'it has no loss of its classes to weigh them in')
    if isinstance(head, (BBoxHead, SABLHead)):
        own = stage2_loss(loss, prior, exp_scale, zero_count)
        if own is not None:
            head.loss_cls = own
            return
    if hasattr(loss, 'class_prior'):
        raise ValueError(
            f'the loss of {type(head).__name__}, {type(loss).__name__}, has a class_prior of its '
            'own: leave that of the model out'
        )
    if isinstance(loss, (SeesawPCBLoss, PCBLoss)):
        loss.balance.alpha = 0.0  # of training, not of stage 2
    reweight_loss(loss, weight, on_sigmoids=on_sigmoids(loss))


def _shorten(model: nn.Module) -> bool:
    """Let a two-stage detector leave out proposals' and masks' losses; returns whether it can."""
    if type(model).loss is not CalibratedDetectorMixin.loss or not isinstance(
        model, TwoStageDetector
    ):
        return False
    own_loss = next(kind for kind in type(model).__mro__[2:] if 'loss' in vars(kind))
    heads = [found.head for found in model._heads]
    if own_loss is not TwoStageDetector or not all(
        type(head).loss in (BBoxHead.loss, ClassificationLossMixin.loss) for head in heads
    ):
        return False
    if model.with_rpn and not isinstance(model.rpn_head, RPNHead):
        return False
    try:
        kind = calibrated_roi_head(type(model.roi_head))
    except TypeError:  # it does not run without masks
        return False
    interleaved = model.roi_head.__dict__.pop('interleaved', None)
    model.roi_head.__class__ = kind
    if interleaved is not None:
        model.roi_head.interleaved = interleaved
    for head in heads:
        if not isinstance(head, ClassificationLossMixin):
            mix_in(head, ClassificationLossMixin, 'Calibrated')
    return True
