"""The mmseg plug-in: importing it registers calibrated heads, segmentors, losses and metrics."""

from ..dependencies import require

require('seg')

from mmseg.registry import MODELS

from ..losses import GRWCrossEntropyLoss
from .decode_heads import CalibratedHeadMixin, calibrated
from .metrics import LongTailIoUMetric
from .segmentors import CalibratedCascadeEncoderDecoder, CalibratedEncoderDecoder

MODELS.register_module(module=GRWCrossEntropyLoss)

__all__ = [
    'CalibratedCascadeEncoderDecoder',
    'CalibratedEncoderDecoder',
    'CalibratedHeadMixin',
    'GRWCrossEntropyLoss',
    'LongTailIoUMetric',
    'calibrated',
]
