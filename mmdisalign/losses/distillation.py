"""What a student has of a teacher: its features, or its scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_distillation(features: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of features and a teacher's, both (N, F), the mean over the images.

    Source: Iscen et al., "Class-Balanced Distillation for Long-Tailed Visual Recognition", BMVC
    2021, equation 3; its total is 0.6 times the cross-entropy and 0.4 · 100 times this.
    """
    return (1 - F.cosine_similarity(features, teacher.detach(), dim=1)).mean()


def score_distillation(scores: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """T² KL(teacher, student) of scores (N, C), the mean over the images.

    Source: Li et al., "Self Supervision to Distillation for Long-Tailed Visual Recognition", ICCV
    2021, section 3.3.
    """
    own, given = scores / temperature, teacher.detach() / temperature
    divergence = F.kl_div(
        own.log_softmax(1), given.log_softmax(1), log_target=True, reduction='sum'
    )
    return temperature**2 * divergence / len(scores)
