"""Logit adjustment: the logarithm of the class frequencies, subtracted."""

from __future__ import annotations

from ...calibration import AffineScores, logit_adjustment
from .problem import Problem

PARAMETER = 'τ'
LEARNS = False
VALUES = (1.0, 0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)


def fit(problem: Problem, value: float) -> AffineScores:
    """Shift the scores by -τ log π with τ = ``value``, see :func:`logit_adjustment`.

    Pixels are adjusted by their frequencies like images. Its form beside a background is norcal.
    """
    problem.softmax_only('logit-adjustment')
    problem.no_background('logit-adjustment', 'beside a background score, its form is norcal')
    return AffineScores.shifted(logit_adjustment(problem.prior, value)).requires_grad_(False)
