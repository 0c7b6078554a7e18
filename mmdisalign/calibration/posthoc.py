"""Baselines that change a trained classifier without training it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from .prior import ClassPrior, PriorLike
from .reweight import ZeroCount, filled_counts


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


# f(n / N) by the names that the released tables have for it.
INVERSE_FREQUENCY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'raw': lambda share: -np.log(share),
    'base2': lambda share: -np.log2(share),
    'base10': lambda share: -np.log10(share),
    'rel': lambda share: np.log1p(-share) - np.log(share),
    'normit': lambda share: -_normal_quantile(share),
    'gombit': lambda share: -np.log(-np.log1p(-share)),
}
SMOOTH = 'smooth'
INVERSE_FREQUENCIES = (*INVERSE_FREQUENCY, SMOOTH)


def inverse_frequency(
    prior: PriorLike,
    variant: str = 'raw',
    *,
    number: Optional[float] = None,
    zero_count: ZeroCount = None,
) -> Tensor:
    r"""What to multiply class scores by, so that those of rare classes are heard.

    .. math:: \tilde z_c = f(n_c / N)\, z_c

    f is :math:`-\log` (``'raw'``), or to the base 2 or 10; minus the log-odds (``'rel'``), the
    quantile of the normal (``'normit'``) or of the Gumbel distribution (``'gombit'``), which are
    negative where a class is in most samples; or :math:`1 + \log \frac{N + 1}{n + 1}`
    (``'smooth'``). Source: Alexandridis et al., "Inverse Image Frequency for Long-Tailed Image
    Recognition", IEEE TIP 2023, section III, and the released tables.

    Args:
        prior: n, in images or instances: anything that ``ClassPrior.build`` takes.
        variant: Name of f.
        number: N, in the same unit. Default: None, the sum of the counts.
        zero_count: How to treat classes that the prior never saw, not ``'ignore'``. Default: None,
            an error.

    Returns:
        Shape (C,), float64.

    Raises:
        ValueError: If there is no such variant, or a class is in more samples than there are.
    """
    prior = ClassPrior.build(prior)
    if variant not in INVERSE_FREQUENCIES:
        names = ', '.join(INVERSE_FREQUENCIES)
        raise ValueError(f'variant must be one of {names}, got {variant!r}')
    if zero_count == 'ignore':
        raise ValueError("zero_count='ignore' gives no factor: 'min', or a number")
    counts = filled_counts(prior, zero_count)
    total = counts.sum() if number is None else number
    if counts.max() > total or (counts.max() == total and variant != SMOOTH):
        name = prior.name_of(int(counts.argmax()))
        raise ValueError(f'{name} is in {counts.max():g} of {total:g} samples: give their number')
    if variant == SMOOTH:
        return torch.from_numpy(1 + np.log((total + 1) / (counts + 1)))
    return torch.from_numpy(INVERSE_FREQUENCY[variant](counts / total))


def _normal_quantile(share: np.ndarray) -> np.ndarray:
    return np.array([NormalDist().inv_cdf(float(own)) for own in share])


def _log(values: np.ndarray) -> Tensor:
    """Logarithms, (C,), those of zeros as that of the least positive value."""
    return torch.tensor(np.log(values.clip(min=values[values > 0].min())), dtype=torch.float32)
