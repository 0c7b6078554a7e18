"""Losses in plain PyTorch; each plug-in registers them in its own library."""

from .grw_cross_entropy import GRWCrossEntropyLoss, weighted_cross_entropy

__all__ = ['GRWCrossEntropyLoss', 'weighted_cross_entropy']
