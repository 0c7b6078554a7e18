"""LWS: a learned factor of each class."""

from __future__ import annotations

from ...calibration import ClassScale
from .problem import Problem

PARAMETER = None
LEARNS = True
VALUES = (0.0,)


def fit(problem: Problem, value: float) -> ClassScale:
    """Fit the factors to class-balanced samples: to the classes weighed by 1 / frequency.

    Source: Kang et al., "Decoupling Representation and Classifier", ICLR 2020, section 4.2, where
    the sampler balances the classes. The factors are learned without weight decay, which would pull
    them to 0. A background passes, with the weight that it has.
    """
    scale = ClassScale(problem.num_classes)
    return problem.minimise(scale, problem.class_weight(1.0), weight_decay=0.0)
