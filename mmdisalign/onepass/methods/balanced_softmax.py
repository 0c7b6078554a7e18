"""Balanced Softmax: the classifier, trained again beside the logarithm of the counts."""

from __future__ import annotations

import torch
from torch import Tensor

from ...calibration import LinearScores
from ...losses import BalancedSoftmaxLoss
from ..fitting import softmax_losses
from .problem import Problem

PARAMETER = 'weight decay'
LEARNS = True
VALUES = (5e-4, 5e-3, 5e-2)


def fit(problem: Problem, value: float) -> LinearScores:
    """Fit a linear classifier to scores that are shifted by log n, with a weight decay.

    See :class:`BalancedSoftmaxLoss`, which this is on samples; no class is weighed. The score of a
    background is left out of the shift, see there.
    """
    problem.softmax_only('balanced-softmax')
    problem.classifier('balanced-softmax')
    background = 'left_out' if problem.has_background else None
    shift = BalancedSoftmaxLoss(
        problem.prior, background_count=background, zero_count=problem.zero_count
    ).log_counts

    def losses(scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor) -> Tensor:
        own = problem.loss.class_scores(scores)
        return softmax_losses(own + shift.to(own), label, quality, class_weight)

    scores = LinearScores(problem.num_scores, problem.in_channels)
    weight = torch.ones(problem.num_scores)
    return problem.minimise(scores, weight, element_losses=losses, weight_decay=value)
