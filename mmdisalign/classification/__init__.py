"""The mmpretrain plug-in: importing it registers heads, classifiers, losses, data and metrics."""

from ..dependencies import require
from ..engine import calibrated_by_name

require('cls')

from mmpretrain.registry import MODELS

from ..losses import BalancedSigmoidLoss, BalancedSoftmaxLoss
from .backbones import CIFARResNet
from .classifiers import (
    CalibratedImageClassifier,
    calibrated_classifier,
    calibrated_model,
)
from .datasets import CIFAR10LT, CIFAR100LT
from .heads import (
    CalibratedClsHeadMixin,
    CosineClsHead,
    DisAlignCosineClsHead,
    DisAlignLinearClsHead,
    DisAlignVisionTransformerClsHead,
    LWSLinearClsHead,
    calibrated,
)
from .hooks import ResetClassifierHook
from .losses import GRWCrossEntropyLoss
from .meta_sampler import MetaSamplerHook
from .metrics import LongTailAccuracy, LongTailAveragePrecision
from .prepare import prepare
from .samplers import ClassSampler, LearnedClassSampler

for _loss in (BalancedSigmoidLoss, BalancedSoftmaxLoss):
    MODELS.register_module(module=_loss)

__all__ = [
    'CIFAR10LT',
    'CIFAR100LT',
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'CIFARResNet',
    'CalibratedClsHeadMixin',
    'CalibratedImageClassifier',
    'ClassSampler',
    'CosineClsHead',
    'DisAlignCosineClsHead',
    'DisAlignLinearClsHead',
    'DisAlignVisionTransformerClsHead',
    'GRWCrossEntropyLoss',
    'LWSLinearClsHead',
    'LearnedClassSampler',
    'LongTailAccuracy',
    'LongTailAveragePrecision',
    'MetaSamplerHook',
    'ResetClassifierHook',
    'calibrated',
    'calibrated_classifier',
    'calibrated_model',
    'prepare',
]


def __getattr__(name: str) -> type:
    """``CalibratedMyClassifier`` and its like: made when a config names one."""
    return calibrated_by_name(name, MODELS, calibrated_classifier)
