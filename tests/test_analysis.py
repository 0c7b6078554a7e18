"""Tables and figures from result files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mmdisalign.analysis import (
    Evaluation,
    class_table,
    count_confusion,
    figures,
    markdown_table,
    named_confusion,
    summary_table,
)
from mmdisalign.analysis.tables import SEGMENTATION
from mmdisalign.analysis.verdict import verdict
from mmdisalign.calibration import ClassPrior


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


def test_a_result_file_without_confusion_loads(result: Evaluation) -> None:
    assert result.confusion is None


def test_classes_are_in_lvis_groups_before_those_of_a_prior() -> None:
    groups = dict(r=[0], c=[], f=[1, 2], head=[1], body=[2], tail=[0])
    result = Evaluation({}, ['a', 'b', 'c'], groups, None, {})
    assert result.partition == {'f': [1, 2], 'r': [0]}
    assert [result.group_of(index) for index in range(3)] == ['rare', 'frequent', 'frequent']
    # Frequencies are not known: frequent classes come first all the same.
    assert result.order == [1, 2, 0]


def test_a_prior_adds_frequencies_and_leaves_known_groups(result: Evaluation) -> None:
    with_prior = replace(result, frequencies=None).with_prior(ClassPrior.build([1, 7, 2]))
    assert with_prior == result
    without_groups = replace(result, groups={}).with_prior(ClassPrior.build([5, 5, 990]))
    assert without_groups.groups['head'] == [2]
    with pytest.raises(ValueError, match='2 classes, but the data set has 3'):
        result.with_prior(ClassPrior.build([1, 2]))


def test_confusion_by_hand() -> None:
    groups = dict(head=[1], body=[2], tail=[0])
    truth = np.array([0, 0, 0, 1, 2, 2, 255])
    predicted = np.array([0, 1, -1, 1, 1, 0, 1])
    counts = count_confusion(truth, predicted, groups, 3)
    #                          head body tail missed
    assert counts.tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert named_confusion(counts, groups)['tail'] == dict(head=1, body=0, tail=1, missed=1)
    # Where nothing was missed, there is no such column.
    nothing_missed = count_confusion(truth[:2], predicted[:2], groups, 3)
    assert named_confusion(nothing_missed, groups)['tail'] == dict(head=1, body=0, tail=1)


def test_verdict_by_hand(result: Evaluation) -> None:
    after = replace(
        result,
        summary=dict(result.summary, mIoU=53.0),
        per_class=dict(IoU=[None, 78.0, 49.0], Acc=[20.0, 90.0, 50.0]),
    )
    # Of IoU: head is class 1, body class 2; the tail has no value.
    assert verdict(result, after, ('stage 1', 'DisAlign')) == (
        'From stage 1 to DisAlign, mean IoU rose by 3.0 to 53.0 %: body rose by 9.0 to 49.0 %, '
        'head fell by 2.0 to 78.0 %. Of the 2 classes with a value in both, 1 rose and 1 fell; '
        'some gained most (+9.0), common lost most (-2.0).'
    )
    assert 'stayed at 50.0 %' in verdict(result, result, ('a', 'b'))


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_figure_is_written(result: Evaluation, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / 'new' / f'figure.{suffix}'
    figures.save(figures.plot_per_class({'stage 1': result, 'DisAlign': result}, 'Acc'), path)
    content = path.read_bytes()
    assert content.startswith(b'\x89PNG' if suffix == 'png' else b'<?xml')
    if suffix == 'svg':
        assert all(name in content.decode() for name in ('rare', 'common', 'tail', 'stage 1'))


def test_a_figure_in_a_page_has_the_colour_of_its_text(result: Evaluation) -> None:
    element = figures.inline_svg(figures.plot_gains({'a': result, 'b': result}, 'Acc'), 'a "b"')
    assert element.startswith('<svg role="img" aria-label="a &quot;b&quot;"')
    assert 'currentColor' in element and figures.INK not in element
    ElementTree.fromstring(element)


def test_frequencies_are_numbers_of_per_cent(tmp_path: Path) -> None:
    prior = ClassPrior.build({'road': 900, 'a $1$ coin': 90, 'unseen': 0, 'car': 10})
    figures.plot_frequencies(prior, tmp_path / 'prior.svg')
    text = (tmp_path / 'prior.svg').read_text()
    assert '$\\mathdefault' not in text and '>10<' in text
    assert 'a $1$ coin' in text and '1 never seen' in text
