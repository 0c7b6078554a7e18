"""Segmentors whose decode head is calibrated, whatever its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList, add_prefix
from torch import Tensor

from ..calibration import PriorLike, ZeroCount
from ..engine import CalibrationStageMixin, check_adds_nothing, registered_class
from .decode_heads import calibrated


@MODELS.register_module()
class CalibratedEncoderDecoder(CalibrationStageMixin, EncoderDecoder):
    """An mmseg ``EncoderDecoder`` that learns to calibrate the scores of its decode head.

    Written over a stage-1 config, it makes stage 2 of it: the decode head becomes its calibrated
    class and, in the stage ``'calibration'``, all else is frozen, in eval mode and without
    autograd, and the auxiliary heads, which are kept so that the checkpoint fits, are not run.

    Args:
        decode_head: Config of any mmseg head that classifies through ``cls_seg``.
        class_prior: Class frequencies of the training data: anything that ``ClassPrior.build``
            takes. The loss becomes :class:`GRWCrossEntropyLoss`; in the stage ``'joint'``, it
            replaces softmax cross-entropy alone. Default: None, ``decode_head`` has the loss.
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
        kwargs: Arguments of ``EncoderDecoder``.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    classifier_weight = 'conv_seg.weight'

    def __init__(
        self,
        *,
        decode_head: Any,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.2,
        zero_count: ZeroCount = None,
        stage: str = 'calibration',
        calibration: Optional[dict] = None,
        tiled_loss: bool = False,
        **kwargs: Any,
    ) -> None:
        head = self._last_head(decode_head)
        head['type'] = calibrated(registered_class(head.get('type'), MODELS))
        if calibration is not None:
            head['calibration'] = calibration
        if class_prior is not None:
            grw = {'class_prior': class_prior, 'exp_scale': exp_scale, 'zero_count': zero_count}
            head['loss_decode'] = _grw_losses(head, grw, stage)
        elif stage == 'calibration':
            _check_is_grw(head)
        super().__init__(decode_head=self._with_last_head(decode_head, head), **kwargs)
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
        with torch.no_grad():
            head_inputs = self._head_inputs(self.extract_feat(inputs))
        losses = self._calibrated_head.calibration_loss(
            *head_inputs, batch_data_samples=data_samples
        )
        return add_prefix(losses, 'decode')

    def _tile_loss(self) -> None:
        if not self.calibrating:
            raise ValueError(
                f"tiled_loss is of the stage 'calibration', not of {self.stage!r}, where each head "
                'computes the loss its own way: leave tiled_loss out'
            )
        self._calibrated_head.tile_loss()

    @property
    def _calibrated_head(self) -> torch.nn.Module:
        return self.decode_head

    def _head_inputs(self, features: Any) -> tuple:
        """What the calibrated head's forward takes."""
        return (features,)

    def _last_head(self, decode_head: Any) -> dict:
        if isinstance(decode_head, (list, tuple)):
            raise TypeError(
                f'{type(self).__name__} has one decode head, the config {len(decode_head)}; '
                "a cascade needs type='mmdisalign.segmentation.CalibratedCascadeEncoderDecoder'"
            )
        return dict(decode_head)

    def _with_last_head(self, decode_head: Any, head: dict) -> Any:
        return head


@MODELS.register_module()
class CalibratedCascadeEncoderDecoder(CalibratedEncoderDecoder, CascadeEncoderDecoder):
    """An mmseg ``CascadeEncoderDecoder`` (OCRNet) whose last head is calibrated: it predicts.

    Args:
        decode_head: Configs of the heads, in order.
        kwargs: Arguments of :class:`CalibratedEncoderDecoder` and of ``CascadeEncoderDecoder``.
    """

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


def calibrated_model(model: Mapping[str, Any]) -> str:
    """The ``type`` of stage 2 for the config of a segmentor.

    Raises:
        TypeError: If it is neither an ``EncoderDecoder`` nor a ``CascadeEncoderDecoder``.
    """
    kind = registered_class(model.get('type'), MODELS)
    for base, ours in (
        (CascadeEncoderDecoder, CalibratedCascadeEncoderDecoder),
        (EncoderDecoder, CalibratedEncoderDecoder),
    ):
        if issubclass(kind, base):
            check_adds_nothing(kind, base)
            return f'mmdisalign.segmentation.{ours.__name__}'
    raise TypeError(f'{kind.__name__} cannot be calibrated: it is not an EncoderDecoder')


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
        raise ValueError(
            'the calibration stage needs class frequencies: set class_prior on the model '
            '(tools/class_prior.py counts them), or GRWCrossEntropyLoss as loss_decode'
        )
