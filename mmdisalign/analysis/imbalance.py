"""How long a tail is, in a few numbers."""

from __future__ import annotations

import numpy as np

from ..calibration import ClassPrior

UNSEEN_SHOWN = 20


def gini(counts: np.ndarray) -> float:
    r"""Gini coefficient of class counts: 0 where all are equal, near 1 where one class has all.

    .. math:: G = \frac{\sum_{i,j} |n_i - n_j|}{2 C \sum_i n_i}

    Args:
        counts: n, shape (C,).
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    return float(2 * (ranks * ordered).sum() / (len(ordered) * ordered.sum())) - (
        (len(ordered) + 1) / len(ordered)
    )


def effective_classes(frequencies: np.ndarray) -> float:
    """How many equally frequent classes would be as diverse: the exponential of the entropy.

    Args:
        frequencies: Shares of the classes, sum 1, shape (C,).
    """
    seen = np.asarray(frequencies)[np.asarray(frequencies) > 0]
    return float(np.exp(-(seen * np.log(seen)).sum()))


def describe(prior: ClassPrior) -> list[tuple[str, str]]:
    """Lines of name and value: what to know of a prior at a glance."""
    sizes = ', '.join(f'{len(members)} {name}' for name, members in prior.groups.items())
    order = np.argsort(-prior.counts, kind='stable')
    first, last = (prior.name_of(int(c)) for c in (order[0], order[-1]))
    unseen = [prior.name_of(c) for c in range(len(prior)) if not prior.counts[c]]
    seen = prior.counts[prior.counts > 0]
    among_seen = f' ({seen.max() / seen.min():.4g} among the classes seen)' if unseen else ''
    more = f' and {len(unseen) - UNSEEN_SHOWN} more' if len(unseen) > UNSEEN_SHOWN else ''
    return [
        ('classes', f'{len(prior)}: {sizes}'),
        ('most frequent', f'{first}, {prior.counts.max():,.12g}'),
        ('least frequent', f'{last}, {prior.counts.min():,.12g}'),
        ('imbalance factor', f'{prior.imbalance:.4g}{among_seen}'),
        ('Gini coefficient', f'{gini(prior.counts):.3f}'),
        ('effective classes', f'{effective_classes(prior.frequencies):.1f}'),
        ('never seen', ', '.join(unseen[:UNSEEN_SHOWN]) + more or 'none'),
    ]
