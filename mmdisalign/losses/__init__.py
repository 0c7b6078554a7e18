"""Losses in plain PyTorch; each plug-in registers them in its own library."""

from .adjusted import AdjustedCrossEntropyLoss
from .balanced_contrastive import balanced_contrastive_loss
from .balanced_sigmoid import BalancedSigmoidLoss
from .balanced_softmax import BalancedSoftmaxLoss
from .binary import BinaryClassLoss
from .cdb import CDBLoss
from .cross_entropy import weighted_cross_entropy
from .difficulty import difficulty_weights
from .difficulty_net import (
    DifficultyNet,
    DifficultyNetLoss,
    difficulty_meta_loss,
    driver_loss,
    weights_of_difficulties,
)
from .distillation import cosine_distillation, score_distillation
from .distribution_balanced import DistributionBalancedLoss
from .drop import DropLoss
from .effective_number import ClassBalancedLoss
from .eql import EQLLoss
from .eql_v2 import EQLv2Loss
from .eql_v2_pcb import EQLv2PCBLoss
from .equalized_focal import EqualizedFocalLoss
from .gcl import GCLLoss
from .grad_libra import GradLibraLoss
from .grw_cross_entropy import GRWCrossEntropyLoss
from .gumbel import GumbelLoss
from .iif import IIFLoss
from .labelled_contrastive import labelled_contrastive_loss
from .lade import LADELoss
from .ldam import LDAMLoss
from .pairwise_balance import PairwiseBalance
from .pcb import PCBLoss
from .reweighted import reweight_loss
from .sade import DiverseExpertLoss
from .seesaw import seesaw_scores, soft_cross_entropy
from .softmax_eql import SoftmaxEQLLoss
from .tiled import tiled_cross_entropy
from .vs import VSLoss

__all__ = [
    'AdjustedCrossEntropyLoss',
    'BalancedSigmoidLoss',
    'BalancedSoftmaxLoss',
    'BinaryClassLoss',
    'CDBLoss',
    'ClassBalancedLoss',
    'DifficultyNet',
    'DifficultyNetLoss',
    'DistributionBalancedLoss',
    'DiverseExpertLoss',
    'DropLoss',
    'EQLLoss',
    'EQLv2Loss',
    'EQLv2PCBLoss',
    'EqualizedFocalLoss',
    'GCLLoss',
    'GRWCrossEntropyLoss',
    'GradLibraLoss',
    'GumbelLoss',
    'IIFLoss',
    'LADELoss',
    'LDAMLoss',
    'PCBLoss',
    'PairwiseBalance',
    'SoftmaxEQLLoss',
    'VSLoss',
    'balanced_contrastive_loss',
    'cosine_distillation',
    'difficulty_meta_loss',
    'difficulty_weights',
    'driver_loss',
    'labelled_contrastive_loss',
    'reweight_loss',
    'score_distillation',
    'seesaw_scores',
    'soft_cross_entropy',
    'tiled_cross_entropy',
    'weighted_cross_entropy',
    'weights_of_difficulties',
]
