"""How well scores do on labelled images, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Optional, Protocol

import numpy as np
import torch
from torch import nn

from ..analysis import partition
from ..analysis.bootstrap import OVERALL, Judged, class_values, once
from ..calibration import AffineScores, ClassPrior
from .fitting import Samples, calibrated_scores

PIXEL_ROUNDS = 50  # of that of pixels


Part = tuple[Optional[nn.Module], np.ndarray]  # what a method has fitted, and numbers of images


class Judge(Protocol):
    """Labelled images by which scores are judged.

    Attributes:
        names: Of the values: the first is the library's main one, the last is that of the tail.
        images: Their numbers, see :func:`image_numbers`, ascending, shape (I,).
    """

    names: Sequence[str]
    images: np.ndarray

    def __call__(self, *parts: Part) -> Judged:
        """Judge on some of the images.

        Args:
            parts: Images, and what makes the scores on these: None, the classifier's own scores.
                All are judged together.
        """

    def sampling_error(self, images: np.ndarray) -> Optional[float]:
        """The standard error of the main value of these images, in per cent, by judging samples.

        None where all is judged.
        """

    def ceiling(self, images: np.ndarray) -> Optional[Judged]:
        """What images would come to if each box had the class of what it is on; None of others."""


class SampleJudge:
    """Judges by samples of the images: what has the highest score is decided.

    Args:
        samples: Of the images.
        prior: Its groups.
        kind: ``'accuracy'`` or ``'IoU'``, see :class:`Decided`.
    """

    def __init__(self, samples: Samples, prior: ClassPrior, kind: str) -> None:
        self.samples, self.prior, self.kind = samples, prior, kind
        self.names = metric_names(prior, kind)
        self.images = np.unique(samples.image)

    @torch.no_grad()
    def __call__(self, *parts: Part) -> Decided:
        """Judge on some of the images, see :class:`Judge`."""
        samples = self.samples
        rows = [np.flatnonzero(np.isin(samples.image, images)) for _, images in parts]
        predicted = [self._decide(scores, own) for (scores, _), own in zip(parts, rows)]
        chosen = np.concatenate(rows)
        label, weight, image = (
            np.asarray(values)[chosen] for values in (samples.label, samples.weight, samples.image)
        )
        images = np.concatenate([own for _, own in parts])
        order = np.argsort(images)
        place = order[np.searchsorted(images, image, sorter=order)]
        return Decided(label, np.concatenate(predicted), weight, place, self.prior, self.kind)

    def sampling_error(self, images: np.ndarray) -> Optional[float]:
        """See :class:`Judge`: of pixels that are drawn again, as if each had been for itself.

        A pixel that stands for w was drawn with probability 1 / w, and the variance of what it adds
        to a sum is (w - 1) / w of its square: where all were kept, there is no error. That so many
        of each class are drawn in each image makes the true error smaller. An image has one label,
        so of classifiers all is judged.
        """
        if self.kind == 'accuracy':
            return None
        decided, rng = self((None, images)), np.random.default_rng(0)
        spread = np.sqrt(1 - 1 / np.maximum(decided.weight, 1))
        # Of mean 1 and that variance, and none is negative.
        drawn = (
            1 + spread * (rng.poisson(1.0, len(decided.weight)) - 1) for _ in range(PIXEL_ROUNDS)
        )
        found = [
            once(replace(decided, weight=decided.weight * times), len(images))[self.names[0]]
            for times in drawn
        ]
        return float(np.nanstd(found))

    def ceiling(self, images: np.ndarray) -> None:
        """None: with the true class, all would be right."""

    def _decide(self, scores: Optional[nn.Module], chosen: np.ndarray) -> np.ndarray:
        predicted = [np.zeros(0, np.int64)]
        scores = scores or AffineScores(self.samples.logits.shape[2])
        for chunk in self.samples.of(scores).chunks(chosen):
            own = scores.to(chunk.logits.device)
            made = calibrated_scores(own, chunk.features, chunk.logits, chunk.taps)
            predicted.append(made.argmax(dim=1).cpu().numpy())
        return np.concatenate(predicted)


@dataclass(frozen=True)
class Decided:
    """What scores decide of samples.

    Attributes:
        label: Of each sample, shape (S,).
        predicted: Shape (S,).
        weight: How many elements it stands for, shape (S,).
        image: Position of its image among those judged, shape (S,).
        prior: Its groups.
        kind: ``'accuracy'`` or ``'IoU'``, see :func:`class_values`.
    """

    label: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    prior: ClassPrior
    kind: str

    def values(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """The values of draws of the images, see :class:`Judged`."""
        right, true, predicted = self._counted(times)
        return class_values(right, true, predicted, self.prior.groups, len(self.prior), self.kind)

    def _counted(self, times: np.ndarray) -> Iterator[np.ndarray]:
        """What of each class is right, is it, and is decided for it, in each draw, (R, C) each."""
        label, predicted = self.label.astype(np.int64), self.predicted
        side = max(len(self.prior), *(int(own.max(initial=0)) + 1 for own in (label, predicted)))
        is_right = label == predicted
        for key, own in ((label, is_right), (label, slice(None)), (predicted, slice(None))):
            # By class and image first: a draw is a sum over images.
            place = torch.from_numpy(np.stack([key[own], self.image[own]]))
            weight = torch.from_numpy(self.weight[own]).double()
            size = side, times.shape[1]
            counts = torch.sparse_coo_tensor(place, weight, size, check_invariants=False)
            yield torch.sparse.mm(counts, torch.from_numpy(times.T).double()).T.numpy()


def metric_names(prior: ClassPrior, kind: str) -> list[str]:
    """What :class:`Decided` has values of."""
    return [*OVERALL[kind], *partition(prior.groups)]


def folds(images: np.ndarray, seed: int, number: int = 2) -> list[np.ndarray]:
    """Parts of the images, each as large but for one image.

    Args:
        images: Their numbers.
        seed: Decides which are in which.
        number: Of the parts, at most. Default: 2.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(images) < 2:
        raise ValueError(
            f'{len(images)} labelled images cannot choose and report: name more, or leave the '
            'choice out'
        )
    order = np.random.default_rng(seed).permutation(images)
    return np.array_split(order, min(number, len(images)))
