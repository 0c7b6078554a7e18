"""Segmentors whose decode head is calibrated, whatever its type."""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList, add_prefix
from torch import Tensor

from ..calibration import PriorLike
from ..engine import CalibrationStageMixin
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
            replaces softmax cross-entropy alone. Default: None, the losses of ``decode_head``
            stay.
        exp_scale: ρ of that loss. Default: 0.2, the released value for ADE20K.
        stage: ``'calibration'`` or ``'joint'``, which trains everything. Default:
            ``'calibration'``.
        calibration: ``norm_cfg`` and ``act_cfg`` of the confidence, see
            :class:`CalibratedHeadMixin`. Default: None.
        kwargs: Arguments of ``EncoderDecoder``.
    """

    def __init__(
        self,
        *,
        decode_head: Any,
        class_prior: Optional[PriorLike] = None,
        exp_scale: float = 0.2,
        stage: str = 'calibration',
        calibration: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        head = self._last_head(decode_head)
        head['type'] = calibrated(_class_of(head))
        if calibration is not None:
            head['calibration'] = calibration
        if class_prior is not None:
            head['loss_decode'] = _grw_losses(head, class_prior, exp_scale, stage)
        super().__init__(decode_head=self._with_last_head(decode_head, head), **kwargs)
        self._enter_stage(stage)

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
                "a cascade needs type='CalibratedCascadeEncoderDecoder'"
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


def _class_of(head: dict) -> type:
    if 'type' not in head:
        raise KeyError('decode_head has no type')
    kind = head['type']
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise KeyError(f'decode_head type {kind!r} is not registered in mmseg')
    return cls


def _grw_losses(head: dict, class_prior: PriorLike, exp_scale: float, stage: str) -> Any:
    """The losses of a head with GRW cross-entropy in the place of softmax cross-entropy."""
    grw = {'type': 'GRWCrossEntropyLoss', 'class_prior': class_prior, 'exp_scale': exp_scale}
    losses = head.get('loss_decode')
    if stage == 'calibration' or losses is None:
        return grw
    if isinstance(losses, dict):
        return _replace_softmax(losses, grw)
    return [_replace_softmax(loss, grw) for loss in losses]


def _replace_softmax(loss: dict, grw: dict) -> dict:
    if loss['type'] != 'CrossEntropyLoss' or loss.get('use_sigmoid', False):
        return loss
    return {**grw, 'loss_weight': loss.get('loss_weight', 1.0)}
