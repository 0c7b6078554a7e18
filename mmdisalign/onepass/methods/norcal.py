"""NorCal: the probabilities of a detector's classes, divided by a power of their counts."""

from __future__ import annotations

from ...calibration import AffineScores, normalized_calibration
from .problem import Problem

PARAMETER = 'γ'
LEARNS = False
VALUES = (0.6, 0.0, 0.2, 0.4, 0.8, 1.0)


def fit(problem: Problem, value: float) -> AffineScores:
    """Shift the scores by -γ log n with γ = ``value``, see :func:`normalized_calibration`.

    n is the number of images of a class, as in the paper, or where that is not known its count. The
    background's score stays. Without one, n is but a frequency: that is logit adjustment.
    """
    problem.softmax_only('norcal')
    problem.unscaled('norcal')
    if not problem.has_background:
        raise problem.refuse('norcal', 'there is no background score; its form is logit-adjustment')
    shift = normalized_calibration(problem.prior.numbers, value)
    return AffineScores.shifted(shift).requires_grad_(False)
