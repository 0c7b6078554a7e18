"""Temperature scaling: one number, which changes no decision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...calibration import AffineMap
from .problem import Problem

PARAMETER = None
LEARNS = True
VALUES = (0.0,)


class Temperature(AffineMap):
    r"""All scores divided by one number: :math:`\hat z = z / T`.

    Attributes:
        log_temperature: log T, at first 0.
    """

    def __init__(self, num_scores: int) -> None:
        super().__init__()
        self.num_classes = num_scores
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def affine(self) -> tuple[Tensor, Tensor]:
        """1 / T and 0, for each score."""
        scale = (-self.log_temperature).exp().expand(self.num_classes)
        return scale, torch.zeros_like(scale)


def fit(problem: Problem, value: float) -> Temperature:
    """Fit T to plain cross-entropy, with no class weighed.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The
    order of the scores of an element stays, so accuracy does; beside a method that claims a gain,
    it shows what comes of confidence alone. A background's score is divided, too.
    """
    scores = Temperature(problem.num_scores)
    return problem.minimise(scores, torch.ones(problem.num_scores), weight_decay=0.0)
