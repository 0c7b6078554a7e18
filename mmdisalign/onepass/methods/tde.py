"""How much of the direction that its training drifted towards a de-confounded classifier loses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...calibration import CausalLinear
from .problem import Problem

PARAMETER = 'α'
LEARNS = False
LAYER = CausalLinear
VALUES = (3.0, *(step / 2 for step in range(11) if step != 6))


class CausalScores(nn.Module):
    """Scores of a de-confounded classifier with another α.

    They are its own but for what the difference of both α subtracts, which alone is computed of the
    features: these may be in half precision.

    Args:
        layer: The classifier, which makes the scores with its own α.
        alpha: α.
    """

    def __init__(self, layer: CausalLinear, alpha: float) -> None:
        super().__init__()
        self.num_classes, self.alpha = layer.out_features, alpha
        direction, scores = layer.drift()
        self.register_buffer('direction', direction.float())
        self.register_buffer('subtracted', (alpha - layer.alpha_at_test) * scores.float())

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        """Scores (N, C) of those of the classifier, (N, C), and its features, (N, F)."""
        unit = F.normalize(features.unflatten(1, self.direction.shape), dim=2)
        return logits - (unit * self.direction).sum(dim=2) @ self.subtracted

    def folded_into(self, layer: CausalLinear) -> dict[str, Tensor]:
        """What changes in the state of the classifier whose scores are these."""
        return {'chosen': torch.tensor(self.alpha)}


@torch.no_grad()
def fit(problem: Problem, value: float) -> CausalScores:
    """Subtract what lies along the mean features of training α = ``value`` times (0: not at all).

    Source: Tang et al., NeurIPS 2020, see :class:`CausalLinear`. It learns nothing, and has a
    meaning for that classifier alone.
    """
    return CausalScores(problem.own_layer('tde', LAYER), value)
