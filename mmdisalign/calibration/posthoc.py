"""Baselines that change a trained classifier without training it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .prior import ClassPrior, PriorLike


def tau_normalized(weight: Tensor, tau: float) -> Tensor:
    r"""Classifier weights with their norms taken out, as far as τ says.

    .. math:: \tilde w_c = w_c / \lVert w_c \rVert^\tau

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
    ICLR 2020, section 4.2. 0 leaves the classifier as it is; with 1 all norms are equal.

    Args:
        weight: w, shape (C, F).
        tau: τ.
    """
    norm = weight.flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
    return weight / norm.view(-1, *(1,) * (weight.dim() - 1)) ** tau


def logit_adjustment(prior: PriorLike, tau: float) -> Tensor:
    r"""What to add to class scores so that rare classes are chosen as often as frequent ones.

    .. math:: \tilde z_c = z_c - \tau \log \pi_c

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.1; π are
    the class frequencies. A class that was never seen gets what the rarest seen one gets.

    Args:
        prior: Anything that ``ClassPrior.build`` takes.
        tau: τ; 1 is what the derivation says.

    Returns:
        Shape (C,), float32.
    """
    return -tau * _log(ClassPrior.build(prior).frequencies)


def normalized_calibration(prior: PriorLike, gamma: float) -> Tensor:
    r"""NorCal for detectors, as what to add to the scores of the foreground classes.

    .. math:: p_c = \frac{e^{z_c} / n_c^\gamma}{e^{z_{bg}} + \sum_k e^{z_k} / n_k^\gamma}

    Source: Pan et al., "On Model Calibration for Long-Tailed Object Detection and Instance
    Segmentation", NeurIPS 2021, section 3: the probability of each class is divided by a power of
    its count, that of the background is not, and all are scaled to the sum 1. That is the softmax
    of the scores :math:`z_c - \gamma \log n_c` beside an unchanged background.

    Args:
        prior: Counts n, in images in the paper: anything that ``ClassPrior.build`` takes.
        gamma: γ.

    Returns:
        Shape (C,), float32.
    """
    return -gamma * _log(ClassPrior.build(prior).counts)


def _log(values: np.ndarray) -> Tensor:
    """Logarithms, (C,), those of zeros as that of the least positive value."""
    return torch.tensor(np.log(values.clip(min=values[values > 0].min())), dtype=torch.float32)
