"""Markdown tables that compare evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from .results import SegmentationResult

SUMMARY = ('mIoU', 'mAcc', 'mHeadIoU', 'mBodyIoU', 'mTailIoU', 'mHeadAcc', 'mBodyAcc', 'mTailAcc')


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
    minutes: Optional[Mapping[str, float]] = None,
) -> str:
    """A row per evaluation, with the means over all, head, body and tail classes, in per cent.

    Args:
        summaries: ``SegmentationResult.summary`` by the name of its row.
        minutes: How long it took to get there, by the name of the row.
    """
    header = ['', *SUMMARY, *(['minutes'] if minutes else [])]
    rows = []
    for name, summary in summaries.items():
        row = [name, *(_percent(summary[key], 2) for key in SUMMARY)]
        if minutes:
            row.append(f'{minutes[name]:.1f}' if name in minutes else '')
        rows.append(row)
    return markdown_table(header, rows)


def class_table(before: SegmentationResult, after: SegmentationResult) -> str:
    """A row per class, from the most to the least frequent, with IoU and Acc before and after."""
    header = ['class', 'group', 'share %', 'IoU before', 'IoU after', 'Acc before', 'Acc after']
    rows = [
        [
            before.classes[i],
            before.group_of(i),
            f'{100 * before.frequencies[i]:.2f}',
            *(_percent(values[i]) for values in (before.iou, after.iou, before.acc, after.acc)),
        ]
        for i in before.order
    ]
    return markdown_table(header, rows)


def _percent(value: Optional[float], digits: int = 1) -> str:
    return '-' if value is None else f'{value:.{digits}f}'
