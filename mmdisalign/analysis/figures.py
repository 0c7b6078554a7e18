"""Figures that compare evaluations; needs matplotlib (``pip install mmdisalign[tests]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Union

import matplotlib
from matplotlib.figure import Figure

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
    _shade_groups(axes, before)
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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'svg.hashsalt': 'mmdisalign'}):
        figure.savefig(path, dpi=150)


def _shade_groups(axes: matplotlib.axes.Axes, result: Evaluation) -> None:
    """Shade runs of neighbouring classes of one group, and name them."""
    groups = [result.group_of(i) for i in result.order]
    start = 0
    for end in range(1, len(groups) + 1):
        if end < len(groups) and groups[end] == groups[start]:
            continue
        shade = SHADES[list(dict.fromkeys(groups)).index(groups[start]) % len(SHADES)]
        axes.axvspan(start - 0.5, end - 0.5, color=shade, zorder=0, lw=0)
        axes.text((start + end - 1) / 2, 97, groups[start], ha='center', va='top', color='#555555')
        start = end
