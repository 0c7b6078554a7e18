"""How far a calibration's gate σ(x) opens, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from torch import Tensor

# σ below which the gate is told to be closed, or not quite open.
LEVELS = (0.5, 0.9)
QUANTILES = (0.01, 0.1)
# Bins are equal in logit σ, so that both ends have room, and the levels are edges: 16 of them lie
# between σ = 0.5 and 0.9, and 64 more either way up to 0.000017 and 0.999983.
STEP = math.log(9) / 16
NUM_BINS = 160
EDGES = 1 / (1 + np.exp(-STEP * (np.arange(NUM_BINS + 1) - NUM_BINS // 2)))


def bins_of(sigma: Tensor) -> Tensor:
    """Number of the bin of each σ; the first and the last have what is beyond them, too."""
    sigma = sigma.contiguous()
    return torch.bucketize(sigma, torch.from_numpy(EDGES[1:-1]).to(sigma), right=True)


def edge_of(level: float) -> int:
    """Number of the edge of the bins that is nearest to a σ, from 0 to B."""
    return min(max(round(math.log(level / (1 - level)) / STEP) + NUM_BINS // 2, 0), NUM_BINS)


@dataclass(frozen=True)
class Gate:
    """Where σ(x) was seen, in C classes and the B bins of :func:`bins_of`.

    Where the true class is known, a class is that, and what it is not known of is left out; else
    it is the class that scores highest before calibration.

    Attributes:
        unit: What has one σ each, such as ``'images'``.
        images: How many images they are of.
        counts: How many of a class fell into a bin, (C, B).
        changed: How many of a class would be predicted as another one with σ = 1, (C,).
        right: As ``counts``, of those that were right before calibration; None, as the other two,
            where the true class is not known.
        saved: How many of ``changed`` are right with the σ that they have, (C,).
        lost: How many would be right with σ = 1, (C,).
    """

    unit: str
    images: int
    counts: np.ndarray
    changed: np.ndarray
    right: Optional[np.ndarray] = None
    saved: Optional[np.ndarray] = None
    lost: Optional[np.ndarray] = None

    @property
    def totals(self) -> np.ndarray:
        """How many were seen of each class, (C,)."""
        return self.counts.sum(axis=1)

    def below(self, level: float) -> np.ndarray:
        """Share of each class with σ below an edge of the bins, (C,); NaN of one never seen."""
        return _ratio(self.counts[:, : edge_of(level)].sum(axis=1), self.totals)

    def accuracy(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Share of each class that was right before calibration, with σ below a level and above.

        Two arrays (C,), NaN where there is nothing; only where the true class is known.
        """
        edge = edge_of(level)
        parts = [
            (each[:, :edge].sum(1), each[:, edge:].sum(1)) for each in (self.right, self.counts)
        ]
        below, above = (_ratio(right, number) for right, number in zip(*parts))
        return below, above

    def quantile(self, share: float) -> np.ndarray:
        """σ that a share of each class is below, (C,), interpolated in a bin; NaN if never seen."""
        return np.array([_quantile(own, share) for own in self.counts])

    def of(self, members: Sequence[int]) -> Gate:
        """The same of some classes together, as one; those from C on were not scored."""
        own = [index for index in members if index < len(self.counts)]
        known = {
            name: None if values is None else values[own].sum(axis=0, keepdims=True)
            for name in ('counts', 'changed', 'right', 'saved', 'lost')
            for values in [getattr(self, name)]
        }
        return Gate(self.unit, self.images, **known)

    @property
    def all(self) -> Gate:
        """The same of all classes together."""
        return self.of(range(len(self.counts)))

    @property
    def order(self) -> list[int]:
        """Classes from where it closes most to where least; those that were never seen are last."""
        shares = [np.nan_to_num(self.below(level), nan=-1) for level in LEVELS]
        lowest = np.nan_to_num(self.quantile(QUANTILES[0]), nan=2)
        return sorted(range(len(self.counts)), key=lambda i: (*(-s[i] for s in shares), lowest[i]))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid='ignore'):
        return np.asarray(part, dtype=np.float64) / whole


def _quantile(counts: np.ndarray, share: float) -> float:
    wanted = share * counts.sum()
    if not wanted:
        return float('nan')
    below = np.concatenate([[0], np.cumsum(counts)])
    place = np.interp(wanted, *_rising(below)) - NUM_BINS // 2
    return float(1 / (1 + np.exp(-STEP * place)))


def _rising(below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the cumulative counts rise, from the last edge that has nothing below it."""
    rises = np.append(np.diff(below) > 0, False) | np.insert(np.diff(below) > 0, 0, False)
    return below[rises], np.flatnonzero(rises)
