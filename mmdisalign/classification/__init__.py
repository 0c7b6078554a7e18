"""The mmpretrain plug-in: importing it registers heads, classifiers, losses, data and metrics."""

from ..dependencies import require

require('cls')

from mmpretrain.registry import MODELS

from ..losses import BalancedSigmoidLoss, BalancedSoftmaxLoss, GRWCrossEntropyLoss
from .backbones import CIFARResNet
from .classifiers import CalibratedImageClassifier, calibrated_model
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
from .meta_sampler import MetaSamplerHook
from .metrics import LongTailAccuracy
from .samplers import ClassSampler, LearnedClassSampler

for _loss in (BalancedSigmoidLoss, BalancedSoftmaxLoss, GRWCrossEntropyLoss):
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
    'MetaSamplerHook',
    'ResetClassifierHook',
    'calibrated',
    'calibrated_model',
]
