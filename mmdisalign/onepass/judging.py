"""How well scores do on labelled images, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

import numpy as np
import torch
from torch import nn

from ..analysis import group_means, partition
from ..calibration import ClassPrior
from .fitting import Samples, calibrated_scores

ROUNDS = 1000  # of the bootstrap
OVERALL = {'accuracy': ['top1', 'mean'], 'IoU': ['mIoU']}


class Judged(Protocol):
    """What scores decide of I images."""

    def values(self, times: np.ndarray) -> Mapping[str, np.ndarray]:
        """The mean over all classes and over those of each group, in per cent, by name.

        Args:
            times: How often each image counts, in each of R draws, shape (R, I).

        Returns:
            Each of shape (R,), NaN where no class of a group occurs.
        """


class Judge(Protocol):
    """Labelled images by which scores are judged.

    Attributes:
        names: Of the values: the first is the library's main one, the last is that of the tail.
        images: Their numbers, ascending, shape (I,).
    """

    names: Sequence[str]
    images: np.ndarray

    def __call__(self, scores: Optional[nn.Module], images: np.ndarray) -> Judged:
        """Judge on some of the images.

        Args:
            scores: What a method has fitted. None: the classifier's own scores.
            images: Their numbers, ascending.
        """


class SampleJudge:
    """Judges by samples of the images: what has the highest score is decided.

    Args:
        samples: Of the images.
        prior: Its groups.
        kind: ``'accuracy'`` or ``'IoU'``, see :func:`values_of`.
    """

    def __init__(self, samples: Samples, prior: ClassPrior, kind: str) -> None:
        self.samples, self.prior, self.kind = samples, prior, kind
        self.names = metric_names(prior, kind)
        self.images = np.unique(samples.image)

    @torch.no_grad()
    def __call__(self, scores: Optional[nn.Module], images: np.ndarray) -> Decided:
        """Judge on some of the images, see :class:`Judge`."""
        predicted, samples = [], self.samples
        chosen = np.flatnonzero(np.isin(samples.image, images))
        for chunk in samples.chunks(chosen):
            own = scores or _Same(chunk.logits.shape[2])
            made = calibrated_scores(own, chunk.features, chunk.logits, chunk.taps)
            predicted.append(made.argmax(dim=1).numpy())
        label, weight, image = (
            np.asarray(values)[chosen] for values in (samples.label, samples.weight, samples.image)
        )
        place = np.searchsorted(images, image)
        return Decided(label, np.concatenate(predicted), weight, place, self.prior, self.kind)


@dataclass(frozen=True)
class Decided:
    """What scores decide of samples.

    Attributes:
        label: Of each sample, shape (S,).
        predicted: Shape (S,).
        weight: How many elements it stands for, shape (S,).
        image: Position of its image among those judged, shape (S,).
        prior: Its groups.
        kind: See :func:`values_of`.
    """

    label: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    prior: ClassPrior
    kind: str

    def values(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """The values of draws of the images, see :class:`Judged`."""
        found = [values_of(self, own[self.image]) for own in times]
        return {key: np.array([values[key] for values in found]) for key in found[0]}


def values_of(decided: Decided, times: np.ndarray) -> dict[str, float]:
    """The mean of each group and over all, in per cent; NaN where no class of a group occurs.

    Of the kind ``'accuracy'``, ``top1`` is that of all samples and ``mean`` that of the classes,
    each counting the same; of ``'IoU'``, ``mIoU`` is that of the classes.

    Args:
        decided: What was decided.
        times: How often each sample counts, shape (S,).
    """
    number = len(decided.prior)
    side = max(
        number, int(decided.predicted.max(initial=0)) + 1, int(decided.label.max(initial=0)) + 1
    )
    pairs = decided.label.astype(np.int64) * side + decided.predicted
    confusion = np.bincount(pairs, decided.weight * times, side * side).reshape(side, side)
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    is_accuracy = decided.kind == 'accuracy'
    with np.errstate(invalid='ignore'):  # 0 / 0
        whole = true if is_accuracy else true + predicted - right
        shares = 100 * np.where(true > 0, right / whole, np.nan)[:number]
        top1 = 100 * right.sum() / true.sum()
    means = group_means(shares, {'mean': range(number), **partition(decided.prior.groups)})
    mean = means.pop('mean')
    return {**({'top1': top1, 'mean': mean} if is_accuracy else {'mIoU': mean}), **means}


def metric_names(prior: ClassPrior, kind: str) -> list[str]:
    """What :func:`values_of` has values of."""
    return [*OVERALL[kind], *partition(prior.groups)]


def once(judged: Judged, number: int) -> dict[str, float]:
    """The values where each of so many images counts once."""
    return {key: float(value) for key, (value,) in judged.values(np.ones((1, number), int)).items()}


def draws_of(number: int, seed: int) -> np.ndarray:
    """How often each of so many images is in each draw of a bootstrap, (:data:`ROUNDS`, I)."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(number, size=number) for _ in range(ROUNDS))
    return np.stack([np.bincount(own, minlength=number) for own in drawn])


def intervals_of_difference(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of what each value gained.

    Images are drawn with replacement, the same for both; the interval has the 2.5th to the 97.5th
    percentile of the draws (Efron 1979). Classes that a draw has not are left out of it.

    Args:
        before: The values of :func:`draws_of` before.
        after: And after.
    """
    return {
        key: tuple(np.nanpercentile(own - before[key], [2.5, 97.5])) for key, own in after.items()
    }


class _Same(nn.Module):
    """The scores as they are."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return logits
