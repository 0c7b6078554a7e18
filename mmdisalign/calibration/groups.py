"""Head, body and tail: the ways to split classes by their frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional, Union

import numpy as np

GROUP_NAMES = ('head', 'body', 'tail')
Groups = dict[str, list[int]]


def groups_by_share(counts: np.ndarray, head: float = 0.8, tail: float = 0.05) -> Groups:
    """Split by cumulative share of the data, classes taken from the most to the least frequent.

    Args:
        counts: Frequency of each class, shape (C,).
        head: The head is the fewest classes that hold at least this share.
        tail: The tail is as many of the rarest classes as hold at most this share.
    """
    if not (0 < head < 1 and 0 <= tail < 1 and head + tail <= 1):
        raise ValueError(f'shares must be in (0, 1) and sum to at most 1, got {head=}, {tail=}')
    order = _by_frequency(counts)
    cumulative = np.cumsum(np.asarray(counts, dtype=np.float64)[order]) / np.sum(counts)
    # A share of exactly 0.8 must not be missed, nor one of 0.05 exceeded, by a rounding error.
    num_head = int(np.searchsorted(cumulative, head - 1e-9)) + 1
    num_not_tail = int(np.searchsorted(cumulative, 1 - tail - 1e-9)) + 1
    return _cut(order, num_head, max(num_head, num_not_tail))


def groups_by_count(counts: np.ndarray, head: float, tail: float) -> Groups:
    """Head: more than ``head``; tail: fewer than ``tail``; body: the rest.

    ImageNet-LT's many / medium / few are ``head=100, tail=20``.
    """
    if tail > head + 1:
        raise ValueError(f'the tail ends at {tail}, above where the head begins, {head}')
    order = _by_frequency(counts)
    sorted_counts = np.asarray(counts)[order]
    return _cut(order, int((sorted_counts > head).sum()), int((sorted_counts >= tail).sum()))


def groups_by_rank(counts: np.ndarray, head: int, body: int) -> Groups:
    """The ``head`` most frequent classes, the next ``body``, and the rest.

    Classes of equal count rank in class order. ADE20K's published split is ``head=20, body=55``.
    """
    if head < 1 or body < 0 or head + body >= len(counts):
        raise ValueError(f'{len(counts)} classes cannot be split into {head=}, {body=} and a tail')
    return _cut(_by_frequency(counts), head, head + body)


RULES = {'share': groups_by_share, 'count': groups_by_count, 'rank': groups_by_rank}


def resolve_groups(
    groups: Mapping, counts: np.ndarray, classes: Optional[Sequence[str]] = None
) -> Groups:
    """Split classes as a config says.

    Args:
        groups: Either a rule, ``dict(by='share' | 'count' | 'rank', ...)`` with the arguments of
            :func:`groups_by_share`, :func:`groups_by_count` or :func:`groups_by_rank`, or the
            classes themselves, ``dict(head=[...], body=[...], tail=[...])``, as indices or names.
        counts: Frequency of each class, shape (C,).
        classes: Class names, needed if ``groups`` holds names.
    """
    if 'by' in groups:
        options = dict(groups)
        rule = options.pop('by')
        if rule not in RULES:
            raise ValueError(f'groups are split by one of {sorted(RULES)}, got {rule!r}')
        return RULES[rule](counts, **options)
    if set(groups) != set(GROUP_NAMES):
        raise ValueError(
            f'groups must be a rule or have the keys {GROUP_NAMES}, got {list(groups)}'
        )
    resolved = {
        name: [_index_of(member, len(counts), classes) for member in groups[name]]
        for name in GROUP_NAMES
    }
    _check_partition(resolved, len(counts))
    return resolved


def _by_frequency(counts: np.ndarray) -> np.ndarray:
    return np.argsort(-np.asarray(counts, dtype=np.float64), kind='stable')


def _cut(order: np.ndarray, head_end: int, body_end: int) -> Groups:
    parts = np.split(order, [head_end, body_end])
    return {name: sorted(part.tolist()) for name, part in zip(GROUP_NAMES, parts)}


def _index_of(member: Union[int, str], num_classes: int, classes: Optional[Sequence[str]]) -> int:
    if isinstance(member, str):
        if classes is None:
            raise ValueError(
                f'group member {member!r} is a name, but the prior knows no class names'
            )
        if member not in classes:
            raise ValueError(f'group member {member!r} is not one of the classes {list(classes)}')
        return list(classes).index(member)
    if not 0 <= member < num_classes:
        raise ValueError(f'group member {member} is not a class index below {num_classes}')
    return int(member)


def _check_partition(groups: Groups, num_classes: int) -> None:
    members = [index for name in GROUP_NAMES for index in groups[name]]
    twice = sorted({index for index in members if members.count(index) > 1})
    missing = sorted(set(range(num_classes)) - set(members))
    if twice or missing:
        raise ValueError(
            'head, body and tail must hold every class once; '
            f'classes in none: {missing}, in more than one: {twice}'
        )
