"""Inverse image frequency: scores times the logarithm of how rare their class is."""

from __future__ import annotations

import math

from ...calibration import AffineScores, inverse_frequency
from .problem import Problem

PARAMETER = 'base'
LEARNS = False
VALUES = (2.0, math.e, 10.0)


def fit(problem: Problem, value: float) -> AffineScores:
    """Multiply scores by log(N / n) to the base ``value``, see :func:`inverse_frequency`.

    n is a class's number of images or, where that is not known, its count, and N the sum of these.
    A background's score stays, and then the base decides between it and the classes; without one,
    the order of the scores is the same for all bases. Detectors that were trained so are
    :class:`mmdisalign.losses.IIFLoss`.
    """
    problem.softmax_only('iif')
    problem.unscaled('iif')
    if value <= 1:
        raise problem.refuse('iif', f'a base is above 1, got {value}')
    factor = inverse_frequency(problem.numbers, zero_count=problem.zero_count) / math.log(value)
    scores = AffineScores(problem.num_classes)
    scores.magnitude.data.copy_(factor - 1)
    return scores.requires_grad_(False)
