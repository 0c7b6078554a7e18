"""Accuracy and average precision, overall and of many-, medium- and few-shot classes, macro-F1."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmpretrain.evaluation import Accuracy, AveragePrecision, SingleLabelMetric
from mmpretrain.registry import METRICS
from mmpretrain.structures import DataSample

from mmdisalign.calibration import ClassPrior
from mmdisalign.classification import prepare
from mmdisalign.classification.metrics import LongTailAccuracy, LongTailAveragePrecision

COUNTS = [500, 101, 100, 20, 19]  # two classes with many images, two with a medium number, one few


def samples(predicted: list[int], labels: list[int], num_classes: int = 5) -> list[DataSample]:
    """Images whose best class is given; the second best is the class after it, and so on."""
    scores = [
        torch.tensor([1.0 / (1 + (c - best) % num_classes) for c in range(num_classes)])
        for best in predicted
    ]
    return [
        DataSample().set_pred_score(score).set_gt_label(label)
        for score, label in zip(scores, labels)
    ]


def evaluate(
    images: list[DataSample], prior, classes: Optional[list[str]] = None, **kwargs
) -> dict[str, float]:
    """Metrics of images that come in two batches, without their prefix."""
    evaluator = Evaluator(LongTailAccuracy(prior, **kwargs))
    evaluator.dataset_meta = {} if classes is None else {'classes': classes}
    half = len(images) // 2
    evaluator.process(images[:half])
    evaluator.process(images[half:])
    metrics = evaluator.evaluate(len(images))
    assert all(name.startswith('accuracy/') for name in metrics)
    return {name.removeprefix('accuracy/'): value for name, value in metrics.items()}


def test_worked_example() -> None:
    # Right: class 0, 3 of 4; 1, 1 of 2; 2, 1 of 1; 3, 0 of 2; 4, 1 of 1.
    labels = [0, 0, 0, 0, 1, 1, 2, 3, 3, 4]
    predicted = [0, 0, 0, 1, 1, 0, 2, 0, 2, 4]
    metrics = evaluate(samples(predicted, labels), COUNTS)
    assert list(metrics) == ['top1', 'top5', 'mean', 'many', 'medium', 'few', 'macro_f1']
    assert metrics['top1'] == pytest.approx(60)
    assert metrics['top5'] == 100  # of 5 classes
    assert metrics['many'] == pytest.approx((75 + 50) / 2)
    assert metrics['medium'] == pytest.approx((100 + 0) / 2)
    assert metrics['few'] == 100
    assert metrics['mean'] == pytest.approx((75 + 50 + 100 + 0 + 100) / 5)
    # 2 TP / (labelled + predicted): 6 / 9, 2 / 4, 2 / 3, 0 / 2, 2 / 2.
    assert metrics['macro_f1'] == pytest.approx(100 * (6 / 9 + 2 / 4 + 2 / 3 + 0 + 1) / 5)


def test_top5_looks_at_the_five_best_of_six_classes() -> None:
    # The classes rank from the best upwards, so class 5 is the last where 0 is the best.
    metrics = evaluate(samples([0, 0, 5, 1], [5, 4, 5, 0], 6), [*COUNTS, 1])
    assert metrics['top1'] == 25
    assert metrics['top5'] == 50


def test_fewer_than_five_classes_have_no_top5() -> None:
    assert 'top5' not in evaluate(samples([0, 1], [0, 1], 4), COUNTS[:4])


def test_a_class_without_images_is_left_out() -> None:
    # Class 1 is predicted, but has no image; class 3 is neither predicted nor labelled.
    metrics = evaluate(samples([0, 1, 2, 4], [0, 0, 2, 4]), COUNTS)
    assert metrics['many'] == 50
    assert metrics['medium'] == 100
    assert metrics['mean'] == pytest.approx((50 + 100 + 100) / 3)
    assert metrics['macro_f1'] == pytest.approx(100 * (2 / 3 + 0 + 1 + 1) / 4)


def test_result_file_says_which_group_was_taken_for_which(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    # Classes 0 and 1 are many, 2 and 3 medium, 4 few.
    evaluate(samples([1, 3, 2, 0], [0, 3, 4, 4]), COUNTS, result_file=str(path))
    assert json.loads(path.read_text())['confusion'] == dict(
        many=dict(many=1, medium=0, few=0),
        medium=dict(many=0, medium=1, few=0),
        few=dict(many=1, medium=1, few=0),
    )


def test_a_group_without_classes_is_nan_and_null_in_json(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    metrics = evaluate(samples([0, 1], [0, 1], 2), [500, 400], result_file=str(path))
    assert math.isnan(metrics['medium']) and math.isnan(metrics['few'])
    assert json.loads(path.read_text())['summary']['few'] is None


def test_agrees_with_the_metrics_of_mmpretrain_and_with_plain_numpy() -> None:
    random = np.random.RandomState(0)
    labels = np.concatenate([np.arange(12), random.randint(12, size=300)])
    scores = torch.from_numpy(random.rand(len(labels), 12)).float()
    scores[torch.arange(len(labels)), torch.from_numpy(labels)] += 0.5
    scores = scores.softmax(dim=1)
    images = [
        DataSample().set_pred_score(score).set_gt_label(int(label))
        for score, label in zip(scores, labels)
    ]
    counts = random.randint(1, 200, size=12)
    own = evaluate(images, counts)

    theirs = Evaluator([Accuracy(topk=(1, 5)), SingleLabelMetric()])
    theirs.process(images)
    theirs = theirs.evaluate(len(images))
    assert own['top1'] == pytest.approx(theirs['accuracy/top1'], abs=1e-3)
    assert own['top5'] == pytest.approx(theirs['accuracy/top5'], abs=1e-3)
    assert own['mean'] == pytest.approx(theirs['single-label/recall'], abs=1e-3)
    assert own['macro_f1'] == pytest.approx(theirs['single-label/f1-score'], abs=1e-3)

    right = scores.argmax(dim=1).numpy() == labels
    accuracy = np.array([100 * right[labels == c].mean() for c in range(12)])
    assert own['many'] == pytest.approx(accuracy[counts > 100].mean())
    assert own['medium'] == pytest.approx(accuracy[(counts >= 20) & (counts <= 100)].mean())
    assert own['few'] == pytest.approx(accuracy[counts < 20].mean())


STATED = dict(head=[4], body=[0, 1], tail=[2, 3])
BY_COUNT = {'many': [0, 1], 'medium': [2, 3], 'few': [4]}


@pytest.mark.parametrize('kind', ['list', 'dict', 'prior', 'file', 'source'])
def test_groups_go_by_training_images_where_the_prior_states_none(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / 'prior.json'
    path.write_text(json.dumps(COUNTS))
    prior = {
        'list': COUNTS,
        'dict': dict(zip('abcde', COUNTS)),
        'prior': ClassPrior(COUNTS),
        'file': str(path),
        'source': dict(source=path),
    }[kind]
    assert LongTailAccuracy(prior).groups == BY_COUNT


@pytest.mark.parametrize('kind', ['dict', 'rule', 'prior', 'file', 'source', 'counts'])
def test_groups_that_the_prior_states_are_many_medium_and_few(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'prior.json'
    ClassPrior(COUNTS, groups=STATED).to_json(path)
    prior = {
        'dict': dict(source=COUNTS, groups=STATED),
        'rule': dict(source=COUNTS[::-1], groups=dict(by='count', head=400, tail=100)),
        'prior': ClassPrior(COUNTS, groups=STATED),
        'file': path,
        'source': dict(source=str(path)),
        'counts': dict(counts=COUNTS, groups=STATED),
    }[kind]
    expected = dict(many=[4], medium=[2, 3] if kind == 'rule' else [0, 1])
    expected['few'] = [0, 1] if kind == 'rule' else [2, 3]
    assert LongTailAccuracy(prior).groups == expected


def test_options_of_a_table_reach_its_reader(tmp_path: Path) -> None:
    path = tmp_path / 'table.csv'
    path.write_text('name,frequency,train_2018\na,f,5\nb,r,200\n')
    metric = LongTailAccuracy(dict(source=path, column='train_2018'))
    assert metric.groups == {'many': [0], 'medium': [], 'few': [1]}


def test_result_file_holds_the_values_per_class(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'result.json'
    labels, predicted = [0, 0, 0, 0, 1, 1, 2, 4], [0, 0, 0, 1, 1, 0, 2, 4]
    metrics = evaluate(samples(predicted, labels), COUNTS, list('abcde'), result_file=str(path))
    result = json.loads(path.read_text())
    assert result['classes'] == list('abcde')
    assert result['groups'] == BY_COUNT
    assert result['per_class']['accuracy'] == [75, 50, 100, None, 100]
    assert result['per_class']['f1'] == [75, 50, 100, None, 100]
    assert result['frequencies'] == pytest.approx([count / sum(COUNTS) for count in COUNTS])
    assert result['summary'] == {name: round(value, 4) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ('prior', 'names'), [(COUNTS, list('01234')), (dict(zip('vwxyz', COUNTS)), list('vwxyz'))]
)
def test_classes_without_names_in_the_data_set(tmp_path: Path, prior, names: list[str]) -> None:
    path = tmp_path / 'result.json'
    evaluate(samples([0, 1], [0, 1]), prior, result_file=str(path))
    assert json.loads(path.read_text())['classes'] == names


def test_an_image_is_one_small_result_and_padding_is_dropped() -> None:
    """BaseMetric drops the images that pad the last batch of a distributed evaluation, by count."""
    metric = LongTailAccuracy(COUNTS)
    metric.process({}, [sample.to_dict() for sample in samples([0, 1, 2], [0, 0, 2])])
    assert metric.results == [(0, 0, True), (0, 1, True), (2, 2, True)]
    assert metric.evaluate(size=2)['accuracy/top1'] == 50


def test_a_prior_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match='5 classes, but the data set has 2'):
        evaluate(samples([0, 1], [0, 1]), COUNTS, ['a', 'b'])
    with pytest.raises(ValueError, match='5 classes, but the model predicts scores of 4'):
        evaluate(samples([0, 1], [0, 1], 4), COUNTS)


@pytest.mark.parametrize('label', [[5], [-1], [0, 1]])
def test_an_image_without_one_valid_label_is_refused(label: list[int]) -> None:
    image = samples([0], [0])[0].set_gt_label(torch.tensor(label))
    with pytest.raises(ValueError, match=f'one label of 0 to 4, .*{label}'.replace('[', r'\[')):
        evaluate([*samples([0], [0]), image], COUNTS)


def test_is_built_from_a_config() -> None:
    metric = METRICS.build(dict(type='LongTailAccuracy', class_prior=COUNTS, prefix='val'))
    assert metric.prefix == 'val'


# Several labels an image


def several(labels: list[list[int]], num_classes: int = 5) -> list[DataSample]:
    rng = torch.Generator().manual_seed(0)
    return [
        DataSample()
        .set_pred_score(torch.rand(num_classes, generator=rng))
        .set_gt_label(torch.tensor(own, dtype=torch.long))
        for own in labels
    ]


LABELS = [[0, 1], [0], [2, 3, 4], [], [1, 4], [0, 2], [3], [0, 1, 2, 3, 4]]


def test_average_precision_is_mmpretrains_and_that_of_the_groups_its_means(tmp_path: Path) -> None:
    path = tmp_path / 'result.json'
    own = Evaluator(LongTailAveragePrecision(COUNTS, result_file=str(path)))
    theirs = Evaluator([AveragePrecision(), AveragePrecision(average=None, prefix='each')])
    for evaluator in (own, theirs):
        evaluator.dataset_meta = {'classes': list('abcde')}
        evaluator.process(several(LABELS))
    found, expected = (evaluator.evaluate(len(LABELS)) for evaluator in (own, theirs))
    each = expected['each/AP_classwise']
    assert found['multi-label/mAP'] == pytest.approx(expected['multi-label/mAP'], abs=1e-4)
    assert found['multi-label/many'] == pytest.approx(np.mean(each[:2]), abs=1e-4)
    assert found['multi-label/few'] == pytest.approx(each[4], abs=1e-4)
    result = json.loads(path.read_text())
    assert result['per_class']['AP'] == pytest.approx(each, abs=1e-3)
    assert result['groups'] == dict(many=[0, 1], medium=[2, 3], few=[4])


def test_a_class_that_no_image_has_is_left_out_of_average_precision() -> None:
    own = Evaluator(LongTailAveragePrecision(COUNTS))
    own.dataset_meta = {}
    own.process(several([[0], [1, 2], [3]]))
    found = own.evaluate(3)
    assert math.isnan(found['multi-label/few'])
    assert not math.isnan(found['multi-label/mAP'])


@pytest.mark.parametrize(
    ('data', 'metric', 'right'),
    [
        ('MultiLabelDataset', 'LongTailAccuracy', 'LongTailAveragePrecision'),
        ('VOC', 'mmdisalign.classification.LongTailAccuracy', 'LongTailAveragePrecision'),
        ('CIFAR10', 'LongTailAveragePrecision', 'LongTailAccuracy'),
    ],
)
def test_a_metric_of_other_labels_than_the_datas_is_named_before_anything_runs(
    data: str, metric: str, right: str
) -> None:
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            val_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(type=data))),
            val_evaluator=[dict(type='AveragePrecision'), dict(type=metric, class_prior=COUNTS)],
        )
    )
    with pytest.raises(ValueError, match=f'val_evaluator: .* take {right}$'):
        prepare(cfg, 'train', 'val')
    cfg.val_evaluator[1].type = right
    prepare(cfg, 'train', 'val')
