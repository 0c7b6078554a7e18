"""How sure a difference is: values of draws of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .results import partition

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


@dataclass(frozen=True)
class ClassCounts:
    """What is right, is there and is predicted of each class in each of I images.

    Attributes:
        right: Elements that are of a class and are predicted as it, shape (I, C).
        true: That are of it, shape (I, C).
        predicted: That are predicted as it, shape (I, C).
        groups: Class indices by name.
        kind: ``'accuracy'`` or ``'IoU'``, see :func:`class_values`.
    """

    right: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    groups: Mapping[str, Sequence[int]]
    kind: str

    def values(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """The values of draws of the images, see :class:`Judged`."""
        counts = (times.astype(float) @ own for own in (self.right, self.true, self.predicted))
        return class_values(*counts, self.groups, self.right.shape[1], self.kind)


def class_values(
    right: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    number: int,
    kind: str,
) -> dict[str, np.ndarray]:
    """Means in per cent, of R draws, by name.

    Of the kind ``'accuracy'``, ``top1`` is that of all elements and ``mean`` that of the classes,
    each counting the same; of ``'IoU'``, ``mIoU`` is that of the classes.

    Args:
        right: Elements of each class that are right, shape (R, C or more: what is no class).
        true: That are of it.
        predicted: That are predicted as it.
        groups: Class indices by name.
        number: C.
        kind: ``'accuracy'`` or ``'IoU'``.
    """
    is_accuracy = kind == 'accuracy'
    with np.errstate(invalid='ignore', divide='ignore'):  # 0 / 0
        whole = true if is_accuracy else true + predicted - right
        shares = 100 * np.where(true > 0, right / whole, np.nan)[:, :number]
        top1 = 100 * right.sum(axis=1) / true.sum(axis=1)
    means = means_of_groups(shares, {'mean': range(number), **partition(groups)})
    mean = means.pop('mean')
    return {**({'top1': top1, 'mean': mean} if is_accuracy else {'mIoU': mean}), **means}


def means_of_groups(
    values: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """The mean over each group's classes of values (R, C), each (R,); of those that are not NaN.

    Args:
        values: Of each class, in each of R draws.
        groups: Class indices by name.
    """
    means = {}
    for name, members in groups.items():
        own = values[:, list(members)]
        known = ~np.isnan(own)
        with np.errstate(invalid='ignore'):  # 0 / 0
            means[name] = np.where(known, own, 0).sum(axis=1) / known.sum(axis=1)
    return means


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
