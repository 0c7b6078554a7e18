"""From a class score to a probability, and the binary cross-entropy of that."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = -4.0, 10.0  # Gumbel scores beyond have no gradient, as in the released code


class Sigmoid:
    r""":math:`p = 1 / (1 + e^{-z})`.

    Attributes:
        initial: The p of a class where training begins, as EQL and EQL v2 were released.
    """

    initial = 0.001

    def probability(self, scores: Tensor) -> Tensor:
        """p of scores z, both of any shape."""
        return scores.sigmoid()

    def losses(self, scores: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of each score, with targets in [0, 1] of the same shape."""
        return F.binary_cross_entropy_with_logits(scores, target, reduction='none')

    def score(self, probability: float) -> float:
        """The z of a p in (0, 1): a bias that starts there."""
        return math.log(probability / (1 - probability))


class Gumbel:
    r""":math:`p = e^{-e^{-z}}`, which nears 0 faster than 1: for classes that mostly are not there.

    Source: Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel Optimized Loss",
    ECCV 2022, equation 4. In the loss, scores are clamped to [-4, 10], and have no gradient beyond.

    Attributes:
        initial: The p of a class where training begins, that of a score of -2, as released.
    """

    initial = math.exp(-math.exp(2))

    def probability(self, scores: Tensor) -> Tensor:
        """p of scores z, both of any shape; not clamped."""
        return torch.exp(-torch.exp(-scores))

    def losses(self, scores: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of each score, with targets in [0, 1] of the same shape."""
        hazard = torch.exp(-scores.clamp(LOWEST, HIGHEST))  # -log p
        return target * hazard - (1 - target) * torch.log(-torch.expm1(-hazard))

    def score(self, probability: float) -> float:
        """The z of a p in (0, 1): a bias that starts there."""
        return -math.log(-math.log(probability))


LINKS = {'sigmoid': Sigmoid(), 'gumbel': Gumbel()}


def link_named(name: str) -> Sigmoid | Gumbel:
    """The link of a name, or ValueError."""
    if name not in LINKS:
        raise ValueError(f'link must be one of {", ".join(LINKS)}, got {name!r}')
    return LINKS[name]
