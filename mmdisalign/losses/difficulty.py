"""Class-wise difficulty: how badly a model does on a class, as a weight or a rate."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor

DYNAMIC = 'dynamic'


def difficulty_weights(
    accuracy: Tensor, tau: Union[float, str] = DYNAMIC, least: float = 0.0
) -> Tensor:
    r"""Weights :math:`w_c \propto (1 - A_c)^\tau`, of mean 1; all 1 where each class is perfect.

    Dynamic: :math:`\tau = 2\, \mathrm{sigmoid}(\max A / (\min A + 0.01) - 1)`. Source: Sinha et
    al., "Class-Wise Difficulty-Balanced Loss for Solving Class-Imbalance", ACCV 2020, equations 2
    to 5; IJCV 2022 samples classes by them (CDB-S).

    Args:
        accuracy: A, of each class on validation images, in [0, 1], shape (C,).
        tau: τ, or ``'dynamic'``. Default: ``'dynamic'``.
        least: What a difficulty is at least: a class that is perfect has none, and is not trained
            until it errs. Default: 0, as in the paper.
    """
    if checked_tau(tau) == DYNAMIC:
        tau = 2 * torch.sigmoid(accuracy.max() / (accuracy.min() + 0.01) - 1)
    weights = (1 - accuracy).clamp(min=least) ** tau
    if not weights.any():
        return torch.ones_like(weights)
    return len(weights) * weights / weights.sum()


def checked_tau(tau: Union[float, str]) -> Union[float, str]:
    """The exponent, or ValueError if it is none."""
    if tau != DYNAMIC and (isinstance(tau, str) or tau < 0):
        raise ValueError(f"tau must be 'dynamic' or a number of at least 0, got {tau!r}")
    return tau
