"""Inverse image frequency: scores times a function of how rare their class is."""

from __future__ import annotations

from ...calibration import INVERSE_FREQUENCIES, AffineScores, inverse_frequency
from .problem import Problem

PARAMETER = 'variant'
LEARNS = False
VALUES = INVERSE_FREQUENCIES


def fit(problem: Problem, value: str) -> AffineScores:
    """Multiply scores by :func:`inverse_frequency` in the variant ``value``.

    n is a class's number of images or, where that is not known, its count, and N the sum of these.
    A background's score stays, and then the base of a logarithm decides between it and the classes;
    without one, the order of the scores is the same for all bases. Detectors that were trained so
    are :class:`mmdisalign.losses.IIFLoss`.
    """
    problem.softmax_only('iif')
    problem.unscaled('iif')
    factor = inverse_frequency(problem.prior.numbers, value, zero_count=problem.zero_count)
    scores = AffineScores(problem.num_classes)
    scores.magnitude.data.copy_(factor - 1)
    return scores.requires_grad_(False)
