"""Generalized re-weighting of classes by their frequency."""

from __future__ import annotations

from typing import Union

import numpy as np
import torch
from torch import Tensor

from .prior import ClassPrior, PriorLike

ZeroCount = Union[None, str, float]


def generalized_reweight(
    prior: PriorLike, exp_scale: float, *, zero_count: ZeroCount = None
) -> Tensor:
    r"""Class weights of the generalized re-weight strategy.

    .. math:: w_c = \frac{(1/r_c)^\rho}{\sum_k (1/r_k)^\rho} \cdot C

    Source: Zhang et al., CVPR 2021, section 3.3, times C, as in the released code, so that the
    weights have mean 1. ρ = 0 gives ones, that is plain cross-entropy; ρ = 1 balances the classes.

    Args:
        prior: Class frequencies r: anything that :meth:`ClassPrior.build` takes.
        exp_scale: ρ, at least 0.
        zero_count: How to treat classes that the prior never saw. None: an error that names them.
            ``'min'``: like the rarest class that was seen. ``'ignore'``: weight 0, the mean of the
            others stays 1. A positive number: as if counted so often, in the prior's own unit.

    Returns:
        Weights, shape (C,), float32.
    """
    prior = ClassPrior.build(prior)
    if not 0 <= exp_scale < np.inf:  # NaN neither
        raise ValueError(f'exp_scale must be at least 0, got {exp_scale}')
    counts = filled_counts(prior, zero_count)
    weights = np.zeros(len(prior))
    # The scale of the counts cancels in the quotient; with frequencies, the powers stay moderate.
    weighted = counts > 0
    weights[weighted] = (counts[weighted] / counts.sum()) ** -exp_scale
    num_weighted = np.count_nonzero(weights)
    return torch.tensor(weights / weights.sum() * num_weighted, dtype=torch.float32)


def effective_number_weights(
    prior: PriorLike, beta: float = 0.9999, *, zero_count: ZeroCount = None
) -> torch.Tensor:
    r"""Weights :math:`(1 - \beta) / (1 - \beta^{n_c})` of the classes, scaled to the mean 1.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    equation 4.

    Args:
        prior: Counts n: anything that ``ClassPrior.build`` takes.
        beta: β, in [0, 1): 0 weighs all alike.
        zero_count: How to weigh classes that were never seen, as of :func:`generalized_reweight`.

    Returns:
        Shape (C,), float32.
    """
    if not 0 <= beta < 1:
        raise ValueError(f'beta must be in [0, 1), got {beta}')
    counts = filled_counts(ClassPrior.build(prior), zero_count)
    seen = counts > 0
    weight = np.where(seen, 1 / np.where(seen, 1 - beta**counts, 1), 0)
    return torch.tensor(weight * seen.sum() / weight.sum(), dtype=torch.float32)


def filled_counts(prior: ClassPrior, zero_count: ZeroCount) -> np.ndarray:
    """Class counts, shape (C,), with those of classes that were never seen as ``zero_count`` says.

    With ``'ignore'`` they stay 0.
    """
    counts = prior.counts.copy()
    if (counts == 0).any() and zero_count != 'ignore':
        counts[counts == 0] = _count_of_unseen(prior, zero_count)
    return counts


def _count_of_unseen(prior: ClassPrior, zero_count: ZeroCount) -> float:
    if zero_count is None:
        names = ', '.join(prior.name_of(c) for c in range(len(prior)) if prior.counts[c] == 0)
        raise ValueError(
            f'no weight for classes of zero frequency: {names}. Count more data, or say how to '
            "treat them with zero_count='min', zero_count='ignore' or a pseudo-count"
        )
    if zero_count == 'min':
        return float(prior.counts[prior.counts > 0].min())
    if isinstance(zero_count, str) or zero_count <= 0:
        raise ValueError(
            f"zero_count must be None, 'min', 'ignore' or a positive number, got {zero_count!r}"
        )
    return float(zero_count)
