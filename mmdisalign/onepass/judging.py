"""How well scores do on samples of labelled images, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from torch import nn

from ..analysis import group_means, partition
from ..calibration import ClassPrior
from .fitting import Samples, calibrated_scores

ROUNDS = 1000  # of the bootstrap
OVERALL = {'accuracy': 'top1', 'IoU': 'mIoU'}


@dataclass(frozen=True)
class Judged:
    """What scores decide of samples.

    Attributes:
        label: Of each sample, shape (S,).
        predicted: Shape (S,).
        weight: How many elements it stands for, shape (S,).
        image: Which image it is of, shape (S,).
    """

    label: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray
    image: np.ndarray


@torch.no_grad()
def judge(scores: Optional[nn.Module], samples: Samples, chosen: np.ndarray) -> Judged:
    """Decide by the highest score.

    Args:
        scores: What a method has fitted. None: the classifier's own scores.
        samples: The samples.
        chosen: Which of them, (n,).
    """
    predicted = []
    for chunk in samples.chunks(chosen):
        own = (scores or _Same(chunk.logits.shape[2])).to(chunk.logits.device)
        made = calibrated_scores(own, chunk.features, chunk.logits, chunk.taps)
        predicted.append(made.argmax(dim=1).cpu().numpy())
    weight, image = (np.asarray(values)[chosen] for values in (samples.weight, samples.image))
    return Judged(np.asarray(samples.label)[chosen], np.concatenate(predicted), weight, image)


def values_of(
    judged: Judged, prior: ClassPrior, kind: str, times: Optional[np.ndarray] = None
) -> dict[str, float]:
    """The mean of each group and over all, in per cent; NaN where no class of a group occurs.

    Args:
        judged: What was decided.
        prior: Its groups.
        kind: ``'accuracy'``: ``top1``, that of all samples, and ``mean``, each class counting the
            same; ``'IoU'``: ``mIoU``.
        times: How often each sample counts, shape (S,). Default: None, once.
    """
    number = len(prior)
    side = max(
        number, int(judged.predicted.max(initial=0)) + 1, int(judged.label.max(initial=0)) + 1
    )
    weight = judged.weight if times is None else judged.weight * times
    pairs = judged.label.astype(np.int64) * side + judged.predicted
    confusion = np.bincount(pairs, weight, side * side).reshape(side, side)
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid='ignore'):  # 0 / 0
        whole = true if kind == 'accuracy' else true + predicted - right
        shares = 100 * np.where(true > 0, right / whole, np.nan)[:number]
        top1 = 100 * right.sum() / true.sum()
    groups = partition(prior.groups)
    means = group_means(shares, {'mean': range(number), **groups})
    mean = means.pop('mean')
    overall = {'top1': top1, 'mean': mean} if kind == 'accuracy' else {'mIoU': mean}
    return {**overall, **means}


def metric_names(prior: ClassPrior, kind: str) -> list[str]:
    """What :func:`values_of` has values of."""
    overall = ['top1', 'mean'] if kind == 'accuracy' else ['mIoU']
    return [*overall, *partition(prior.groups)]


def interval_of_difference(
    before: Judged, after: Judged, prior: ClassPrior, kind: str, seed: int
) -> Mapping[str, tuple[float, float]]:
    """The 95 % bootstrap interval of what each value of :func:`values_of` gained.

    Images are drawn with replacement, the same for both; the interval has the 2.5th to the 97.5th
    percentile of :data:`ROUNDS` draws (Efron 1979). Classes that a draw has not are left out of it.

    Args:
        before: What was decided before.
        after: And after, of the same samples.
        prior: Its groups.
        kind: See :func:`values_of`.
        seed: Of the draws.
    """
    images, place = np.unique(before.image, return_inverse=True)
    rng = np.random.default_rng(seed)
    gains: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        times = np.bincount(rng.integers(len(images), size=len(images)), minlength=len(images))
        own = times[place]
        first, second = (values_of(judged, prior, kind, own) for judged in (before, after))
        for key, value in second.items():
            gains.setdefault(key, []).append(value - first[key])
    return {key: tuple(np.nanpercentile(own, [2.5, 97.5])) for key, own in gains.items()}


class _Same(nn.Module):
    """The scores as they are."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return logits
