"""DisAlign's magnitude and margin alone, the same for all inputs."""

from __future__ import annotations

from ...calibration import AffineScores
from .problem import Problem

PARAMETER = 'ρ'
LEARNS = True
VALUES = (0.2, *(step / 5 for step in range(9) if step != 1))


def fit(problem: Problem, value: float) -> AffineScores:
    """Fit α and β, with σ(x) = 1, to GRW cross-entropy with ρ = ``value``.

    Source: the ablation of Zhang et al., "Distribution Alignment", CVPR 2021, without the
    confidence. It folds into the classifier. A background passes.
    """
    return problem.minimise(AffineScores(problem.num_classes), problem.class_weight(value))
