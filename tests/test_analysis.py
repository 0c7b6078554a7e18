"""Tables and figures from result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdisalign.analysis import SegmentationResult, class_table, markdown_table, summary_table
from mmdisalign.analysis.figures import plot_iou_by_frequency
from mmdisalign.analysis.tables import SUMMARY


@pytest.fixture
def result(tmp_path: Path) -> SegmentationResult:
    content = dict(
        summary=dict.fromkeys(SUMMARY, 50.0),
        classes=['rare', 'common', 'some'],
        groups=dict(head=[1], body=[2], tail=[0]),
        frequencies=[0.1, 0.7, 0.2],
        IoU=[None, 80.0, 40.0],
        Acc=[10.0, 90.0, 50.0],
    )
    (tmp_path / 'result.json').write_text(json.dumps(content))
    return SegmentationResult.load(tmp_path / 'result.json')


def test_markdown_table_aligns_numbers_to_the_right() -> None:
    assert markdown_table(['name', 'x'], [['a', '1.5'], ['long name', '10.5']]).splitlines() == [
        '| name      |    x |',
        '| --------- | ---: |',
        '| a         |  1.5 |',
        '| long name | 10.5 |',
    ]


def test_class_table_goes_from_frequent_to_rare(result: SegmentationResult) -> None:
    rows = class_table(result, result).splitlines()[2:]
    assert [row.split('|')[1].strip() for row in rows] == ['common', 'some', 'rare']
    cells = [cell.strip() for cell in rows[2].split('|')[1:-1]]
    assert cells == ['rare', 'tail', '10.00', '-', '-', '10.0', '10.0']


def test_summary_table_has_minutes_where_they_are_known(result: SegmentationResult) -> None:
    table = summary_table({'a': result.summary, 'b': result.summary}, {'b': 1.25})
    *_, first, second = table.splitlines()
    assert first.split('|')[-2].strip() == ''
    assert second.split('|')[-2].strip() == '1.2'


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_figure_is_written(result: SegmentationResult, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / 'new' / f'figure.{suffix}'
    plot_iou_by_frequency(result, result, path)
    content = path.read_bytes()
    assert content.startswith(b'\x89PNG' if suffix == 'png' else b'<?xml')
    if suffix == 'svg':
        assert all(name in content.decode() for name in ('rare', 'common', 'tail', 'mIoU 50.0'))
