"""The scores of which the Seesaw loss is the cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor


def seesaw_scores(
    scores: Tensor, label: Tensor, seen: Tensor, *, p: float, q: float, least: float
) -> Tensor:
    r"""Scores :math:`z_j + \log S_{yj}`, by which an object punishes rarer classes less.

    :math:`S_{yj} = \min(1, n_j / n_y)^p \max(1, \sigma_j / \sigma_y)^q`, σ the softmax of the
    scores. Source: Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021,
    equations 3 to 5.

    Args:
        scores: z, shape (N, C).
        label: y, shape (N,).
        seen: n, objects of each class so far, shape (C,).
        p: Of the mitigation.
        q: Of the compensation.
        least: What σ_y is at least, where it divides.
    """
    counts = seen.clamp(min=1).to(scores.dtype)
    mitigation = p * (counts.log() - counts[label].log()[:, None]).clamp(max=0)
    chance = scores.detach().softmax(dim=1)
    own = chance.gather(1, label[:, None]).clamp(min=least)
    compensation = q * (chance / own).log().clamp(min=0)
    factor = (mitigation + compensation).scatter(1, label[:, None], 0.0)
    return scores + factor


def soft_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy (N,) of scores (N, C) with soft targets (N, C)."""
    return -(target * torch.log_softmax(scores, dim=1)).sum(dim=1)
