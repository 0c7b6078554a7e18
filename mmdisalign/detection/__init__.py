"""The mmdet plug-in: importing it registers calibrated classifiers, heads, detectors and losses."""

from ..dependencies import require

require('det')

from ..calibration import CosineLinear
from ..engine import calibrated_by_name
from .bbox_heads import CalibratedBBoxHeadMixin, calibrated
from .classifiers import CalibratedClassifierMixin, calibrated_classifier
from .detectors import (
    CalibratedDetectorMixin,
    CalibratedTwoStageDetector,
    calibrated_detector,
    calibrated_model,
)
from .losses import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    DropLoss,
    EQLLoss,
    EQLv2Loss,
    EQLv2PCBLoss,
    EqualizedFocalLoss,
    GradLibraLoss,
    GRWCrossEntropyLoss,
    GumbelLoss,
    IIFLoss,
    PCBLoss,
    SeesawPCBLoss,
    SoftmaxEQLLoss,
)
from .metrics import LongTailLVISMetric
from .panoptic_metric import LongTailPanopticMetric
from .prepare import prepare

__all__ = [
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'CalibratedBBoxHeadMixin',
    'CalibratedClassifierMixin',
    'CalibratedDetectorMixin',
    'CalibratedTwoStageDetector',
    'CosineLinear',
    'DropLoss',
    'EQLLoss',
    'EQLv2Loss',
    'EQLv2PCBLoss',
    'EqualizedFocalLoss',
    'GRWCrossEntropyLoss',
    'GradLibraLoss',
    'GumbelLoss',
    'IIFLoss',
    'LongTailLVISMetric',
    'LongTailPanopticMetric',
    'PCBLoss',
    'SeesawPCBLoss',
    'SoftmaxEQLLoss',
    'calibrated',
    'calibrated_classifier',
    'calibrated_detector',
    'calibrated_model',
    'prepare',
]


def __getattr__(name: str) -> type:
    """``CalibratedRetinaNet`` and its like: made when a config names one."""
    from mmdet.registry import MODELS

    return calibrated_by_name(name, MODELS, calibrated_detector)
