"""What a comparison comes to, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .results import Evaluation, gains_of, group_means, spoken_group

# The value per class that a task is judged by: the first that an evaluation has.
MAIN_VALUES = ('IoU', 'PQ', 'segm_AP', 'bbox_AP', 'accuracy')
# The mean of a value, where the summary does not have it under the value's name.
MEANS = {'IoU': 'mIoU', 'Acc': 'mAcc', 'accuracy': 'mean', 'f1': 'macro_f1'}
UNCHANGED = 0.05  # points


def main_value(evaluation: Evaluation) -> str:
    """Name of the value per class that decides."""
    return next(
        name for name in (*MAIN_VALUES, *evaluation.per_class) if name in evaluation.per_class
    )


def mean_of(evaluation: Evaluation, value: str) -> float:
    """Mean of a value over the classes: the summary's own, where it has one."""
    mean = evaluation.summary.get(MEANS.get(value, value))
    if mean is None:
        mean = group_means(evaluation.per_class[value], {'': range(len(evaluation.classes))})['']
    return mean


def verdict(before: Evaluation, after: Evaluation, names: Sequence[str]) -> str:
    """What rose, what fell, for which group: one sentence.

    Args:
        before: An evaluation.
        after: Another, of the same classes.
        names: How to call the two.
    """
    value = main_value(before)
    spoken = value.replace('_', ' ')
    means = [mean_of(result, value) for result in (before, after)]
    groups = [group_means(result.per_class[value], before.partition) for result in (before, after)]
    parts = [
        f'{spoken_group(group)} {_change(groups[0][group], groups[1][group])}'
        for group in reversed(before.partition)
        if not math.isnan(groups[0][group] + groups[1][group])
    ]
    label = spoken if value.endswith(('AP', 'PQ')) else f'mean {spoken}'
    sentence = f'From {names[0]} to {names[1]}, {label} {_change(*means)}'
    if parts:
        sentence += f': {", ".join(parts)}'
    return f'{sentence}. {_classes(before, after, value)}'


def _change(before: float, after: float) -> str:
    change = after - before
    if math.isnan(change):
        return 'has no value in both'
    if abs(change) < UNCHANGED:
        return f'stayed at {after:.1f} %'
    verb = 'rose' if change > 0 else 'fell'
    return f'{verb} by {abs(change):.1f} to {after:.1f} %'


def _classes(before: Evaluation, after: Evaluation, value: str) -> str:
    """How many classes gained, and which won and lost most."""
    gains = gains_of(before, after, value)
    known = np.flatnonzero(~np.isnan(gains))
    if not known.size:
        return 'No class has a value in both.'
    rose, fell = (gains[known] >= UNCHANGED).sum(), (gains[known] <= -UNCHANGED).sum()
    best, worst = known[np.argmax(gains[known])], known[np.argmin(gains[known])]
    of = f'{known.size}' if known.size == len(gains) else f'the {known.size}'
    those = '' if known.size == len(gains) else ' with a value in both'
    text = f'Of {of} classes{those}, {rose} rose and {fell} fell'
    extremes = []
    if rose:
        extremes.append(f'{before.classes[best]} gained most ({gains[best]:+.1f})')
    if fell:
        extremes.append(f'{before.classes[worst]} lost most ({gains[worst]:+.1f})')
    return f'{text}; {", ".join(extremes)}.' if extremes else f'{text}.'
