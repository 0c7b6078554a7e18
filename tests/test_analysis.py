"""Tables and figures from result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdisalign.analysis import Evaluation, class_table, markdown_table, summary_table
from mmdisalign.analysis.figures import plot_by_frequency
from mmdisalign.analysis.tables import SEGMENTATION


@pytest.fixture
def result(tmp_path: Path) -> Evaluation:
    content = dict(
        summary=dict.fromkeys(SEGMENTATION, 50.0),
        classes=['rare', 'common', 'some'],
        groups=dict(head=[1], body=[2], tail=[0]),
        frequencies=[0.1, 0.7, 0.2],
        per_class=dict(IoU=[None, 80.0, 40.0], Acc=[10.0, 90.0, 50.0]),
    )
    (tmp_path / 'result.json').write_text(json.dumps(content))
    return Evaluation.load(tmp_path / 'result.json')


def test_a_saved_result_loads_as_it_was(result: Evaluation, tmp_path: Path) -> None:
    result.save(tmp_path / 'new' / 'again.json')
    assert Evaluation.load(tmp_path / 'new' / 'again.json') == result


def test_nan_is_saved_as_null(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    Evaluation({'AP': float('nan')}, ['a'], {}, None, {'AP': [float('nan')]}).save(path)
    assert 'NaN' not in path.read_text()
    loaded = Evaluation.load(path)
    assert loaded.summary == {'AP': None}
    assert loaded.per_class == {'AP': [None]}


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / 'other.json').write_text('{"mIoU": 3}')
    with pytest.raises(ValueError, match=r'other\.json is not a result file'):
        Evaluation.load(tmp_path / 'other.json')


def test_markdown_table_aligns_numbers_to_the_right() -> None:
    assert markdown_table(['name', 'x'], [['a', '1.5'], ['long name', '10.5']]).splitlines() == [
        '| name      |    x |',
        '| --------- | ---: |',
        '| a         |  1.5 |',
        '| long name | 10.5 |',
    ]


def test_class_table_goes_from_frequent_to_rare(result: Evaluation) -> None:
    rows = class_table(result, result, ['IoU', 'Acc']).splitlines()[2:]
    assert [row.split('|')[1].strip() for row in rows] == ['common', 'some', 'rare']
    cells = [cell.strip() for cell in rows[2].split('|')[1:-1]]
    assert cells == ['rare', 'tail', '10.00', '-', '-', '10.0', '10.0']


def test_summary_table_has_minutes_where_they_are_known(result: Evaluation) -> None:
    summaries = {'a': result.summary, 'b': result.summary}
    table = summary_table(summaries, ['mIoU'], {'b': 1.25})
    *_, first, second = table.splitlines()
    assert first.split('|')[-2].strip() == ''
    assert second.split('|')[-2].strip() == '1.2'


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_figure_is_written(result: Evaluation, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / 'new' / f'figure.{suffix}'
    plot_by_frequency(result, result, path, value='IoU', mean='mIoU')
    content = path.read_bytes()
    assert content.startswith(b'\x89PNG' if suffix == 'png' else b'<?xml')
    if suffix == 'svg':
        assert all(name in content.decode() for name in ('rare', 'common', 'tail', 'mIoU 50.0'))
