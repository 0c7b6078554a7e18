"""The figures of the report, with matplotlib.

Colours are Okabe and Ito's, which colour-blind people tell apart, and each evaluation has a marker
of its own. What is not data is drawn in :data:`INK`, so that :func:`inline_svg` can leave its
colour to the page.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Union

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..calibration import ClassPrior
from .gate import LEVELS, NUM_BINS, Gate, edge_of
from .results import Calibration, Evaluation, as_floats, gains_of, group_gains, spoken_group

INK = '#1f2328'
COLOURS = ('#888888', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00')
MARKERS = 'os^Dv*'
SHADES = (0.0, 0.07, 0.14)  # opacity of the groups' grey, which suits light and dark pages
MOST_BARS = 40  # classes; more of them are drawn as points, without names
SIGMA_TICKS = (1e-4, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999)
ACCURACY_BINS = 8  # of σ, whose accuracies are drawn as one
FEWEST = 20  # places that an accuracy is drawn of
GROUP_LABEL = {'ha': 'left', 'va': 'bottom', 'fontsize': 9, 'fontweight': 'bold'}
STYLE = {
    'svg.hashsalt': 'mmdisalign',
    'svg.fonttype': 'none',
    'text.parse_math': False,  # a class may have a $ in its name
    'text.color': INK,
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.color': INK,
    'ytick.color': INK,
    'legend.frameon': False,
}


def plot_per_class(results: Mapping[str, Evaluation], value: str) -> Figure:
    """A value of each class in each evaluation, classes from frequent to rare.

    Args:
        results: Evaluations of the same classes, by name; the first decides the order.
        value: Name of the value, such as ``'IoU'``.
    """
    first = next(iter(results.values()))
    order = first.order
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_width(len(order)), 4.2), layout='constrained')
        axes = figure.subplots()
        width = 0.8 / len(results)
        for number, (name, result) in enumerate(results.items()):
            heights = as_floats(result.per_class[value])[order]
            ranks = np.arange(len(order))
            if len(order) <= MOST_BARS:
                ranks = ranks + (number - (len(results) - 1) / 2) * width
                axes.bar(ranks, heights, width, color=COLOURS[number], label=name)
            else:
                style = {'marker': MARKERS[number], 'color': COLOURS[number], 'ls': 'none'}
                axes.plot(ranks, heights, ms=_marker_size(first), **style, label=name)
        _class_axis(axes, first)
        # The groups' names have their place above the bars.
        highest = max(np.nanmax(as_floats(r.per_class[value]), initial=0) for r in results.values())
        axes.set(ylabel=f'{_spoken(value)} (%)', ylim=(0, 1.15 * highest or 1))
        figure.legend(loc='outside upper right', ncols=len(results))
    return figure


def plot_gains(results: Mapping[str, Evaluation], value: str) -> Figure:
    """What each class gained over the first evaluation, against its frequency; lines are means.

    Args:
        results: Two or more evaluations of the same classes, by name.
        value: Name of the value, such as ``'IoU'``.
    """
    (_, before), *others = results.items()
    positions = _positions(before)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.2), layout='constrained')
        axes = figure.subplots()
        axes.axhline(0, color=INK, lw=0.8)
        for number, (name, after) in enumerate(others, start=1):
            gains = gains_of(before, after, value)
            line = {'color': COLOURS[number], 'lw': 2.5}
            style = {'marker': MARKERS[number], 'color': COLOURS[number]}
            axes.plot(positions, gains, ls='none', ms=_marker_size(before), **style, label=name)
            for group, mean in group_gains(before, after, value).items():
                members = positions[list(before.partition[group])]
                axes.plot([members.max(), members.min()], [mean] * 2, zorder=3, **line)
                if len(others) == 1:
                    label = f'{spoken_group(group)} {mean:{_signed(gains)}}'
                    axes.text(members.max(), mean, label, **GROUP_LABEL)
        if len(others) == 1:
            _name_extremes(axes, before, positions, gains)
        if before.frequencies is None:
            axes.set(xlabel='class, by group; the shares of the training data are not known')
        else:
            axes.set(xscale='log', xlabel='share of the training data (%)')
            axes.xaxis.set_major_formatter('{x:g}')
        axes.invert_xaxis()  # as in the other figures, from frequent to rare
        axes.margins(y=0.15)
        axes.set(ylabel=f'change of {_spoken(value)} (points)')
        if len(others) > 1:
            figure.legend(loc='outside upper right', ncols=len(others))
    return figure


def plot_confusion(before: Evaluation, after: Evaluation, names: Sequence[str]) -> Figure:
    """Which group was taken for which, in per cent of the true group, and the change of it.

    Args:
        before: Evaluation with a ``confusion``.
        after: Another, with the same groups.
        names: How to call the two.
    """
    rows = list(before.confusion)
    columns = list(dict.fromkeys(name for row in before.confusion.values() for name in row))
    columns += [name for name in next(iter(after.confusion.values())) if name not in columns]
    shares = [_shares(result.confusion, rows, columns) for result in (before, after)]
    change = shares[1] - shares[0]
    limit = max(1.0, float(np.nanmax(np.abs(change))))
    panels = [
        (f'{names[0]} (%)', shares[0], 'Blues', (0, 100), '.1f'),
        (f'{names[1]} (%)', shares[1], 'Blues', (0, 100), '.1f'),
        ('change (points)', change, 'PuOr', (-limit, limit), '+.1f'),
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.3 + 0.65 * len(rows)), layout='constrained')
        for axes, (title, values, colours, limits, form) in zip(figure.subplots(1, 3), panels):
            image = axes.imshow(values, colours, vmin=limits[0], vmax=limits[1], aspect='auto')
            axes.set_xticks(range(len(columns)), map(spoken_group, columns))
            axes.set_yticks(range(len(rows)), map(spoken_group, rows))
            axes.set(xlabel='predicted', ylabel='true')
            axes.set_title(title, loc='left', fontsize=10)
            axes.spines[:].set_visible(False)
            for (row, column), value in np.ndenumerate(values):
                ink = _ink_on(image.cmap(image.norm(value)))
                axes.text(column, row, f'{value:{form}}', ha='center', va='center', color=ink)
    return figure


def plot_calibration(calibration: Calibration, evaluation: Evaluation) -> Figure:
    """The learned α and β of each class, from frequent to rare.

    Args:
        calibration: What was learned.
        evaluation: Knows the classes and their groups.
    """
    order = evaluation.order
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_width(len(order)), 5.4), layout='constrained')
        panels = figure.subplots(2, 1, sharex=True)
        learned = (('magnitude α', calibration.magnitude), ('margin β', calibration.margin))
        for axes, (label, values) in zip(panels, learned):
            heights = np.asarray(values, dtype=np.float64)[order]
            axes.vlines(range(len(order)), 0, heights, color=COLOURS[1], lw=1)
            axes.plot(heights, 'o', color=COLOURS[1], ms=_marker_size(evaluation))
            axes.axhline(0, color=INK, lw=0.8)
            axes.set(ylabel=label)
            _class_axis(axes, evaluation, names=axes is panels[-1])
    return figure


def plot_gate(gate: Gate, groups: Mapping[str, Sequence[int]]) -> Figure:
    """What share of each group has σ(x) below any value; and how right stage 1 was there.

    The axes of σ is even in its logit and that of the share logarithmic, so that what closes shows
    where nearly all is open.

    Args:
        gate: What was observed.
        groups: Class indices of each group.
    """
    parts = {spoken_group(name): gate.of(members) for name, members in groups.items()}
    parts = {name: part for name, part in parts.items() if part.totals[0]}
    is_known = gate.right is not None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 6.0 if is_known else 3.8), layout='constrained')
        ratios = [3, 2] if is_known else [1]
        panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)
        for number, (name, part) in enumerate(parts.items(), start=1):
            style = {'color': COLOURS[number], 'lw': 1.8, 'ls': ('-', '--', ':')[(number - 1) % 3]}
            shares = 100 * np.cumsum(part.counts[0]) / part.totals[0]
            shares = np.where(shares > 0, shares, np.nan)
            panels[0, 0].plot(np.arange(1, NUM_BINS + 1), shares, **style, label=name)
            if is_known:
                places, rights = _accuracies(part)
                panels[1, 0].plot(places, rights, marker=MARKERS[number], ms=4, **style)
        panels[0, 0].set(yscale='log', ylabel='per cent of the group below')
        panels[0, 0].set_ylim(bottom=_lowest_share(parts.values()), top=150)
        panels[0, 0].yaxis.set_major_formatter('{x:g}')
        if is_known:
            panels[1, 0].set(ylabel='stage 1 right there (%)', ylim=(0, 105))
        _sigma_axis(panels[:, 0], gate)
        figure.legend(loc='outside upper right', ncols=max(1, len(parts)))
    return figure


def plot_methods(
    points: Mapping[str, tuple[float, float]], before: tuple[float, float], names: tuple[str, str]
) -> Figure:
    """What methods came to: a value of the rare classes against one of all, and their front.

    Args:
        points: Of each method by its name, the value of all and of the rare.
        before: The same without a method.
        names: Of the two values.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.8), layout='constrained')
        axes = figure.subplots()
        for value, line in zip(before, (axes.axvline, axes.axhline)):
            line(value, color=COLOURS[0], lw=0.8, ls=':')
        front = pareto_front({'stage 1': before, **points})
        axes.plot(*zip(*front), color=COLOURS[1], lw=1.2, drawstyle='steps-pre', zorder=1)
        for name, point in points.items():
            colour = COLOURS[1] if point in front else COLOURS[2]
            axes.plot(*point, MARKERS[0], color=colour, ms=5)
            axes.annotate(name, point, (4, 3), textcoords='offset points', fontsize=8)
        axes.plot(*before, MARKERS[5], color=INK, ms=11)
        axes.annotate('stage 1', before, (6, -11), textcoords='offset points', fontsize=8)
        axes.margins(x=0.15, y=0.1)
        axes.set(xlabel=f'{names[0]} (%)', ylabel=f'{names[1]} (%)')
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is better than in one value and as good in the other, by the first.

    Args:
        points: By name.
    """
    front: list[tuple[float, float]] = []
    for first, second in sorted(set(points.values()), reverse=True):
        if not front or second > front[-1][1]:
            front.append((first, second))
    return front[::-1]


def plot_frequencies(prior: ClassPrior, path: Union[str, Path]) -> None:
    """Draw the share of each class, from frequent to rare, on a logarithmic scale.

    Args:
        prior: Class frequencies; a class that was never seen has no mark.
        path: File to write; its ending decides the format.
    """
    order = np.argsort(-prior.counts, kind='stable')
    group_of = {i: name for name, members in prior.groups.items() for i in members}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.6), layout='constrained')
        axes = figure.subplots()
        shares = 100 * prior.frequencies[order]
        axes.plot(range(len(order)), np.where(shares > 0, shares, np.nan), '.-', color=COLOURS[1])
        axes.set(yscale='log', ylabel='share (%)', xlabel='class, by rank')
        axes.yaxis.set_major_formatter('{x:g}')
        axes.set_xlim(-0.6, len(order) - 0.4)
        if prior.classes is not None and len(order) <= MOST_BARS:
            names = [prior.classes[i] for i in order]
            axes.set_xticks(range(len(order)), names, rotation=45, ha='right', fontsize=8)
        _shade_groups(axes, [group_of[int(i)] for i in order])
        num_unseen = int((prior.counts == 0).sum())
        unseen = f', {num_unseen} never seen' if num_unseen else ''
        axes.set_title(f'Imbalance factor {prior.imbalance:.4g}{unseen}', loc='left')
    save(figure, path)


def save(figure: Figure, path: Union[str, Path]) -> None:
    """Write a figure; the ending of the path decides the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {'Date': None} if Path(path).suffix == '.svg' else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=150, metadata=metadata)


def inline_svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element for a page, on whose background it stands, in its colour of text.

    Args:
        figure: The figure.
        label: What it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    element = buffer.getvalue().partition('<svg')[2].replace(INK, 'currentColor')
    return f'<svg role="img" aria-label="{html.escape(label)}"{element}'


def _spoken(name: str) -> str:
    return name.replace('_', ' ')


def _signed(changes: np.ndarray) -> str:
    """How to write means of some changes: small ones with more digits."""
    return '+.1f' if np.nanmax(np.abs(changes), initial=0) >= 1 else '+.2f'


def _width(num_classes: int) -> float:
    return max(6.0, 0.55 * num_classes + 2) if num_classes <= MOST_BARS else 12.0


def _marker_size(evaluation: Evaluation) -> float:
    return 5.0 if len(evaluation.classes) <= MOST_BARS else 2.5


def _class_axis(axes: Axes, evaluation: Evaluation, *, names: bool = True) -> None:
    """Make the x axis that of the classes, from frequent to rare, groups shaded."""
    order = evaluation.order
    _shade_groups(axes, [evaluation.group_of(i) for i in order])
    axes.set_xlim(-0.6, len(order) - 0.4)
    if len(order) > MOST_BARS:
        axes.set_xlabel('class, from frequent to rare' if names else '')
        return
    labels = [evaluation.classes[i] for i in order]
    if evaluation.frequencies is not None:
        labels = [
            f'{label}\n{100 * evaluation.frequencies[i]:.2g} %' for label, i in zip(labels, order)
        ]
    axes.set_xticks(range(len(order)), labels, rotation=45, ha='right', fontsize=8)


def _sigma_axis(panels: Sequence[Axes], gate: Gate) -> None:
    """Make the shared x axis, in edges of bins, that of σ."""
    seen = np.flatnonzero(gate.all.counts[0])
    first, last = (seen[0], seen[-1] + 1) if seen.size else (0, NUM_BINS)
    levels = [edge_of(level) for level in LEVELS]
    first, last = min(first, levels[0]) - 2, max(last, levels[-1]) + 2
    places = {edge: sigma for sigma in SIGMA_TICKS if first <= (edge := edge_of(sigma)) <= last}
    for axes in panels:
        for level in levels:
            axes.axvline(level, color=COLOURS[0], lw=0.8, ls=':')
        axes.set_xlim(first, last)
    panels[-1].set_xticks(list(places), [f'{sigma:g}' for sigma in places.values()])
    panels[-1].set_xlabel('confidence σ(x)')


def _accuracies(part: Gate) -> tuple[list[float], list[float]]:
    """Middle of runs of bins, and how right stage 1 was there in per cent, of enough places."""
    counts, rights = (own.reshape(-1, ACCURACY_BINS).sum(1) for own in (part.counts, part.right))
    known = np.flatnonzero(counts >= FEWEST)
    middles = (known + 0.5) * ACCURACY_BINS
    return middles.tolist(), (100 * rights[known] / counts[known]).tolist()


def _lowest_share(parts: Iterable[Gate]) -> float:
    """Per cent to begin an axis at: below one of the places that were seen, to the tenth."""
    most = max((float(part.totals[0]) for part in parts), default=1.0)
    return max(1e-4, 10 ** np.floor(np.log10(100 / most)))


def _shade_groups(axes: Axes, groups: Sequence[str]) -> None:
    """Shade runs of neighbouring classes of one group, and name them."""
    start = 0
    for end in range(1, len(groups) + 1):
        if end < len(groups) and groups[end] == groups[start]:
            continue
        shade = SHADES[list(dict.fromkeys(groups)).index(groups[start]) % len(SHADES)]
        axes.axvspan(start - 0.5, end - 0.5, color='#808080', alpha=shade, zorder=0, lw=0)
        if end - start > len(groups) / 40:
            place = {'ha': 'center', 'va': 'top', 'transform': axes.get_xaxis_transform()}
            axes.text((start + end - 1) / 2, 0.97, groups[start], alpha=0.75, **place)
        start = end


def _positions(evaluation: Evaluation) -> np.ndarray:
    """Where a class is on the axis of frequencies, (C,): its share in per cent, or its rank."""
    if evaluation.frequencies is None:
        return len(evaluation.order) - np.argsort(evaluation.order).astype(np.float64)
    shares = 100 * as_floats(evaluation.frequencies)
    # A class that was never seen has its place beside the rarest: a logarithm has no 0.
    return np.where(shares > 0, shares, shares[shares > 0].min() / 2)


def _name_extremes(
    axes: Axes, evaluation: Evaluation, positions: np.ndarray, gains: np.ndarray
) -> None:
    """Name the classes that gained and lost most."""
    known = [i for i in np.argsort(gains) if not np.isnan(gains[i])]
    for index, offset in {**dict.fromkeys(known[-2:], 6), **dict.fromkeys(known[:2], -12)}.items():
        place = {'xytext': (0, offset), 'textcoords': 'offset points', 'ha': 'center'}
        axes.annotate(
            evaluation.classes[index], (positions[index], gains[index]), fontsize=8, **place
        )


def _shares(
    confusion: Mapping[str, Mapping[str, float]], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    counts = np.array([[confusion[row].get(name, 0) for name in columns] for row in rows])
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _ink_on(colour: tuple[float, float, float, float]) -> str:
    luminance = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    return 'black' if luminance > 0.5 else 'white'
