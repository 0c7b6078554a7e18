"""The report: one page that shows what a second stage did, and its figures as files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..version import __version__
from . import figures, tables
from .drawing import LONG_EDGE
from .gate import LEVELS, QUANTILES, Gate
from .results import Calibration, Evaluation, Picture, gains_of, group_means, spoken_group
from .verdict import main_value, mean_of, verdict

Cell = Union[str, float, int, None]
SUMMARIES = (tables.SEGMENTATION, tables.CLASSIFICATION, tables.DETECTION, tables.PANOPTIC)


@dataclass(frozen=True)
class Table:
    """A table to sort.

    Attributes:
        header: Names of the columns.
        rows: Cells; None where there is no value.
        changes: Columns of differences, which are shown with a sign.
        precise: Columns that need more digits, as shares of the rarest classes do.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    changes: Sequence[int] = ()
    precise: Sequence[int] = ()

    @property
    def texts(self) -> list[int]:
        """Columns of text."""
        return [i for i in range(len(self.header)) if any(isinstance(r[i], str) for r in self.rows)]

    def shown(self, column: int, cell: Cell) -> str:
        """How a cell is written."""
        if cell is None:
            return '–'
        if isinstance(cell, (str, int)):
            return str(cell)
        return f'{cell:+.2f}' if column in self.changes else f'{cell:{self._form(column)}}'

    def _form(self, column: int) -> str:
        return '.3g' if column in self.precise else '.2f'


@dataclass
class Section:
    """A part of the page."""

    title: str
    text: str = ''
    figures: list[tuple[str, str]] = field(default_factory=list)
    table: Optional[Table] = None
    pictures: list[dict[str, Any]] = field(default_factory=list)


def write_report(
    results: Mapping[str, Evaluation],
    out: Union[str, Path],
    *,
    calibrations: Sequence[Calibration] = (),
    pictures: Optional[Sequence[Picture]] = None,
    intervals: Optional[Mapping[str, Mapping[str, tuple[float, float]]]] = None,
    title: str = 'Long-tail report',
) -> Path:
    """Write ``index.html``, which needs no other file, and its figures as PNG and SVG.

    Args:
        results: Two or more evaluations of the same classes by name, what is compared with first.
        out: Folder to write to.
        calibrations: What a DisAlign checkpoint learned.
        pictures: Images to show. Default: None, the page has no such section.
        intervals: Of each evaluation after the first, the 95 % interval of what each mean gained.
            Default: None, the page has no such section.
        title: Heading of the page.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there is one evaluation, or more than there are colours, or they differ in
            their classes or values.
    """
    check_comparable(results)
    out = Path(out)
    draw = _Draw(out / 'figures')
    sections = [
        _summary(results),
        *([] if intervals is None else [_intervals(intervals)]),
        *(_per_class(results, value, draw) for value in _values(results)),
        *_confusions(results, draw),
        *(part for c in calibrations for part in _calibration(c, results, draw, out / 'images')),
        *([] if pictures is None else [_pictures(pictures, out / 'images')]),
        _class_table(results),
    ]
    (before_name, before), *others = results.items()
    verdicts = [verdict(before, after, (before_name, name)) for name, after in others]
    path = out / 'index.html'
    path.write_text(page_of(title, verdicts, sections), encoding='utf-8')
    return path


def _intervals(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> Section:
    text = (
        'The 95 % intervals of what each mean gained, by a bootstrap over the images: where 0 is '
        'within, chance may have made it. They know nothing of other seeds, nor of other data.'
    )
    header = ['mean of', *(f'{name}: {end}' for name in found for end in ('from', 'to'))]
    keys = list(next(iter(found.values())))
    rows = [[key, *(end for own in found.values() for end in own[key])] for key in keys]
    changes = range(1, len(header))
    return Section('How sure a gain is', text, table=Table(header, rows, changes=list(changes)))


def page_of(title: str, verdicts: Sequence[str], sections: Sequence[Section]) -> str:
    """A page that needs no other file, as HTML.

    Args:
        title: Its heading.
        verdicts: Sentences below it.
        sections: What follows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template('report.html').render(
        title=title,
        verdicts=verdicts,
        sections=sections,
        footer=f'Made by mmdisalign {__version__}. Click a heading to sort its table.',
    )


class _Draw:
    """Writes figures as PNG and SVG, and returns them for the page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, figure: Figure, caption: str) -> tuple[str, str]:
        """The caption and the figure as SVG."""
        for ending in ('png', 'svg'):
            figures.save(figure, self._folder / f'{name}.{ending}')
        return caption, figures.inline_svg(figure, caption)


def check_comparable(results: Mapping[str, Evaluation]) -> None:
    """Raise ValueError unless there are two evaluations or more, of the same classes and groups."""
    most = len(figures.COLOURS)
    if not 2 <= len(results) <= most:
        raise ValueError(f'a report compares 2 to {most} evaluations, got {len(results)}')
    (first, before), *others = results.items()
    if not before.per_class:
        raise ValueError(f'{first} has no values per class')
    for name, after in others:
        for what in ('classes', 'partition', 'per_class'):
            own, other = (list(getattr(result, what)) for result in (before, after))
            if own != other:
                raise ValueError(
                    f'{first} and {name} cannot be compared: {what} of one are {_short(own)}, of '
                    f'the other {_short(other)}'
                )
        if dict(before.partition) != dict(after.partition):
            raise ValueError(
                f'{first} and {name} cannot be compared: their groups have other classes; --prior '
                'with the predictions of test.py --out evaluates both alike'
            )


def _short(names: Sequence[str]) -> str:
    return f'{len(names)}: {", ".join(names[:4])}{", ..." if len(names) > 4 else ""}'


def _values(results: Mapping[str, Evaluation]) -> list[str]:
    """Names of the values per class, the one that decides first."""
    first = next(iter(results.values()))
    return sorted(first.per_class, key=lambda value: value != main_value(first))


def _summary(results: Mapping[str, Evaluation]) -> Section:
    before = next(iter(results.values()))
    keys = next(
        (keys for keys in SUMMARIES if keys[0] in before.summary),
        tuple(before.summary),
    )
    keys = [key for key in keys if all(key in result.summary for result in results.values())]
    header = ['evaluation', *(key.replace('_', ' ') for key in keys)]
    rows = [[name, *(result.summary[key] for key in keys)] for name, result in results.items()]
    sizes = ', '.join(
        f'{len(members)} {spoken_group(group)}' for group, members in before.partition.items()
    )
    text = f'In per cent. {len(before.classes)} classes: {sizes}.'
    return Section('Summary', text, table=Table(header, rows))


def _per_class(results: Mapping[str, Evaluation], value: str, draw: _Draw) -> Section:
    before = next(iter(results.values()))
    spoken = value.replace('_', ' ')
    if before.frequencies is None:
        text, order = 'The class frequencies are not known; --prior adds them.', 'by group'
        against = order
    else:
        text, order = '', 'from frequent to rare, with its share of the training data'
        against = 'against its share of the training data'
    drawn = [
        draw(
            f'{value}_per_class',
            figures.plot_per_class(results, value),
            f'{spoken} of each class, {order}',
        ),
        draw(
            f'{value}_gain',
            figures.plot_gains(results, value),
            f'Change of {spoken} of each class, {against}; lines are group means',
        ),
    ]
    return Section(spoken, text, drawn, table=_group_table(results, before, value))


def _group_table(results: Mapping[str, Evaluation], before: Evaluation, value: str) -> Table:
    names = list(results)
    header = ['group', 'classes', 'share %', *names, *(_change(name, names) for name in names[1:])]
    groups = {**before.partition, 'all': range(len(before.classes))}
    means = [
        {**group_means(result.per_class[value], before.partition), 'all': mean_of(result, value)}
        for result in results.values()
    ]
    rows = []
    for group, members in groups.items():
        share = None
        if before.frequencies is not None:
            share = 100 * sum(before.frequencies[i] for i in members)
        own = [mean[group] for mean in means]
        changes = [mean - own[0] for mean in own[1:]]
        rows.append(
            [spoken_group(group), len(members), share, *map(_known, own), *map(_known, changes)]
        )
    return Table(header, rows, range(3 + len(names), len(header)))


def _change(name: str, names: Sequence[str]) -> str:
    """Heading of a column of changes."""
    return 'change' if len(names) == 2 else f'change, {name}'


def _class_table(results: Mapping[str, Evaluation]) -> Section:
    before = next(iter(results.values()))
    header, changes = ['class', 'group', 'share %'], []
    columns: list[Sequence[Cell]] = []
    for value in _values(results):
        for number, (name, result) in enumerate(results.items()):
            header.append(f'{value.replace("_", " ")} {name}')
            columns.append(result.per_class[value])
            if number:
                changes.append(len(header))
                header.append(_change(name, list(results)))
                columns.append([_known(gain) for gain in gains_of(before, result, value)])
    rows = []
    for i in before.order:
        share = None if before.frequencies is None else 100 * before.frequencies[i]
        rows.append(
            [before.classes[i], before.group_of(i), share, *(column[i] for column in columns)]
        )
    order = 'By group' if before.frequencies is None else 'From frequent to rare'
    text = f'{order}, in per cent; change in points over the first evaluation.'
    return Section('Each class', text, table=Table(header, rows, changes, precise=[2]))


def _confusions(results: Mapping[str, Evaluation], draw: _Draw) -> list[Section]:
    (first, before), *others = results.items()
    own = list(before.confusion or ())
    known = [(name, after) for name, after in others if own and list(after.confusion or ()) == own]
    if not known:
        return []
    text = (
        'What each group was predicted as, in per cent of its pixels, instances, segments or '
        'images. An instance is predicted as the class of the highest-scoring box with an IoU of '
        '0.5, a segment of panoptic data as that of the one with an IoU above it.'
    )
    drawn = [
        draw(
            f'confusion_{number}' if len(known) > 1 else 'confusion',
            figures.plot_confusion(before, after, (first, name)),
            f'Confusion between groups, {first} and {name}',
        )
        for number, (name, after) in enumerate(known, start=1)
    ]
    return [Section('Where predictions moved', text, drawn)]


def _calibration(
    calibration: Calibration, results: Mapping[str, Evaluation], draw: _Draw, folder: Path
) -> list[Section]:
    evaluation = list(results.values())[-1]
    name = calibration.name
    figure = figures.plot_calibration(calibration, evaluation)
    drawn = [draw(f'{name}_alpha_beta', figure, f'α and β of each class, {name}')]
    text = f'{name}: ẑ = (1 + σ(x)·α)·z + σ(x)·β.'
    if calibration.gate is None:
        text += (
            ' σ(x) was not observed, so there are no figures of where it closes: these take the '
            'config and some images (--config, --confidence-images).'
        )
        return [Section('What was learned', text, drawn)]
    return [
        Section('What was learned', text, drawn),
        _gate(calibration, evaluation, draw, folder),
    ]


def _gate(calibration: Calibration, evaluation: Evaluation, draw: _Draw, folder: Path) -> Section:
    name, gate = calibration.name, calibration.gate
    title, text = 'Where the gate closes', f'{name}: where σ(x) is 0, scores are those of stage 1.'
    if not gate.totals.any():
        return Section(title, f'{text} No {gate.unit} of {gate.images} images were seen.')
    groups = evaluation.partition or {'all': range(len(evaluation.classes))}
    caption = f'Share of each group with σ(x) below a value, {name}'
    if gate.right is not None:
        caption += '; and how much of what has about that σ(x) was right before calibration'
    shown = calibration.pictures
    return Section(
        title,
        f'{text} {_gate_in_words(gate)}',
        [draw(f'{name}_sigma', figures.plot_gate(gate, groups), caption)],
        _gate_table(gate, evaluation),
        _shown(shown, folder / file_name(name)) if shown else [],
    )


def _gate_in_words(gate: Gate) -> str:
    """What all classes come to."""
    whole, highest = gate.all, LEVELS[-1]
    total, changed = int(whole.totals[0]), int(whole.changed[0])
    by = 'their true class' if gate.right is not None else 'the class that scores highest before'
    shares = ' and '.join(f'{_share(whole.below(own))} have σ(x) below {own:g}' for own in LEVELS)
    text = (
        f'Of {total:,} {gate.unit} of {gate.images} images, by {by}, {shares}. With σ = 1 '
        f'everywhere, {changed:,} ({_share(whole.changed / total)}) would be of another class '
        '(changed)'
    )
    if gate.right is None:
        return f'{text}. Their true class is not known, so whether that is right is not, either.'
    parts = [(whole.accuracy(level)[0].item(), f'below {level:g}') for level in LEVELS]
    parts.append((whole.accuracy(highest)[1].item(), f'from {highest:g} on'))
    rights = [f'{100 * right:.1f} % {where}' for right, where in parts if not np.isnan(right)]
    return (
        f'{text}: {int(whole.saved[0]):,} are right as they are and would not be (saved), '
        f'{int(whole.lost[0]):,} are wrong and would be right (lost). Stage 1 was right at '
        f'{", ".join(rights)}.'
    )


def _gate_table(gate: Gate, evaluation: Evaluation) -> Table:
    highest, totals = LEVELS[-1], np.where(gate.totals > 0, gate.totals, np.nan)
    columns = {f'σ < {level:g} %': 100 * gate.below(level) for level in LEVELS}
    columns |= {f'σ at {100 * share:g} %': gate.quantile(share) for share in QUANTILES}
    if gate.right is not None:
        right = {f'right < {level:g} %': gate.accuracy(level)[0] for level in LEVELS}
        right[f'right ≥ {highest:g} %'] = gate.accuracy(highest)[1]
        columns |= {name: 100 * values for name, values in right.items()}
    for name in ('changed', 'saved', 'lost'):
        if getattr(gate, name) is not None:
            columns[f'{name} %'] = 100 * getattr(gate, name) / totals
    rows = [
        [
            evaluation.classes[i],
            evaluation.group_of(i),
            int(gate.totals[i]),
            *(_known(values[i]) for values in columns.values()),
        ]
        for i in gate.order
    ]
    return Table(['class', 'group', gate.unit, *columns], rows)


def _share(value: np.ndarray) -> str:
    return f'{100 * float(value.item()):.2g} %'


def _pictures(pictures: Sequence[Picture], folder: Path) -> Section:
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        'The images with the most changed predictions that have to do with the rarest group: its '
        'own elements, and others that were taken for it before or are now.'
        if pictures
        else 'No prediction changed that has to do with the rarest group.'
    )
    return Section('Images', text, pictures=_shown(pictures, folder))


def _shown(pictures: Sequence[Picture], folder: Path) -> list[dict[str, Any]]:
    """Pictures as the page has them, written to a folder, too."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for number, picture in enumerate(pictures, start=1):
        panels = []
        for position, (caption, image) in enumerate(picture.panels, start=1):
            content = _jpeg(image)
            (folder / f'{number}_{position}_{file_name(caption)}.jpg').write_bytes(content)
            source = f'data:image/jpeg;base64,{base64.b64encode(content).decode()}'
            panels.append((caption, source))
        shown.append({'title': picture.title, 'panels': panels})
    return shown


def file_name(name: str) -> str:
    """A name without what a file system might not take."""
    return re.sub(r'[^\w.-]+', '_', name)


def _jpeg(image: np.ndarray) -> bytes:
    drawn = Image.fromarray(image)
    drawn.thumbnail((LONG_EDGE, LONG_EDGE))
    buffer = io.BytesIO()
    drawn.save(buffer, 'JPEG', quality=85)
    return buffer.getvalue()


def _known(value: float) -> Optional[float]:
    return None if np.isnan(value) else float(value)
