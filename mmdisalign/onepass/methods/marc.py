"""MARC: margins of the classes, calibrated in the unit of their weights' norms."""

from __future__ import annotations

import torch
from torch import Tensor

from ...calibration import AffineScores
from .problem import Problem

PARAMETER = 'ρ'
LEARNS = True
VALUES = (1.2, *(step / 5 for step in range(9) if step != 6))


class MarginScores(AffineScores):
    r"""Scores whose margins are in units of the norms of a classifier's weights.

    .. math:: \hat z_c = \omega_c z_c + \beta_c \lVert w_c \rVert

    Args:
        norms: Shape (C,).
    """

    def __init__(self, norms: Tensor) -> None:
        super().__init__(len(norms))
        self.register_buffer('norms', norms)

    def affine(self) -> tuple[Tensor, Tensor]:
        """ω and what is added, both (C,)."""
        return 1 + self.magnitude, self.margin * self.norms


def fit(problem: Problem, value: float) -> MarginScores:
    """Fit ω and β to GRW cross-entropy with ρ = ``value``.

    Source: Wang et al., "Margin Calibration for Long-Tailed Visual Recognition", ACML 2022:
    the margin of class c is its score divided by the norm of its weights. The loss is weighted as
    DisAlign's is. A background passes.
    """
    weight, _ = problem.classifier('marc')
    scores = MarginScores(torch.linalg.norm(weight[: problem.num_classes], dim=1))
    return problem.minimise(scores, problem.class_weight(value))
