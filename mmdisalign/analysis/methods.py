"""The page that compares second-stage methods on the images that report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import figures
from .report import Section, Table, page_of
from .tables import value_text

Row = Mapping[str, Any]


def methods_page(content: Mapping[str, Any], verdict: str) -> str:
    """A page with one picture and the table, as HTML.

    Args:
        content: What calibrate.py writes as JSON: ``metric``, what decided; ``overall`` and
            ``tail``, the values to draw; ``images``, how many chose and reported; ``methods``, a
            row each, the first of the classifier as it was.
        verdict: A sentence on the best.
    """
    metric, (chose, reported) = content['metric'], content['images']
    shown = [row for row in content['methods'] if row['refused'] is None]
    refused = dict.fromkeys(row['refused'] for row in content['methods'] if row['refused'])
    text = (
        f'Numbers are chosen by the {metric} of {chose:,} validation images; the table is of '
        + (f'{reported:,} others' if content['split'] else 'the same, so it flatters')
        + '. A gain is the 95 % interval of a bootstrap over those. '
        + ' '.join(f'{reason}.' for reason in refused)
    )
    section = Section('Methods', text, _pictures(content, shown), _table(metric, shown))
    return page_of('Which method helps', [verdict], [section])


def name_of(row: Row) -> str:
    """What to call a row: the method, and what it was fitted to, unless training images."""
    source = '' if row['fit_on'] == 'train' else f' ({row["fit_on"]})'
    return f'{row["method"]}{source}'


def _pictures(content: Mapping[str, Any], shown: Sequence[Row]) -> list[tuple[str, str]]:
    keys = content['overall'], content['tail']
    before, *others = (tuple(row['values'][key] for key in keys) for row in shown)
    named = zip(map(name_of, shown[1:]), others)
    points = {name: own for name, own in named if None not in own}
    if None in before:
        return []
    figure = figures.plot_methods(points, before, keys)
    caption = (
        f'{keys[1]} against {keys[0]}: on the line, no other method is better in both; what is '
        'above and right of the dotted lines is better than stage 1 in both.'
    )
    return [(caption, figures.inline_svg(figure, caption))]


def _table(metric: str, shown: Sequence[Row]) -> Table:
    keys = list(shown[0]['values'])
    header = ['method', 'value', *keys, f'gain in {metric}', 'seconds', 'folds']
    rows = [
        [
            name_of(row) if row['method'] else 'stage 1',
            value_text(row['value']),
            *(row['values'][key] for key in keys),
            _interval(row['gains'][metric]) if row['gains'] else '',
            row['seconds'],
            'yes' if row['folds'] else 'no',
        ]
        for row in shown
    ]
    return Table(header, rows)


def _interval(gain: Sequence[Optional[float]]) -> str:
    return '' if None in gain else '{:+.2f} to {:+.2f}'.format(*gain)
