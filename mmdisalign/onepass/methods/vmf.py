"""Post-training calibration of a von Mises-Fisher classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from ...calibration import AffineMap, VMFLinear, calibrated_kappa, mean_overlap
from .problem import Problem

PARAMETER = 'α'
LEARNS = False
LAYER = VMFLinear
VALUES = (0.5, *(step / 10 for step in range(11) if step != 5))


class VMFScores(AffineMap):
    """Scores of a vMF classifier with other concentrations, its normalisers as they were.

    Args:
        layer: The classifier.
        kappa: κ', shape (C,).
    """

    def __init__(self, layer: VMFLinear, kappa: Tensor) -> None:
        super().__init__()
        self.num_classes = len(kappa)
        self.register_buffer('kappa', kappa)
        self.register_buffer('scale', kappa / layer.concentration().detach())
        self.register_buffer('constant', layer.constant().detach())

    def affine(self) -> tuple[Tensor, Tensor]:
        """κ' / κ, and what keeps the constant of the scores, both (C,)."""
        return self.scale, self.constant * (1 - self.scale)

    def folded_into(self, layer: VMFLinear) -> dict[str, Tensor]:
        """What changes in the state of the classifier whose scores are these."""
        own = VMFLinear(layer.in_features, self.num_classes).to(self.kappa)
        own.kappa.data.copy_(self.kappa)
        return {'kappa': self.kappa, 'shift': self.constant - own.constant().detach()}


@torch.no_grad()
def fit(problem: Problem, value: float) -> VMFScores:
    """Move κ towards the overlaps of the classes, as far as α = ``value`` says (1: not at all).

    Source: Wang et al., ECCV 2022, see :class:`VMFLinear`. It learns nothing, and has a meaning for
    that classifier alone.
    """
    layer = problem.own_layer('vmf', LAYER)
    kappa = layer.concentration().float()
    overlap = mean_overlap(layer.weight.float(), kappa)
    return VMFScores(layer, calibrated_kappa(kappa, overlap, value))
