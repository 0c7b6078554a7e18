"""DisAlign: a magnitude and a margin of each class, gated by σ(x)."""

from __future__ import annotations

import torch

from ...calibration import AdaptiveCalibration
from .problem import Problem

PARAMETER = 'ρ'
LEARNS = True
VALUES = (0.2, *(step / 5 for step in range(9) if step != 1))


def fit(problem: Problem, value: float) -> AdaptiveCalibration:
    """Fit α, β and σ(x) to GRW cross-entropy with ρ = ``value``.

    Source: Zhang et al., "Distribution Alignment", CVPR 2021, sections 3.2 and 3.3. A background
    passes; of the scores of a map, each is calibrated before they are interpolated.
    """
    calibration = untouched(problem, problem.num_classes)
    return problem.minimise(calibration, problem.class_weight(value))


def untouched(problem: Problem, number: int) -> AdaptiveCalibration:
    """What a fit begins with, of so many of the problem's scores."""
    calibration = AdaptiveCalibration(number, problem.in_channels)
    generator = torch.Generator().manual_seed(problem.seed)
    with torch.no_grad():
        calibration.confidence.weight.normal_(std=0.01, generator=generator)
    return calibration
