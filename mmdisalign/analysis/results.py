"""What the metrics write to their ``result_file``, and figures and tables are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

from ..calibration import ClassPrior
from ..files import written_whole
from .gate import Gate

Values = Sequence[Optional[float]]
# Groups that share the classes among them, from frequent to rare: LVIS's own before a prior's.
PARTITIONS = (('f', 'c', 'r'), ('head', 'body', 'tail'), ('many', 'medium', 'few'))
MISSED = 'missed'
GROUP_WORDS = {'f': 'frequent', 'c': 'common', 'r': 'rare'}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, in per cent; None, or NaN, where there is no value.

    Attributes:
        summary: Means by name, such as ``mIoU`` or ``bbox_APr``.
        classes: Names of the C classes.
        groups: Class indices of each frequency group, such as ``head`` or ``r``.
        frequencies: Share of each class in the training data, (C,); None if unknown.
        per_class: Values by name, such as ``IoU`` or ``bbox_AP``, each of shape (C,).
        confusion: How many pixels, instances, segments or images of a group (first key) were
            predicted as which group (second key); of instances and segments, some are ``missed``.
            None if it is not known.
    """

    summary: Mapping[str, Optional[float]]
    classes: Sequence[str]
    groups: Mapping[str, Sequence[int]]
    frequencies: Optional[Sequence[float]]
    per_class: Mapping[str, Values]
    confusion: Optional[Mapping[str, Mapping[str, float]]] = None

    @classmethod
    def load(cls, path: Union[str, Path]) -> Evaluation:
        """Read a result file.

        Raises:
            ValueError: If the file is not one.
        """
        try:
            result = cls(**json.loads(Path(path).read_text(encoding='utf-8')))
            result._check_lengths()
            return result
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{path} is not a result file of a metric of mmdisalign ({error}); '
                'test_evaluator.result_file names one to write'
            ) from None

    def _check_lengths(self) -> None:
        values = {'frequencies': self.frequencies, **self.per_class}
        for name, own in values.items():
            if own is not None and len(own) != len(self.classes):
                raise ValueError(f'{len(own)} {name} of {len(self.classes)} classes')

    def save(self, path: Union[str, Path]) -> None:
        """Write a result file."""
        content = asdict(self)
        content['summary'] = {key: _number(value) for key, value in self.summary.items()}
        content['per_class'] = {
            key: [_number(value) for value in values] for key, values in self.per_class.items()
        }
        with written_whole(path) as file:
            file.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')

    def with_prior(self, prior: ClassPrior) -> Evaluation:
        """The same with the frequencies of a prior, and its groups where there were none.

        Raises:
            ValueError: If the prior is of other classes.
        """
        prior.check_classes(self.classes)
        groups = self.groups if any(self.groups.values()) else prior.groups
        return replace(self, groups=groups, frequencies=prior.frequencies.tolist())

    @property
    def partition(self) -> dict[str, Sequence[int]]:
        """Groups from frequent to rare, each class in one: LVIS's r, c, f before head, body, tail.

        A group without a class is left out.
        """
        return partition(self.groups)

    @property
    def order(self) -> list[int]:
        """Class indices from the most to the least frequent; by group if that is unknown."""
        if self.frequencies is not None:
            return sorted(range(len(self.classes)), key=lambda index: -self.frequencies[index])
        ranks = list(self.partition)
        of_group = {index: ranks.index(name) for name in ranks for index in self.partition[name]}
        return sorted(range(len(self.classes)), key=lambda index: of_group.get(index, len(ranks)))

    def group_of(self, index: int) -> str:
        """Which group of :attr:`partition` has a class, in words; ``'-'`` if none has."""
        found = (name for name, members in self.partition.items() if index in members)
        return spoken_group(next(found, '-'))


@dataclass(frozen=True)
class Picture:
    """An image, drawn several times.

    Attributes:
        title: What it is and why it is shown.
        panels: Captions, such as 'ground truth', and what was drawn, RGB, uint8 (H, W, 3).
    """

    title: str
    panels: Sequence[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Calibration:
    """What a DisAlign checkpoint learned for one classifier.

    Attributes:
        name: Where the calibration is in the model, such as ``decode_head.calibration``.
        magnitude: α of each class, (C,).
        margin: β of each class, (C,).
        gate: Where σ(x) was seen; None if it was not observed.
        pictures: Of the images in which it closed most.
    """

    name: str
    magnitude: Sequence[float]
    margin: Sequence[float]
    gate: Optional[Gate] = None
    pictures: Sequence[Picture] = ()


def spoken_group(name: str) -> str:
    """A group in words: LVIS's have a letter."""
    return GROUP_WORDS.get(name, name)


def partition(groups: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The groups that :attr:`Evaluation.partition` is of."""
    for names in PARTITIONS:
        found = {name: groups[name] for name in names if groups.get(name)}
        if found:
            return found
    return {name: members for name, members in groups.items() if members}


def count_confusion(
    truth: Union[np.ndarray, Tensor],
    predicted: Union[np.ndarray, Tensor],
    groups: Mapping[str, Sequence[int]],
    num_classes: int,
) -> np.ndarray:
    """Count which group was predicted as which.

    Args:
        truth: True classes, shape (N,); others than 0 to C - 1 are not counted.
        predicted: Predicted classes, shape (N,); others than 0 to C - 1 are missed.
        groups: The G groups, each class in at most one.
        num_classes: C.

    Returns:
        Counts, shape (G, G + 1), rows by truth; the last column counts the missed.
    """
    truth, predicted = (torch.as_tensor(labels).long() for labels in (truth, predicted))
    number = len(groups)
    lookup = torch.full((num_classes + 1,), number, device=truth.device)
    for group, members in enumerate(groups.values()):
        lookup[list(members)] = group
    rows, columns = (
        lookup[labels.where((labels >= 0) & (labels < num_classes), num_classes)]
        for labels in (truth, predicted)
    )
    pairs = torch.bincount(rows * (number + 1) + columns, minlength=(number + 1) ** 2)
    return pairs.reshape(number + 1, number + 1)[:number].cpu().numpy()


def named_confusion(
    counts: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """What :func:`count_confusion` returns, by the groups' names; without what is never missed."""
    names = [*groups, MISSED][: None if counts[:, -1].any() else -1]
    return {
        group: dict(zip(names, row)) for group, row in zip(groups, counts.astype(float).tolist())
    }


def group_means(values: Values, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean of a per-class value over each group; NaN, for a class that does not occur, is left out.

    Args:
        values: One value per class, shape (C,).
        groups: Class indices by group name.
    """
    values = as_floats(values)
    means = {}
    for name, members in groups.items():
        known = values[list(members)]
        known = known[~np.isnan(known)]
        means[name] = float(known.mean()) if known.size else float('nan')
    return means


def as_floats(values: Values) -> np.ndarray:
    """Values per class as an array, shape (C,); NaN where there is none."""
    return np.asarray(values, dtype=np.float64)


def gains_of(before: Evaluation, after: Evaluation, value: str) -> np.ndarray:
    """What each class gained, in points, (C,); NaN where either has no value."""
    return as_floats(after.per_class[value]) - as_floats(before.per_class[value])


def group_gains(before: Evaluation, after: Evaluation, value: str) -> dict[str, float]:
    """What the mean of each group gained; groups without a value in either are left out.

    As in the metrics, a mean is over the classes that have a value in its own evaluation.
    """
    first, second = (group_means(r.per_class[value], before.partition) for r in (before, after))
    gains = {group: second[group] - first[group] for group in first}
    return {group: gain for group, gain in gains.items() if not np.isnan(gain)}


def _number(value: Optional[float]) -> Optional[float]:
    """A number that JSON can hold; it has no NaN."""
    return None if value is None or math.isnan(value) else round(float(value), 4)
