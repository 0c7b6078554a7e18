"""MARC: margins of the classes, calibrated in the unit of their weights' norms."""

from __future__ import annotations

import torch

from ...calibration import MarginScores
from .problem import Problem

PARAMETER = 'ρ'
LEARNS = True
VALUES = (1.2, *(step / 5 for step in range(9) if step != 6))


def fit(problem: Problem, value: float) -> MarginScores:
    """Fit ω and β to GRW cross-entropy with ρ = ``value``.

    Source: Wang et al., "Margin Calibration for Long-Tailed Visual Recognition", ACML 2022:
    the margin of class c is its score divided by the norm of its weights. The loss is weighted as
    DisAlign's is. A background passes.
    """
    weight, _ = problem.classifier('marc')
    scores = MarginScores(torch.linalg.norm(weight[: problem.num_classes], dim=1))
    return problem.minimise(scores, problem.class_weight(value))
