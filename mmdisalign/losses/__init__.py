"""Losses in plain PyTorch; each plug-in registers them in its own library."""

from .adjusted import AdjustedCrossEntropyLoss
from .balanced_sigmoid import BalancedSigmoidLoss
from .balanced_softmax import BalancedSoftmaxLoss
from .binary import BinaryClassLoss
from .cross_entropy import weighted_cross_entropy
from .drop import DropLoss
from .eql import EQLLoss
from .eql_v2 import EQLv2Loss
from .eql_v2_pcb import EQLv2PCBLoss
from .equalized_focal import EqualizedFocalLoss
from .grad_libra import GradLibraLoss
from .grw_cross_entropy import GRWCrossEntropyLoss
from .gumbel import GumbelLoss
from .iif import IIFLoss
from .pairwise_balance import PairwiseBalance
from .pcb import PCBLoss
from .reweighted import reweight_loss
from .seesaw import seesaw_scores, soft_cross_entropy
from .softmax_eql import SoftmaxEQLLoss
from .tiled import tiled_cross_entropy

__all__ = [
    'AdjustedCrossEntropyLoss',
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'BinaryClassLoss',
    'DropLoss',
    'EQLLoss',
    'EQLv2Loss',
    'EQLv2PCBLoss',
    'EqualizedFocalLoss',
    'GRWCrossEntropyLoss',
    'GradLibraLoss',
    'GumbelLoss',
    'IIFLoss',
    'PCBLoss',
    'PairwiseBalance',
    'SoftmaxEQLLoss',
    'reweight_loss',
    'seesaw_scores',
    'soft_cross_entropy',
    'tiled_cross_entropy',
    'weighted_cross_entropy',
]
