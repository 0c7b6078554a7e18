"""The mmpretrain plug-in: importing it registers heads, classifiers, losses, data and metrics."""

from ..dependencies import require
from ..engine import calibrated_by_name

require('cls')

from mmpretrain.registry import MODELS

from ..losses import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    CDBLoss,
    ClassBalancedLoss,
    DifficultyNetLoss,
    DistributionBalancedLoss,
    GCLLoss,
    IIFLoss,
    LADELoss,
    LDAMLoss,
    SoftmaxEQLLoss,
    VSLoss,
)
from .backbones import CIFARResNet, ResNet10
from .breadcrumb import BreadcrumbClsHead, BreadcrumbHook
from .class_hooks import (
    CausalMomentumHook,
    ClassDifficultyHook,
    DeferredReweightingHook,
    DifficultyNetHook,
)
from .class_means import ClassMeansHook
from .classifiers import (
    CalibratedImageClassifier,
    calibrated_classifier,
    calibrated_model,
)
from .datasets import CIFAR10LT, CIFAR100LT
from .distilled import DistilledImageClassifier, SelfDistilledClsHead
from .heads import (
    CalibratedClsHeadMixin,
    CosineClsHead,
    DisAlignCosineClsHead,
    DisAlignLinearClsHead,
    DisAlignVisionTransformerClsHead,
    LWSLinearClsHead,
    MARCLinearClsHead,
    TDEClsHead,
    VMFClsHead,
    WhitenedClsHead,
    calibrated,
)
from .hooks import ResetClassifierHook
from .losses import GRWCrossEntropyLoss
from .meta_sampler import MetaSamplerHook
from .metrics import LongTailAccuracy, LongTailAveragePrecision
from .momentum_contrast import MoCoImageClassifier, MultiViewDataPreprocessor
from .prepare import prepare
from .samplers import ClassSampler, LearnedClassSampler

for _loss in (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    CDBLoss,
    ClassBalancedLoss,
    DifficultyNetLoss,
    DistributionBalancedLoss,
    GCLLoss,
    IIFLoss,
    LADELoss,
    LDAMLoss,
    SoftmaxEQLLoss,
    VSLoss,
):
    MODELS.register_module(module=_loss)
# LiVT's name of it.
MODELS.register_module(name='BalancedBCELoss', module=BalancedSigmoidLoss)
BalancedBCELoss = BalancedSigmoidLoss

__all__ = [
    'CIFAR10LT',
    'CIFAR100LT',
    'BalancedBCELoss',
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'BreadcrumbClsHead',
    'BreadcrumbHook',
    'CDBLoss',
    'CIFARResNet',
    'CalibratedClsHeadMixin',
    'CalibratedImageClassifier',
    'CausalMomentumHook',
    'ClassBalancedLoss',
    'ClassDifficultyHook',
    'ClassMeansHook',
    'ClassSampler',
    'CosineClsHead',
    'DeferredReweightingHook',
    'DifficultyNetHook',
    'DifficultyNetLoss',
    'DisAlignCosineClsHead',
    'DisAlignLinearClsHead',
    'DisAlignVisionTransformerClsHead',
    'DistilledImageClassifier',
    'DistributionBalancedLoss',
    'GCLLoss',
    'GRWCrossEntropyLoss',
    'IIFLoss',
    'LADELoss',
    'LDAMLoss',
    'LWSLinearClsHead',
    'LearnedClassSampler',
    'LongTailAccuracy',
    'LongTailAveragePrecision',
    'MARCLinearClsHead',
    'MetaSamplerHook',
    'MoCoImageClassifier',
    'MultiViewDataPreprocessor',
    'ResNet10',
    'ResetClassifierHook',
    'SelfDistilledClsHead',
    'SoftmaxEQLLoss',
    'TDEClsHead',
    'VMFClsHead',
    'VSLoss',
    'WhitenedClsHead',
    'calibrated',
    'calibrated_classifier',
    'calibrated_model',
    'prepare',
]


def __getattr__(name: str) -> type:
    """``CalibratedMyClassifier`` and its like: made when a config names one."""
    return calibrated_by_name(name, MODELS, calibrated_classifier)
