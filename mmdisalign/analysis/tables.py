"""Markdown tables that compare evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional, Union

from .results import Evaluation

SEGMENTATION = (
    'mIoU',
    'mAcc',
    'mHeadIoU',
    'mBodyIoU',
    'mTailIoU',
    'mHeadAcc',
    'mBodyAcc',
    'mTailAcc',
)
CLASSIFICATION = ('top1', 'many', 'medium', 'few')
DETECTION = tuple(
    f'{kind}_{name}'
    for kind in ('bbox', 'segm')
    for name in ('AP', 'APr', 'APc', 'APf', 'fixed_AP')
)

PANOPTIC = ('PQ', 'PQhead', 'PQbody', 'PQtail', 'PQ_th', 'PQ_st', 'SQ', 'RQ')


def value_text(value: Union[float, str, None]) -> str:
    """The one value of a method, in a table: empty if it has none."""
    return '' if value is None else value if isinstance(value, str) else f'{value:g}'


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, numbers to the right."""
    columns = list(zip(*rows))[1:]
    to_left = [True, *(not any(c.isdigit() for c in ''.join(column)) for column in columns)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(cells, widths, to_left)
        ]
        return f'| {" | ".join(aligned)} |'

    rule = [f'{"-" * (width - 1)}{"-" if left else ":"}' for width, left in zip(widths, to_left)]
    return '\n'.join([line(header), line(rule), *(line(row) for row in rows)])


def summary_table(
    summaries: Mapping[str, Mapping[str, Optional[float]]],
    columns: Sequence[str],
    minutes: Optional[Mapping[str, float]] = None,
) -> str:
    """A row per evaluation, with some of its means, in per cent.

    Args:
        summaries: ``Evaluation.summary`` by the name of its row.
        columns: Names of the means.
        minutes: How long it took to get there, by the name of the row.
    """
    header = ['', *(name.replace('_', ' ') for name in columns), *(['minutes'] if minutes else [])]
    rows = []
    for name, summary in summaries.items():
        row = [name, *(_percent(summary[key], 2) for key in columns)]
        if minutes:
            row.append(f'{minutes[name]:.1f}' if name in minutes else '')
        rows.append(row)
    return markdown_table(header, rows)


def class_table(before: Evaluation, after: Evaluation, names: Sequence[str]) -> str:
    """A row per class, from the most to the least frequent, with values before and after.

    Args:
        before: Evaluation of stage 1.
        after: Evaluation of stage 2.
        names: Which values per class.
    """
    header = ['class', 'group', 'share %']
    header += [f'{name.replace("_", " ")} {when}' for name in names for when in ('before', 'after')]
    rows = []
    for i in before.order:
        values = [_percent(own.per_class[name][i]) for name in names for own in (before, after)]
        share = '-' if before.frequencies is None else f'{100 * before.frequencies[i]:.2f}'
        rows.append([before.classes[i], before.group_of(i), share, *values])
    return markdown_table(header, rows)


def _percent(value: Optional[float], digits: int = 1) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
