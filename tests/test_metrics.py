"""mIoU and mAcc of head, body and tail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdisalign.analysis import group_means
from mmdisalign.calibration import ClassPrior
from mmdisalign.segmentation import LongTailIoUMetric

GROUPS = dict(head=[0], body=[1], tail=[2, 3])
PRIOR = dict(source=[80, 15, 5, 1], groups=GROUPS)
META = dict(classes=('a', 'b', 'c', 'd'))


def evaluate(pred: list[int], label: list[int], **kwargs) -> dict[str, float]:
    metric = LongTailIoUMetric(PRIOR, **kwargs)
    metric.dataset_meta = META
    sample = dict(
        pred_sem_seg=dict(data=torch.tensor([[pred]])),
        gt_sem_seg=dict(data=torch.tensor([[label]])),
    )
    metric.process({}, [sample])
    return metric.evaluate(size=1)


def test_worked_example() -> None:
    # a: 2 of 3 right, union 3 -> IoU 2/3; b: 1 of 1, union 2 -> 1/2; c: 1 of 2, union 2 -> 1/2;
    # d: 0 of 1, union 2 -> 0. The last pixel is ignored.
    pred, label = [0, 0, 1, 1, 2, 3, 0], [0, 0, 0, 1, 2, 2, 255]
    pred, label = [*pred, 2], [*label, 3]
    metrics = evaluate(pred, label)
    assert metrics['mHeadIoU'] == 66.67
    assert metrics['mBodyIoU'] == 50
    # c: right 1, predicted 2, labelled 2, union 3; d: right 0, predicted 1, labelled 1, union 2.
    assert metrics['mTailIoU'] == round(100 * (1 / 3 + 0) / 2, 2)
    assert metrics['mHeadAcc'] == 66.67
    assert metrics['mBodyAcc'] == 100
    assert metrics['mTailAcc'] == 25
    assert metrics['mIoU'] == round(100 * (2 / 3 + 1 / 2 + 1 / 3 + 0) / 4, 2)


def test_an_absent_class_is_left_out_of_the_means() -> None:
    metrics = evaluate([0, 1, 2, 2], [0, 1, 2, 0])
    # d is neither predicted nor labelled: the tail is c alone.
    assert metrics['mTailIoU'] == 50
    assert metrics['mTailAcc'] == 100


def test_a_group_that_does_not_occur_is_nan_and_null_in_json(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    assert math.isnan(evaluate([0, 1], [0, 1], result_file=str(path))['mTailIoU'])
    assert 'NaN' not in path.read_text()
    assert json.loads(path.read_text())['summary']['mTailIoU'] is None


def test_result_file_holds_the_values_per_class(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'result.json'
    metrics = evaluate([0, 1, 2, 2], [0, 1, 2, 0], result_file=str(path))
    result = json.loads(path.read_text())
    assert result['classes'] == list(META['classes'])
    assert result['per_class']['IoU'] == [50, 100, 50, None]
    assert result['per_class']['Acc'] == [50, 100, 100, None]
    assert result['groups'] == GROUPS
    assert result['summary']['mTailIoU'] == metrics['mTailIoU']


def test_result_file_says_which_group_was_taken_for_which(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    # a is head, b body, c and d are tail: c and d confused are still tail. 255 does not count.
    evaluate([0, 1, 0, 3, 2], [0, 0, 2, 2, 255], result_file=str(path))
    assert json.loads(path.read_text())['confusion'] == dict(
        head=dict(head=1, body=1, tail=0),
        body=dict(head=0, body=0, tail=0),
        tail=dict(head=1, body=0, tail=1),
    )


@pytest.mark.parametrize('run', ['fcn_s101', 'fcn_s101_augtest'])
def test_released_logs_give_the_released_group_means(shared: Path, run: str) -> None:
    path = shared / 'data/ade20k/released_fcn_s101_per_class.json'
    released = json.loads(path.read_text())[run]
    groups = ClassPrior.build('ade20k').groups
    for name in ('IoU', 'Acc'):
        for group, mean in group_means(released[name], groups).items():
            expected = released['summary'][f'm{group.capitalize()}{name}']
            # The log's values per class, and its means, are rounded to two decimals.
            assert abs(mean - expected) < 0.02


def test_prior_of_other_classes_is_refused_before_evaluation() -> None:
    with pytest.raises(ValueError, match='4 classes, but the data set has 2'):
        LongTailIoUMetric(PRIOR).dataset_meta = dict(classes=('a', 'b'))
    with pytest.raises(ValueError, match='in another order'):
        metric = LongTailIoUMetric(dict(source={'b': 1, 'a': 2}))
        metric.dataset_meta = dict(classes=('a', 'b'))


def test_without_miou_there_is_nothing_to_group() -> None:
    with pytest.raises(ValueError, match='mDice'):
        LongTailIoUMetric(PRIOR, iou_metrics=['mDice'])


def test_group_means_leave_nan_out() -> None:
    means = group_means([1, np.nan, 3, np.nan], dict(x=[0, 1], y=[2], z=[3]))
    assert means['x'] == 1
    assert means['y'] == 3
    assert math.isnan(means['z'])
