"""τ-normalisation: the norms of a classifier's weights, taken out."""

from __future__ import annotations

from ...calibration import LinearScores, tau_normalized
from .problem import Problem

PARAMETER = 'τ'
LEARNS = False
VALUES = (0.7, *(step / 10 for step in range(11) if step != 7))


def fit(problem: Problem, value: float) -> LinearScores:
    """Divide each class's weights by their norm to the power τ = ``value``.

    See :func:`tau_normalized`; as there, 0 leaves the classifier as it is, and else it has no bias.
    A background's weights have a norm of another kind, so there it has no meaning.
    """
    problem.no_background('tau-norm', 'the norm of a background says nothing of its frequency')
    weight, bias = problem.classifier('tau-norm')
    scores = LinearScores.of(tau_normalized(weight, value), None if value else bias)
    return scores.requires_grad_(False)
