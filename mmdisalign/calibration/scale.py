"""Learned weight scaling: one factor a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .scores import AffineMap


class ClassScale(AffineMap):
    r"""Scale the scores of each class by a learned factor.

    .. math:: \hat z_c = f_c \, z_c

    Source: LWS in Kang et al., "Decoupling Representation and Classifier for Long-Tailed
    Recognition", ICLR 2020, section 4.2. The factors start at 1, so an untrained scale is the
    identity, bit for bit.

    Args:
        num_classes: Number of classes C.

    Attributes:
        scale: f, shape (C,).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scale = nn.Parameter(torch.ones(num_classes))

    def affine(self) -> tuple[Tensor, Tensor]:
        """f and 0, both (C,)."""
        return self.scale, torch.zeros_like(self.scale)

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Scores (N, C) of scores (N, C); the features are those of other calibrations' calls."""
        return logits * self.scale
