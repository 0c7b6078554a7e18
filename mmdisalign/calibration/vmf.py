"""Von Mises-Fisher classifiers, and their post-training calibration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REFERENCE = 16.0  # κ whose normaliser has logarithm 0
LEAST = 1.0  # κ
TERMS = 512  # of the series; enough for κ up to 400 in any dimension


class VMFLinear(nn.Linear):
    r"""Linear classifier whose classes are von Mises-Fisher densities on the unit sphere.

    .. math:: z_c = \kappa_c \, \frac{w_c \cdot x}{\lVert w_c \rVert \lVert x \rVert}
        + \log C_F(\kappa_c)

    Source: Wang et al., "Towards Calibrated Hyper-Sphere Representation via Distribution Overlap
    Coefficient for Long-Tailed Learning", ECCV 2022. In training, log n_c is added to the scores,
    which a Balanced Softmax loss does. κ is at least 1.

    Args:
        in_features: Number of channels F.
        out_features: Number of classes C.
        kappa: Where κ starts. Default: 16.

    Attributes:
        kappa: κ, the concentrations, shape (C,).
        shift: What a calibration after training adds to the scores, shape (C,), at first 0.
    """

    def __init__(self, in_features: int, out_features: int, kappa: float = REFERENCE) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.initial = float(kappa)
        self.kappa = nn.Parameter(torch.full((out_features,), self.initial))
        self.register_buffer('shift', torch.zeros(out_features))

    def reset_parameters(self) -> None:
        """Begin anew, κ included."""
        super().reset_parameters()
        if hasattr(self, 'kappa'):  # not yet, when PyTorch's constructor comes here
            nn.init.constant_(self.kappa, self.initial)
            self.shift.zero_()

    def concentration(self) -> Tensor:
        """κ, shape (C,), at least 1."""
        return self.kappa.clamp(min=LEAST)

    def constant(self) -> Tensor:
        """What of the scores does not vary with the features, shape (C,)."""
        return log_normalizer(self.concentration(), self.in_features) + self.shift

    def forward(self, features: Tensor) -> Tensor:
        """Scores (N, C) of features (N, F)."""
        features = features.to(torch.promote_types(features.dtype, self.weight.dtype))
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features), F.normalize(self.weight))
            return self.concentration() * cosines + self.constant()


def log_normalizer(kappa: Tensor, dimension: int) -> Tensor:
    r"""log C_F(κ), less that of κ = 16.

    :math:`C_F(\kappa) \propto 1 / {}_0F_1(; F/2; \kappa^2/4)`, of which this is the series, term by
    term in the logarithm and in float64: Bessel functions underflow from F = 512 on.

    Args:
        kappa: Shape (C,).
        dimension: F.
    """
    reference = kappa.new_tensor([REFERENCE])
    found, first = (
        _log_terms(own.double(), dimension).logsumexp(dim=1) for own in (kappa, reference)
    )
    return (first - found).to(kappa.dtype)


def _log_terms(kappa: Tensor, dimension: int) -> Tensor:
    """Logarithms of the terms of the series, shape (C, TERMS)."""
    k = torch.arange(TERMS, dtype=kappa.dtype, device=kappa.device)
    half = dimension / 2
    log_factors = math.lgamma(half) - torch.lgamma(half + k) - torch.lgamma(k + 1)
    return log_factors + k * (kappa[:, None] ** 2 / 4).log()


def mean_resultant(kappa: Tensor, dimension: int) -> Tensor:
    """A_F(κ) = -d log C_F / dκ, how far the mean of a density's unit vectors is from 0, (C,)."""
    own = kappa.double()
    k = torch.arange(TERMS, dtype=own.dtype, device=own.device)
    return (2 / own * (_log_terms(own, dimension).softmax(dim=1) @ k)).to(kappa.dtype)


def overlaps(weight: Tensor, kappa: Tensor) -> Tensor:
    """Overlaps 1 / (1 + KL(i, j)) of the densities of classes i and j, shape (C, C).

    Args:
        weight: Shape (C, F).
        kappa: Shape (C,).
    """
    directions, own = F.normalize(weight.double()), kappa.double()
    constants = log_normalizer(own, weight.shape[1])
    cosines = directions @ directions.T
    divergence = mean_resultant(own, weight.shape[1])[:, None] * (own[:, None] - own * cosines)
    found = 1 / (1 + divergence + constants[:, None] - constants)
    same = torch.eye(len(own), dtype=torch.bool, device=own.device)
    return found.masked_fill(same, 1.0).to(kappa.dtype)


@torch.no_grad()
def mean_overlap(weight: Tensor, kappa: Tensor) -> Tensor:
    """How much each class overlaps with all, itself included (1), on average, shape (C,)."""
    return overlaps(weight, kappa).mean(dim=1)


def inter_class_overlap(weight: Tensor, kappa: Tensor) -> Tensor:
    """The mean overlap of all pairs, 0 of a class with itself: a loss that keeps them apart."""
    found = overlaps(weight, kappa)
    return (found.sum() - found.diagonal().sum()) / found.numel()


def class_feature_discrepancy(
    features: Tensor, label: Tensor, weight: Tensor, kappa: Tensor
) -> Tensor:
    """1 - overlap of the classes of a batch with the mean directions of their features, the mean.

    Args:
        features: Shape (N, F).
        label: Shape (N,).
        weight: Shape (C, F).
        kappa: Shape (C,).
    """
    sums = torch.zeros_like(weight).index_add(0, label, F.normalize(features).to(weight.dtype))
    present = torch.zeros_like(kappa).index_add(0, label, torch.ones_like(label).to(kappa)) > 0
    cosines = F.cosine_similarity(sums, weight, dim=1)
    divergence = mean_resultant(kappa, weight.shape[1]) * kappa * (1 - cosines)
    return ((1 - 1 / (1 + divergence)) * present).sum() / present.sum().clamp(min=1)


def calibrated_kappa(kappa: Tensor, overlap: Tensor, alpha: float) -> Tensor:
    """κ' = κ^α o^(1 - α), o the overlap, stretched to the range of κ; shape (C,).

    Args:
        kappa: Shape (C,).
        overlap: See :func:`mean_overlap`, shape (C,).
        alpha: 1 leaves κ as it is, as do overlaps that are all alike.
    """
    span = overlap.max() - overlap.min()
    if span == 0:
        return kappa
    stretched = (overlap - overlap.min()) / span * (kappa.max() - kappa.min()) + kappa.min()
    return kappa**alpha * stretched ** (1 - alpha)
