"""Segmentors whose decode head is calibrated, whatever its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Optional

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.knet_head import IterativeDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.segmentors import (
    CascadeEncoderDecoder,
    EncoderDecoder,
    MultimodalEncoderDecoder,
)
from mmseg.registry import MODELS
from mmseg.utils import SampleList, add_prefix
from torch import Tensor

from ..calibration import PriorLike, ZeroCount
from ..engine import (
    CalibrationStageMixin,
    as_in_training,
    derive,
    refusal,
    registered_class,
    trained_terms,
    unknown_arguments,
)
from .decode_heads import calibrated
from .layers import (
    calibrate_layers,
    class_losses,
    classification_layer,
    num_outputs,
    weigh_classes,
)

# What a segmentor of one's own computes its losses in.
LOSSES = ('loss', '_decode_head_forward_train')


@MODELS.register_module()
class CalibratedEncoderDecoder(CalibrationStageMixin, EncoderDecoder):
    """An mmseg ``EncoderDecoder`` that learns to calibrate the scores of its decode head.

    Written over a stage-1 config, it makes stage 2 of it: the decode head becomes its calibrated
    class or, where it does not classify through ``cls_seg``, its classification layer becomes a
    calibrated one. In the stage ``'calibration'``, all else is frozen, in eval mode and without
    autograd, and the auxiliary heads, which are kept so that the checkpoint fits, are not run.

    A head that classifies masks (Mask2Former, MaskFormer) matches queries to classes as it does,
    by calibrated scores, and of its losses those of classes train: softmax cross-entropy over the
    classes and no object, for each decoder layer. PointRend's is of the points that it draws,
    K-Net's of the last stage.

    A segmentor of one's own keeps what it does otherwise, see :func:`calibrated_segmentor`; of the
    losses that it computes itself, those that the calibration can change train.

    Args:
        decode_head: Config of an mmseg head.
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes. ``loss_decode`` becomes :class:`GRWCrossEntropyLoss`; in the stage ``'joint'``,
            it replaces softmax cross-entropy alone. In the place of that, the ``loss_cls`` of a
            head that classifies masks gets the weights of GRW for the classes, whose own weights,
            and that of no object, stay. Default: None, ``decode_head`` has the loss.
        exp_scale: ρ of that loss. Default: 0.2, the released value for ADE20K.
        zero_count: How that loss treats classes that were never seen, see
            :func:`generalized_reweight`. Default: None, they are an error.
        stage: ``'calibration'`` or ``'joint'``, which trains everything. Default:
            ``'calibration'``.
        calibration: ``norm_cfg`` and ``act_cfg`` of the confidence, see
            :class:`CalibratedHeadMixin`. Default: None.
        tiled_loss: Whether the stage ``'calibration'`` computes its loss in tiles: the same loss
            and gradients in a fraction of the memory, for :class:`GRWCrossEntropyLoss` without a
            pixel sampler. Default: False, which is faster where the scores are small or the
            cores busy, see ``benchmarks/README.md``.
        calibrated_layers: Names of classification layers in the model, for a head of one's own
            that does not classify through ``cls_seg``: ``['decode_head.classify']``; ``*`` is each
            of a list, ``-1`` its last. Default: (), what is known of mmseg's heads.
        kwargs: Arguments of ``EncoderDecoder``.

    Raises:
        TypeError: If the head cannot be calibrated, or the arguments are of another model.
        ValueError: If the arguments contradict each other.
    """

    classifier_weight = 'conv_seg.weight'
    _head_path = 'decode_head'

    def __init__(
        self,
        *,
        decode_head: Any = None,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.2,
        zero_count: ZeroCount = None,
        stage: str = 'calibration',
        calibration: Optional[dict] = None,
        tiled_loss: bool = False,
        calibrated_layers: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if decode_head is None:
            raise TypeError(
                f'{type(self).__name__} is for a segmentor with a decode_head; a detector takes '
                'disalign_det.py and the lines of docs/detection.md, a classifier disalign_cls.py '
                'and those of docs/classification.md'
            )
        head = self._last_head(decode_head)
        kind = registered_class(head.get('type'), MODELS)
        paths = tuple(calibrated_layers) or self._known_layers(kind)
        if paths:
            _check_options(kind, calibration=calibration is not None, tiled_loss=tiled_loss)
        else:
            head['type'] = _calibrated_head_class(kind)
        if calibration is not None:
            head['calibration'] = calibration
        self.grw = {'class_prior': class_prior, 'exp_scale': exp_scale, 'zero_count': zero_count}
        _put_losses(head, kind, self.grw, stage)
        _check_arguments(type(self), kwargs)
        super().__init__(decode_head=self._with_last_head(decode_head, head), **kwargs)
        self.calibrated_layers = tuple(calibrated_layers)
        self._layers = calibrate_layers(self, self._calibrated_head, paths, bool(calibrated_layers))
        if paths:
            weigh_classes(self._calibrated_head, **self.grw)
            self._name_classifier()
        self._enter_stage(stage)
        if tiled_loss:
            self._tile_loss()

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch; in the stage ``'calibration'``, of the decode head's scores alone.

        Args:
            inputs: Images, shape (N, 3, H, W).
            data_samples: Ground truth of each image.
        """
        self._check_loaded()
        if not self.calibrating:
            return super().loss(inputs, data_samples)
        if self.has_own_loss:
            with as_in_training(self, self._calibrated_head):
                losses = super().loss(inputs, data_samples)
            return trained_terms(self, losses)
        with torch.no_grad():
            head_inputs = self._head_inputs(self.extract_feat(inputs))
        head = self._calibrated_head
        if self._layers:
            losses = class_losses(head, head_inputs, data_samples, self.train_cfg)
        else:
            losses = head.calibration_loss(*head_inputs, batch_data_samples=data_samples)
        return add_prefix(losses, 'decode')

    @property
    def has_own_loss(self) -> bool:
        """Whether the segmentor of stage 1 computes its losses otherwise than mmseg's."""
        ours = {k for k in type(self).__mro__ if issubclass(k, CalibrationStageMixin)}
        stock = {*CascadeEncoderDecoder.__mro__, *CalibrationStageMixin.__mro__, *ours}
        own = [kind for kind in type(self).__mro__ if kind not in stock]
        return any(name in vars(kind) for kind in own for name in LOSSES)

    def _tile_loss(self) -> None:
        if self.has_own_loss:
            raise ValueError(
                f'tiled_loss is of the losses of mmseg, and {type(self).__name__} has its own: '
                'leave tiled_loss out'
            )
        if not self.calibrating:
            raise ValueError(
                f"tiled_loss is of the stage 'calibration', not of {self.stage!r}, where each head "
                'computes the loss its own way: leave tiled_loss out'
            )
        self._calibrated_head.tile_loss()

    def _name_classifier(self) -> None:
        """The error for a checkpoint of other classes says how many it has."""
        name, layer = next(iter(self._layers.items()))
        outputs = num_outputs(layer)
        if isinstance(getattr(layer, 'weight', None), torch.Tensor) and outputs:
            self.classifier_weight = f'{name}.weight'
            self.num_background = outputs - self._calibrated_head.num_classes

    def _known_layers(self, head: type) -> tuple[str, ...]:
        """Where in the model the classification layer of a head class is, if that is known."""
        path = classification_layer(head)
        return () if path is None else (f'{self._head_path}.{path}',)

    @property
    def _calibrated_head(self) -> torch.nn.Module:
        return self.decode_head

    def _head_inputs(self, features: Any) -> tuple:
        """What the calibrated head's forward takes."""
        return (features,)

    def _last_head(self, decode_head: Any) -> dict:
        if isinstance(decode_head, (list, tuple)):
            raise TypeError(
                f'{type(self).__name__} has one decode head, the config {len(decode_head)}; of a '
                "cascade, write type=f'mmdisalign.segmentation.Calibrated{_base_.model.type}'"
            )
        return dict(decode_head)

    def _with_last_head(self, decode_head: Any, head: dict) -> Any:
        return head


@MODELS.register_module()
class CalibratedCascadeEncoderDecoder(CalibratedEncoderDecoder, CascadeEncoderDecoder):
    """An mmseg ``CascadeEncoderDecoder`` whose last head (OCRNet's, PointRend's) is calibrated.

    Args:
        decode_head: Configs of the heads, in order.
        kwargs: Arguments of :class:`CalibratedEncoderDecoder` and of ``CascadeEncoderDecoder``.
    """

    _head_path = 'decode_head.-1'

    @property
    def _calibrated_head(self) -> torch.nn.Module:
        return self.decode_head[-1]

    def _head_inputs(self, features: Any) -> tuple:
        output = self.decode_head[0].forward(features)
        for head in self.decode_head[1:-1]:
            output = head.forward(features, output)
        return features, output

    def _last_head(self, decode_head: Any) -> dict:
        if not isinstance(decode_head, (list, tuple)) or len(decode_head) < 2:
            raise TypeError(f'{type(self).__name__} needs a list of at least two decode heads')
        return dict(decode_head[-1])

    def _with_last_head(self, decode_head: Any, head: dict) -> Any:
        return [*decode_head[:-1], head]


@cache
def calibrated_segmentor(kind: type) -> type:
    """The calibrated class of a segmentor class, registered in mmseg as ``Calibrated<kind>``.

    It is also an attribute of :mod:`mmdisalign.segmentation`, so that a config can name it. What
    a subclass of ``EncoderDecoder`` does otherwise, it still does.

    Raises:
        TypeError: If it is not an ``EncoderDecoder``.
    """
    if issubclass(kind, CalibratedEncoderDecoder):
        return kind
    if issubclass(kind, MultimodalEncoderDecoder):
        raise refusal(kind, 'its classes are text')
    for base, ours in (
        (CascadeEncoderDecoder, CalibratedCascadeEncoderDecoder),
        (EncoderDecoder, CalibratedEncoderDecoder),
    ):
        if kind is base:
            return ours
        if issubclass(kind, base):
            return derive(kind, ours, MODELS, f'Calibrated{kind.__name__}')
    raise refusal(kind, 'it is not an EncoderDecoder')


def calibrated_model(model: Mapping[str, Any]) -> str:
    """The ``type`` of stage 2 for the config of a segmentor.

    Raises:
        TypeError: If its head cannot be calibrated, or it is neither an ``EncoderDecoder`` nor a
            ``CascadeEncoderDecoder``.
    """
    kind = registered_class(model.get('type'), MODELS)
    heads = model.get('decode_head') or {}
    head = heads[-1] if isinstance(heads, (list, tuple)) else heads
    if head.get('type') is not None:  # as a config of stage 2 would say
        own = registered_class(head['type'], MODELS)
        if not model.get('calibrated_layers') and classification_layer(own) is None:
            _calibrated_head_class(own)
    return f'mmdisalign.segmentation.{calibrated_segmentor(kind).__name__}'


def _check_options(head: type, **given: bool) -> None:
    """Raise ValueError if an option is given that a head with a calibrated layer has not."""
    for option in (name for name, is_given in given.items() if is_given):
        raise ValueError(
            f'{option} is for heads that classify through cls_seg, which {head.__name__} does not: '
            'leave it out'
        )


def _calibrated_head_class(kind: type) -> type:
    """The calibrated class of a head class that is to classify through ``cls_seg``."""
    try:
        return calibrated(kind)
    except TypeError as error:
        raise TypeError(
            f'{error}; of a head of your own, name the classification layers, such as '
            "calibrated_layers=['decode_head.classify']"
        ) from error


def _check_arguments(ours: type, options: Mapping[str, Any]) -> None:
    """Raise TypeError if a config is of a segmentor of another type, or an option is misspelt."""
    unknown = unknown_arguments(ours, options)
    if unknown:
        raise TypeError(
            f'{ours.__name__} has no {", ".join(unknown)}: that is misspelt, or the model of stage '
            "1 is of another type; write type=f'mmdisalign.segmentation."
            "Calibrated{_base_.model.type}'"
        )


NO_PRIOR = (
    'the calibration stage needs class frequencies: set class_prior on the model '
    '(tools/class_prior.py counts them), or GRWCrossEntropyLoss as loss_decode'
)


def _put_losses(head: dict, kind: type, grw: dict, stage: str) -> None:
    """Give an mmseg head, in its config, the losses of the stage.

    What is no ``BaseDecodeHead`` has its loss of classes elsewhere, see :func:`weigh_classes`.

    Raises:
        ValueError: If there is no prior where it is needed, or no loss that could take it.
    """
    if not issubclass(kind, BaseDecodeHead):
        if grw['class_prior'] is None and stage == 'calibration':
            raise ValueError(NO_PRIOR)
        return
    if issubclass(kind, IterativeDecodeHead):  # has those of what makes its first kernels
        head['kernel_generate_head'] = head = dict(head['kernel_generate_head'])
    if grw['class_prior'] is not None:
        head['loss_decode'] = _grw_losses(head, grw, stage)
    elif stage == 'calibration':
        _check_is_grw(head)


def _grw_losses(head: dict, options: dict, stage: str) -> Any:
    """The losses of a head with GRW cross-entropy in the place of softmax cross-entropy."""
    grw = {'type': 'GRWCrossEntropyLoss', **options}
    losses = head.get('loss_decode')
    if stage == 'calibration' or losses is None:
        return grw
    many = losses if isinstance(losses, (list, tuple)) else [losses]
    replaced = [
        {**grw, 'loss_weight': loss.get('loss_weight', 1.0)} if _is_softmax(loss) else loss
        for loss in many
    ]
    if replaced == list(many):
        kinds = ', '.join(str(loss['type']) for loss in many)
        raise ValueError(
            f'class_prior replaces softmax CrossEntropyLoss, but the losses are {kinds}: leave '
            'class_prior out, or put GRWCrossEntropyLoss into loss_decode'
        )
    return replaced if isinstance(losses, (list, tuple)) else replaced[0]


def _is_softmax(loss: dict) -> bool:
    kind = registered_class(loss.get('type'), MODELS)
    return kind is CrossEntropyLoss and not loss.get('use_sigmoid', False)


def _check_is_grw(head: dict) -> None:
    losses = head.get('loss_decode', {})
    if not isinstance(losses, dict) or 'class_prior' not in losses:
        raise ValueError(NO_PRIOR)
