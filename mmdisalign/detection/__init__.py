"""The mmdet plug-in: importing it registers calibrated classifiers, heads, detectors and losses."""

from ..dependencies import require

require('det')

from ..calibration import CosineLinear
from .bbox_heads import CalibratedBBoxHeadMixin, calibrated
from .classifiers import CalibratedClassifierMixin, calibrated_classifier
from .detectors import CalibratedTwoStageDetector, calibrated_model
from .losses import BalancedSigmoidLoss, BalancedSoftmaxLoss, GRWCrossEntropyLoss
from .metrics import LongTailLVISMetric
from .prepare import prepare

__all__ = [
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'CalibratedBBoxHeadMixin',
    'CalibratedClassifierMixin',
    'CalibratedTwoStageDetector',
    'CosineLinear',
    'GRWCrossEntropyLoss',
    'LongTailLVISMetric',
    'calibrated',
    'calibrated_classifier',
    'calibrated_model',
    'prepare',
]
