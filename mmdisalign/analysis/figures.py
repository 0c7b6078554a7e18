"""Figures that compare evaluations; needs matplotlib (``pip install mmdisalign[tests]``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Union

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..calibration import ClassPrior
from .results import Evaluation

# Okabe and Ito's colours, which colour-blind people tell apart.
BEFORE, AFTER = '#999999', '#0072B2'
SHADES = ('#FFFFFF', '#F2F2F2', '#E3E3E3')


def plot_by_frequency(
    before: Evaluation, after: Evaluation, path: Union[str, Path], *, value: str, mean: str
) -> None:
    """Draw a value per class before and after calibration, classes from frequent to rare.

    Args:
        before: Evaluation of stage 1, with known frequencies.
        after: Evaluation of stage 2.
        path: File to write; its ending decides the format.
        value: Name of the value per class, such as ``'IoU'`` or ``'segm_AP'``.
        mean: Name of its mean in the summary, for the legend.
    """
    label = value.replace('_', ' ')
    order = before.order
    figure = Figure(figsize=(max(6.0, 0.55 * len(order) + 2), 4.2), layout='constrained')
    axes = figure.subplots()
    _shade_groups(axes, [before.group_of(i) for i in order])
    for result, offset, colour, stage in (
        (before, -0.2, BEFORE, 'stage 1'),
        (after, 0.2, AFTER, 'DisAlign'),
    ):
        heights = [result.per_class[value][i] or 0 for i in order]
        positions = [rank + offset for rank in range(len(order))]
        legend = f'{stage} ({mean.replace("_", " ")} {result.summary[mean]:.1f})'
        axes.bar(positions, heights, 0.4, color=colour, label=legend)
    names = [f'{before.classes[i]}\n{100 * before.frequencies[i]:.2g} %' for i in order]
    axes.set_xticks(range(len(order)), names, rotation=45, ha='right', fontsize=8)
    axes.set(ylabel=f'{label} (%)', xlim=(-0.6, len(order) - 0.4), ylim=(0, 100))
    axes.set_title(f'{label} per class, from frequent to rare', loc='left')
    figure.legend(loc='outside upper right', ncols=2)
    _save(figure, path)


def plot_frequencies(prior: ClassPrior, path: Union[str, Path]) -> None:
    """Draw the share of each class, from frequent to rare, on a logarithmic scale.

    Args:
        prior: Class frequencies; a class that was never seen has no mark.
        path: File to write; its ending decides the format.
    """
    order = np.argsort(-prior.counts, kind='stable')
    group_of = {i: name for name, members in prior.groups.items() for i in members}
    figure = Figure(figsize=(7.0, 3.6), layout='constrained')
    axes = figure.subplots()
    shares = 100 * prior.frequencies[order]
    axes.plot(range(len(order)), np.where(shares > 0, shares, np.nan), '.-', color=AFTER)
    axes.set(
        yscale='log', ylabel='share (%)', xlabel='class, by rank', xlim=(-0.6, len(order) - 0.4)
    )
    _shade_groups(axes, [group_of[int(i)] for i in order])
    num_unseen = int((prior.counts == 0).sum())
    unseen = f', {num_unseen} never seen' if num_unseen else ''
    axes.set_title(f'Imbalance factor {prior.imbalance:.4g}{unseen}', loc='left')
    _save(figure, path)


def _save(figure: Figure, path: Union[str, Path]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'svg.hashsalt': 'mmdisalign'}):
        figure.savefig(path, dpi=150)


def _shade_groups(axes: matplotlib.axes.Axes, groups: Sequence[str]) -> None:
    """Shade runs of neighbouring classes of one group, and name them."""
    start = 0
    for end in range(1, len(groups) + 1):
        if end < len(groups) and groups[end] == groups[start]:
            continue
        shade = SHADES[list(dict.fromkeys(groups)).index(groups[start]) % len(SHADES)]
        axes.axvspan(start - 0.5, end - 0.5, color=shade, zorder=0, lw=0)
        place = {'ha': 'center', 'va': 'top', 'transform': axes.get_xaxis_transform()}
        axes.text((start + end - 1) / 2, 0.97, groups[start], color='#555555', **place)
        start = end
