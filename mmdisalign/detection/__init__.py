"""The mmdet plug-in: importing it registers the losses."""

from ..dependencies import require

require('det')

from mmdet.registry import MODELS

from ..losses import GRWCrossEntropyLoss

MODELS.register_module(module=GRWCrossEntropyLoss)

__all__ = ['GRWCrossEntropyLoss']
