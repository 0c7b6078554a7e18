"""The mmseg plug-in: importing it registers calibrated heads, segmentors, losses and metrics."""

from ..dependencies import require

require('seg')

from mmseg.registry import MODELS

from ..engine import calibrated_by_name
from ..losses import BalancedSoftmaxLoss, GRWCrossEntropyLoss
from .decode_heads import CalibratedHeadMixin, calibrated
from .label_maps import CheckedLoadAnnotations
from .metrics import LongTailIoUMetric
from .prepare import prepare
from .segmentors import (
    CalibratedCascadeEncoderDecoder,
    CalibratedEncoderDecoder,
    calibrated_model,
    calibrated_segmentor,
)

for _loss in (BalancedSoftmaxLoss, GRWCrossEntropyLoss):
    MODELS.register_module(module=_loss)

__all__ = [
    'BalancedSoftmaxLoss',
    'CalibratedCascadeEncoderDecoder',
    'CalibratedEncoderDecoder',
    'CalibratedHeadMixin',
    'CheckedLoadAnnotations',
    'GRWCrossEntropyLoss',
    'LongTailIoUMetric',
    'calibrated',
    'calibrated_model',
    'calibrated_segmentor',
    'prepare',
]


def __getattr__(name: str) -> type:
    """``CalibratedMySegmentor`` and its like: made when a config names one."""
    return calibrated_by_name(name, MODELS, calibrated_segmentor)
