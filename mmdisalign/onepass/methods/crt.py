"""cRT: the classifier, trained again on class-balanced samples."""

from __future__ import annotations

from ...calibration import LinearScores
from .problem import Problem

PARAMETER = 'weight decay'
LEARNS = True
VALUES = (5e-4, 5e-3, 5e-2)


def fit(problem: Problem, value: float) -> LinearScores:
    """Fit a linear classifier to the classes weighed by 1 / frequency, with a weight decay.

    Source: Kang et al., "Decoupling Representation and Classifier", ICLR 2020, section 4.1, whose
    sampler balances the classes; from 0, for the optimum does not depend on the start. A
    background is classified again too, with the weight that it has.
    """
    problem.classifier('crt')
    scores = LinearScores(problem.num_scores, problem.in_channels)
    return problem.minimise(scores, problem.class_weight(1.0), weight_decay=value)
