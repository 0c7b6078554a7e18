"""Losses in plain PyTorch; each plug-in registers them in its own library."""

from .balanced_sigmoid import BalancedSigmoidLoss
from .balanced_softmax import BalancedSoftmaxLoss
from .grw_cross_entropy import GRWCrossEntropyLoss, weighted_cross_entropy
from .reweighted import reweight_loss
from .tiled import tiled_cross_entropy

__all__ = [
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'GRWCrossEntropyLoss',
    'reweight_loss',
    'tiled_cross_entropy',
    'weighted_cross_entropy',
]
