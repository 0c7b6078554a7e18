"""The mmpretrain plug-in: importing it registers the losses."""

from ..dependencies import require

require('cls')

from mmpretrain.registry import MODELS

from ..losses import GRWCrossEntropyLoss

MODELS.register_module(module=GRWCrossEntropyLoss)

__all__ = ['GRWCrossEntropyLoss']
