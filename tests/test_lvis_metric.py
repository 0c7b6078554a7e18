"""AP of boxes and masks by LVIS's rules, fixed and pooled AP, and what is held until then."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets import LVISV05Dataset
from mmdet.evaluation.metrics import lvis_metric as mmdet_lvis
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdisalign.detection import lvis_reference, metrics
from mmdisalign.detection.matching import with_true_classes
from mmdisalign.detection.metrics import LongTailLVISMetric

SIZE = (100, 100)
# Box, category. Class a is in image 1, b in image 2, c was looked for in image 2 in vain.
INSTANCES = {1: [((10, 10, 20, 20), 1), ((50, 50, 20, 20), 1)], 2: [((10, 10, 20, 20), 5)]}
NEGATIVES = {1: [], 2: [1, 9]}


def polygon(box: tuple) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def content() -> dict[str, list]:
    """An annotation file with the classes a (frequent), b (rare) and c (common, no instance)."""
    boxes = [(image, box, category) for image, own in INSTANCES.items() for box, category in own]
    return {
        'images': [
            {
                'id': image,
                'height': SIZE[0],
                'width': SIZE[1],
                'neg_category_ids': NEGATIVES[image],
                'not_exhaustive_category_ids': [],
            }
            for image in INSTANCES
        ],
        'annotations': [
            {
                'id': number,
                'image_id': image,
                'category_id': category,
                'bbox': list(box),
                'area': box[2] * box[3],
                'iscrowd': 0,
                'segmentation': [polygon(box)],
            }
            for number, (image, box, category) in enumerate(boxes, start=1)
        ],
        'categories': [
            {'id': 1, 'name': 'a', 'frequency': 'f'},
            {'id': 5, 'name': 'b', 'frequency': 'r'},
            {'id': 9, 'name': 'c', 'frequency': 'c'},
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict], str]:
    def write_json(content: dict) -> str:
        path = tmp_path / 'annotations.json'
        path.write_text(json.dumps(content))
        return str(path)

    return write_json


def sample(image: int, *detections: tuple[tuple, int, float]) -> dict[str, Any]:
    """What a detector predicts in an image: (box, label, score) of each detection."""
    boxes = torch.tensor([box for box, _, _ in detections], dtype=torch.float32).reshape(-1, 4)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    masks = torch.zeros(len(detections), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, corners.int().tolist()):
        mask[y1:y2, x1:x2] = True
    predictions = {
        'bboxes': corners,
        'labels': torch.tensor([label for _, label, _ in detections], dtype=torch.int64),
        'scores': torch.tensor([score for _, _, score in detections]),
        'masks': masks,
    }
    return {'img_id': image, 'pred_instances': predictions}


def evaluate(metric: LongTailLVISMetric, samples: list[dict]) -> dict[str, float]:
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


FIRST, SECOND, NOTHING = (10, 10, 20, 20), (50, 50, 20, 20), (75, 75, 20, 20)
FOUND = [
    # a: right, wrong, right. The image says nothing of c: its detection does not count.
    sample(1, (FIRST, 0, 0.9), (NOTHING, 0, 0.8), (SECOND, 0, 0.7), (NOTHING, 2, 0.95)),
    # b: wrong, right; a is known not to be in the image.
    sample(2, (NOTHING, 1, 0.6), (FIRST, 1, 0.5), (NOTHING, 0, 0.1)),
]
# a: precision 1 up to recall 0.5, that is at 51 of 101 recalls, and 2/3 at the rest.
AP_A = (51 + 50 * 2 / 3) / 101
AP_B = 1 / 2
# Ranked together: right, wrong, right (2/3), wrong, right (3/5), wrong. Recall 1/3 has 34 points.
AP_POOLED = (34 + 33 * 2 / 3 + 34 * 3 / 5) / 101


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_worked_example(content: dict, write: Callable, metric: str) -> None:
    values = evaluate(LongTailLVISMetric(write(content), metric, fixed_ap=True), FOUND)
    expected = {
        'AP': (AP_A + AP_B) / 2,
        'AP50': (AP_A + AP_B) / 2,
        'AP75': (AP_A + AP_B) / 2,
        'APs': (AP_A + AP_B) / 2,
        'APm': -1,
        'APl': -1,
        'APr': AP_B,
        'APc': -1,
        'APf': AP_A,
        'AR@300': 1,
        'fixed_AP': (AP_A + AP_B) / 2,
        'pooled_AP': AP_POOLED,
        'pooled_APf': AP_A,
        'pooled_APr': AP_B,
    }
    for key, value in expected.items():
        assert values[f'lvis/{metric}_{key}'] == pytest.approx(value, abs=1e-12), key


def test_where_a_class_is_not_exhaustively_annotated_nothing_is_wrong(
    content: dict, write: Callable
) -> None:
    content['images'][1]['not_exhaustive_category_ids'] = [5]
    values = evaluate(LongTailLVISMetric(write(content)), FOUND)
    assert values['lvis/bbox_APr'] == pytest.approx(1)


def test_without_neg_category_ids_every_detection_counts(content: dict, write: Callable) -> None:
    samples = copy.deepcopy(FOUND)
    samples[0]['pred_instances']['labels'][3] = 1  # a wrong b, the best of all
    assert evaluate(LongTailLVISMetric(write(content)), samples)['lvis/bbox_APr'] == AP_B
    for image in content['images']:
        del image['neg_category_ids']
    values = evaluate(LongTailLVISMetric(write(content)), samples)
    assert values['lvis/bbox_APr'] == pytest.approx(1 / 3)


def test_the_ceiling_is_the_ap_of_true_classes(content: dict, write: Callable) -> None:
    half = (12, 10, 20, 20)  # IoU 18/22 with the first
    found = [
        # Taken for b and for c, both on one instance of a; nothing is on the second.
        sample(1, (FIRST, 1, 0.9), (half, 2, 0.8), (NOTHING, 0, 0.95)),
        sample(2, (half, 0, 0.5)),
    ]
    values = evaluate(LongTailLVISMetric(write(content), ceiling=True), found)
    assert values['lvis/bbox_AP'] == 0
    # Of a, one of two instances: recalls up to 0.5 are 51 of 101. Of b, up to an IoU of 0.8.
    assert values['lvis/bbox_ceiling_APf'] == pytest.approx(51 / 101)
    assert values['lvis/bbox_ceiling_APr'] == pytest.approx(0.7)
    assert values['lvis/bbox_ceiling_AP'] == pytest.approx((51 / 101 + 0.7) / 2)


def test_the_ceiling_suppresses_what_a_head_would() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 11, 10], [0, 0, 19, 10], [50, 0, 60, 10]])
    scores = torch.tensor([0.2, 0.9, 0.4, 1.0])
    kept, classes = with_true_classes(truth, torch.tensor([4, 7]), boxes, scores)
    assert kept.tolist() == [1, 2] and classes.tolist() == [4, 7]
    # Of the same class, 11 of 19 pixels are too much to be another one.
    kept, classes = with_true_classes(truth, torch.tensor([4, 4]), boxes, scores)
    assert kept.tolist() == [1] and classes.tolist() == [4]
    nothing = with_true_classes(truth[:0], torch.zeros(0, dtype=torch.long), boxes, scores)
    assert [len(own) for own in nothing] == [0, 0]


def test_only_300_detections_of_an_image_count_but_fixed_ap_has_no_such_limit(
    content: dict, write: Callable
) -> None:
    better = [(NOTHING, 2, 0.9)] * 300
    samples = [sample(1, *better, (FIRST, 0, 0.5), (SECOND, 0, 0.5))]
    values = evaluate(LongTailLVISMetric(write(content), fixed_ap=True), samples)
    assert values['lvis/bbox_APf'] == 0
    assert values['lvis/bbox_fixed_APf'] == pytest.approx(1)


def test_scores_of_a_class_matter_to_other_classes_in_pooled_ap_alone(
    content: dict, write: Callable
) -> None:
    raised = copy.deepcopy(FOUND)
    raised[1]['pred_instances']['scores'][:2] += 1
    before, after = (
        evaluate(LongTailLVISMetric(write(content), fixed_ap=True), samples)
        for samples in (FOUND, raised)
    )
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {f'lvis/bbox_pooled_{key}' for key in ('AP', 'AP50', 'AP75', 'APs')}


def test_masks_may_have_scores_of_their_own(content: dict, write: Callable) -> None:
    samples = copy.deepcopy(FOUND)
    for one in samples:
        one['pred_instances']['mask_scores'] = one['pred_instances']['scores'].clone()
    samples[1]['pred_instances']['mask_scores'][0] = 0  # the wrong mask of b comes last
    values = evaluate(LongTailLVISMetric(write(content), ['bbox', 'segm']), samples)
    assert values['lvis/bbox_APr'] == AP_B
    assert values['lvis/segm_APr'] == pytest.approx(1)


def test_mmengine_evaluates_data_samples(content: dict, write: Callable) -> None:
    config = {'type': 'mmdet.LongTailLVISMetric', 'ann_file': write(content), 'metric': 'segm'}
    evaluator = Evaluator([config])
    evaluator.dataset_meta = {'classes': ('a', 'b', 'c')}
    for one in FOUND:
        data_sample = DetDataSample(metainfo={'img_id': one['img_id']})
        data_sample.pred_instances = InstanceData(**one['pred_instances'])
        evaluator.process(data_samples=[data_sample], data_batch={})
    values = evaluator.evaluate(len(FOUND))
    assert values['lvis/segm_AP'] == pytest.approx((AP_A + AP_B) / 2)


def test_what_counts_is_held_as_rle_and_nothing_else(content: dict, write: Callable) -> None:
    metric = LongTailLVISMetric(write(content), ['bbox', 'segm'])
    metric.process({}, FOUND)
    held = metric.results[0]
    assert [type(mask) for mask in held['segm']] == [bytes] * 3  # of 4 detections
    assert held['bbox'].shape == (3, 4)
    assert held['bbox'].dtype == np.float32
    assert len(pickle.dumps(held)) < SIZE[0] * SIZE[1] / 8  # less than one mask of bits


# What the data set says.


def test_groups_of_a_coco_style_file_come_from_the_prior(content: dict, write: Callable) -> None:
    for category in content['categories']:
        del category['frequency']
    prior = {'source': {'a': 9, 'b': 5, 'c': 1}, 'groups': {'by': 'rank', 'head': 1, 'body': 1}}
    values = evaluate(LongTailLVISMetric(write(content), class_prior=prior), FOUND)
    assert values['lvis/bbox_APhead'] == pytest.approx(AP_A)
    assert values['lvis/bbox_APbody'] == pytest.approx(AP_B)
    assert values['lvis/bbox_APtail'] == -1
    assert 'lvis/bbox_APr' not in values


def test_labels_count_in_the_order_of_the_file(content: dict, write: Callable) -> None:
    # As mmdet's CocoDataset has it, which knows b and a alone.
    metric = LongTailLVISMetric(write(content), class_prior={'a': 2, 'b': 1})
    metric.dataset_meta = {'classes': ('b', 'a')}
    metric.process({}, [sample(1, (FIRST, 0, 0.9), (SECOND, 0, 0.7))])
    assert metric.classes == ['a', 'b']
    assert metric.evaluate(1)['lvis/bbox_APf'] == pytest.approx(1)


def test_mmdet_spells_a_class_of_lvis_differently(lvis_file: str) -> None:
    metric = LongTailLVISMetric(lvis_file)
    metric.dataset_meta = LVISV05Dataset.METAINFO
    differing = set(metric.classes) - set(LVISV05Dataset.METAINFO['classes'])
    assert differing == {'speaker_(stero_equipment)'}
    assert len(metric.classes) == 1230


@pytest.mark.parametrize('form', ['uncompressed', 'compressed'])
def test_masks_of_the_file_may_be_rles(content: dict, write: Callable, form: str) -> None:
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        dense = np.zeros(SIZE, np.uint8, order='F')
        dense[y : y + height, x : x + width] = 1
        flat = np.concatenate([[0], dense.ravel(order='F'), [1 - dense[-1, -1]]])
        counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
        if form != 'uncompressed':
            counts = mask_utils.encode(dense)['counts'].decode()
        annotation['segmentation'] = {'size': list(SIZE), 'counts': counts}
    values = evaluate(LongTailLVISMetric(write(content), 'segm'), FOUND)
    assert values['lvis/segm_AP'] == pytest.approx((AP_A + AP_B) / 2)


def test_result_file_holds_the_ap_per_class(content: dict, write: Callable, tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'result.json'
    options = {'fixed_ap': True, 'class_prior': {'a': 9, 'b': 5, 'c': 1}}
    metric = LongTailLVISMetric(write(content), ['bbox', 'segm'], result_file=str(path), **options)
    values = evaluate(metric, FOUND)
    result = json.loads(path.read_text())
    assert result['classes'] == ['a', 'b', 'c']
    assert result['groups'].items() >= {'r': [1], 'c': [2], 'f': [0]}.items()
    assert sorted(result['groups']) == ['body', 'c', 'f', 'head', 'r', 'tail']
    assert result['frequencies'] == pytest.approx([0.6, 1 / 3, 1 / 15])
    for name in ('bbox_AP', 'segm_AP', 'bbox_fixed_AP', 'segm_fixed_AP'):
        assert result['per_class'][name] == [pytest.approx(100 * AP_A, abs=1e-4), 100 * AP_B, None]
    assert result['summary']['bbox_APm'] is None
    assert result['summary']['segm_AP'] == pytest.approx(100 * values['lvis/segm_AP'], abs=1e-4)


# Agreement with other implementations, on the sample that ships with lvis-api.


@pytest.fixture(scope='module')
def lvis_file(shared: Path) -> str:
    return str(shared / 'data/lvis/lvis_val_100.json')


@pytest.fixture(scope='module')
def detections(lvis_file: str) -> list[dict]:
    """More than 25,000: around the instances, and anywhere; many scores are equal."""
    content = json.loads(Path(lvis_file).read_text())
    index = {category['id']: label for label, category in enumerate(content['categories'])}
    rng = np.random.default_rng(0)
    samples = []
    for image in content['images']:
        size = (image['height'], image['width'])
        own = [a for a in content['annotations'] if a['image_id'] == image['id']]
        present = [index[a['category_id']] for a in own]
        pool = [index[key] for key in image['neg_category_ids']] + present
        boxes, labels, masks = [], [], []
        for _ in range(rng.integers(250, 330)):
            if own and rng.random() < 0.6:
                number = rng.integers(len(own))
                box, outlines = own[number]['bbox'], own[number]['segmentation']
                labels.append(present[number] if rng.random() < 0.8 else rng.choice(pool))
            else:
                box = (*rng.random(2) * size[::-1], *rng.random(2) * size[::-1] / 2)
                outlines = [polygon(box)]
                any_class = rng.random() < 0.5 or not pool
                labels.append(rng.integers(len(index)) if any_class else rng.choice(pool))
            corner, extent = np.array(box[:2]), np.array(box[2:])
            moved = corner + rng.normal(0, 0.1, 2) * extent
            scale = np.exp(rng.normal(0, 0.15, 2))
            boxes.append([*moved, *(moved + extent * scale)])
            outlines = [(np.reshape(o, (-1, 2)) - corner) * scale + moved for o in outlines]
            rles = mask_utils.frPyObjects([o.ravel().tolist() for o in outlines], *size)
            masks.append(mask_utils.merge(rles))
        predictions = {
            'bboxes': torch.tensor(np.array(boxes), dtype=torch.float32),
            'labels': torch.tensor(np.array(labels)),
            'scores': torch.from_numpy(rng.random(len(labels)).round(3).astype(np.float32)),
            'masks': masks,
        }
        samples.append({'img_id': image['id'], 'pred_instances': predictions})
    assert sum(len(one['pred_instances']['labels']) for one in samples) > 25_000
    return samples


@pytest.fixture
def few(lvis_file: str, detections: list[dict], write: Callable) -> tuple[str, list[dict]]:
    """The file and the detections of the first 25 images."""
    content = json.loads(Path(lvis_file).read_text())
    content['images'] = content['images'][:25]
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    return write(content), detections[:25]


@pytest.fixture(scope='module')
def ours(lvis_file: str, detections: list[dict]) -> dict[str, float]:
    return evaluate(LongTailLVISMetric(lvis_file, ['bbox', 'segm']), detections)


@pytest.fixture
def reference_class() -> type:
    pytest.importorskip('lvis', reason='the package lvis is the reference; pip install lvis')
    return lvis_reference.reference_evaluator()


def as_json(samples: list[dict], category_ids: list[int], metric: str) -> list[dict]:
    """Detections in LVIS's result format."""
    results = []
    for one in samples:
        own = one['pred_instances']
        for index, label in enumerate(own['labels'].tolist()):
            x1, y1, x2, y2 = own['bboxes'][index].tolist()
            shapes = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'segm': own['masks'][index]}
            results.append(
                {
                    'image_id': one['img_id'],
                    'category_id': category_ids[label],
                    'score': own['scores'][index].item(),
                    'segmentation' if metric == 'segm' else 'bbox': shapes[metric],
                }
            )
    return results


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_agrees_with_lvis_api(
    lvis_file: str, detections: list[dict], ours: dict, reference_class: type, metric: str
) -> None:
    from lvis import LVIS, LVISResults

    annotations = LVIS(lvis_file)
    results = as_json(detections, annotations.get_cat_ids(), metric)
    evaluator = reference_class(annotations, LVISResults(annotations, results), metric)
    evaluator.run()
    keys = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf', 'AR@300')
    for key in keys:
        assert ours[f'lvis/{metric}_{key}'] == pytest.approx(evaluator.results[key], abs=1e-6), key


def test_backends_agree_on_every_value(
    few: tuple[str, list[dict]], reference_class: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, 'MAX_PER_CLASS', 20)
    path, detections = few
    options = {'metric': ['bbox', 'segm'], 'fixed_ap': True}
    fast, reference = (
        evaluate(LongTailLVISMetric(path, backend=backend, **options), detections)
        for backend in ('faster_coco_eval', 'lvis')
    )
    assert fast == pytest.approx(reference, abs=1e-6)
    assert len(fast) == 2 * (10 + 9 + 9)


@pytest.mark.parametrize('limit', [10_000, 20])
def test_fixed_ap_agrees_with_mmdet(
    few: tuple[str, list[dict]],
    reference_class: type,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    import lvis

    # mmdet's own metric fails on numpy 1.24 and later, where lvis-api does.
    for name, value in (('lvis', lvis), ('LVIS', lvis.LVIS), ('LVISResults', lvis.LVISResults)):
        monkeypatch.setattr(mmdet_lvis, name, value)
    monkeypatch.setattr(mmdet_lvis, 'LVISEval', reference_class)
    monkeypatch.setattr(metrics, 'MAX_PER_CLASS', limit)
    path, detections = few
    expected = evaluate(mmdet_lvis.LVISFixedAPMetric(path, topk=limit), detections)
    values = evaluate(LongTailLVISMetric(path, fixed_ap=True), detections)
    assert len(expected) == 9
    for key, value in expected.items():
        name = key.replace('lvis_fixed_ap/', 'lvis/bbox_fixed_')
        assert values[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_agrees_with_pycocotools_on_a_coco_style_file(
    content: dict, write: Callable, metric: str
) -> None:
    for image in content['images']:
        del image['neg_category_ids'], image['not_exhaustive_category_ids']
    content['annotations'][0]['iscrowd'] = 1
    samples = copy.deepcopy(FOUND)
    samples[0]['pred_instances']['bboxes'][0] += 3
    samples[0]['pred_instances']['masks'][0] = samples[0]['pred_instances']['masks'][0].roll(3, 0)
    path = write(content)
    values = evaluate(LongTailLVISMetric(path, metric), samples)
    for one in samples:
        dense = one['pred_instances']['masks'].permute(1, 2, 0).numpy().astype(np.uint8, order='F')
        one['pred_instances']['masks'] = mask_utils.encode(dense)
    coco = COCO(path)
    evaluator = COCOeval(coco, coco.loadRes(as_json(samples, [1, 5, 9], metric)), metric)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    for key, value in zip(('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'), evaluator.stats):
        assert values[f'lvis/{metric}_{key}'] == pytest.approx(value, abs=1e-12), key


def test_the_order_of_the_images_does_not_matter(few: tuple[str, list[dict]]) -> None:
    path, detections = few
    metric = LongTailLVISMetric(path, fixed_ap=True)
    shuffled = detections[::2] + detections[1::2]
    assert evaluate(metric, detections) == evaluate(metric, shuffled)


def test_the_ground_truth_itself_is_perfect(lvis_file: str) -> None:
    metric = LongTailLVISMetric(lvis_file, ['bbox', 'segm'])
    true = metric.ground_truth
    for image, image_id in enumerate(true.image_ids):
        own = true.regions['bbox'].image == image
        boxes, masks = (true.regions[name][own].shape for name in ('bbox', 'segm'))
        corners = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        predictions = {
            'bboxes': corners.float(),
            'labels': torch.from_numpy(true.regions['bbox'].category[own]),
            'scores': torch.ones(len(boxes)),
            'masks': [{'size': true.sizes[image], 'counts': counts} for counts in masks],
        }
        metric.process({}, [{'img_id': image_id, 'pred_instances': predictions}])
    values = metric.evaluate(len(true.image_ids))
    assert len(values) == 20
    assert all(value == pytest.approx(1) for value in values.values())


# What can go wrong.


def test_without_a_detection_there_are_no_values(content: dict, write: Callable) -> None:
    assert evaluate(LongTailLVISMetric(write(content), 'segm'), [sample(1), sample(2)]) == {}


@pytest.mark.parametrize('backend', ['faster_coco_eval', 'lvis'])
def test_without_a_detection_that_counts_ap_is_0(
    content: dict, write: Callable, backend: str
) -> None:
    if backend == 'lvis':
        pytest.importorskip('lvis', reason='the package lvis is the reference; pip install lvis')
    metric = LongTailLVISMetric(write(content), ['bbox', 'segm'], backend=backend)
    values = evaluate(metric, [sample(1, (FIRST, 2, 0.5)), sample(2)])
    assert values['lvis/bbox_AP'] == values['lvis/segm_AP'] == values['lvis/segm_AR@300'] == 0


def test_bad_arguments_are_named(content: dict, write: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'ann_file .* no .*missing.json'):
        LongTailLVISMetric(str(tmp_path / 'missing.json'))
    with pytest.raises(ValueError, match=r"'bbox', 'segm'.*'proposal'"):
        LongTailLVISMetric(write(content), 'proposal')
    with pytest.raises(ValueError, match=r"'faster_coco_eval', 'lvis'.*'coco'"):
        LongTailLVISMetric(write(content), backend='coco')
    with pytest.raises(ValueError, match='no images, annotations and categories'):
        LongTailLVISMetric(write({'images': []}))
    stray = copy.deepcopy(content)
    stray['annotations'][0]['category_id'] = 7
    with pytest.raises(ValueError, match=r'annotation 1 .* has category_id 7, which the file'):
        LongTailLVISMetric(write(stray))
    del stray['annotations'][0]['area']
    with pytest.raises(ValueError, match=r"annotation of .* lacks \['area'\]"):
        LongTailLVISMetric(write(stray))
    del content['annotations'][1]['segmentation']
    with pytest.raises(ValueError, match=r"annotation 2 .* no segmentation: use metric='bbox'"):
        LongTailLVISMetric(write(content), 'segm')


def test_foreign_classes_and_images_are_refused(content: dict, write: Callable) -> None:
    with pytest.raises(ValueError, match='4 classes, but the data set has 3'):
        metric = LongTailLVISMetric(write(content), class_prior=[4, 3, 2, 1])
        metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    metric = LongTailLVISMetric(write(content), 'segm')
    with pytest.raises(ValueError, match=r'2 of 3 classes of the data set are not in .*: x, y;'):
        metric.dataset_meta = {'classes': ('a', 'x', 'y')}
    with pytest.raises(ValueError, match=r'image 7 is not in .*annotations.json'):
        metric.process({}, [sample(7, (FIRST, 0, 0.5))])
    with pytest.raises(ValueError, match=r'label 3, but .* has 3 of the classes'):
        metric.process({}, [sample(1, (FIRST, 3, 0.5))])
    without_masks = sample(1, (FIRST, 0, 0.5))
    del without_masks['pred_instances']['masks']
    with pytest.raises(KeyError, match=r"needs masks.*use metric='bbox'"):
        metric.process({}, [without_masks])
    scaled = sample(1, (FIRST, 0, 0.5))
    scaled['pred_instances']['masks'] = torch.ones(1, 50, 50)
    with pytest.raises(ValueError, match=r'\(50, 50\) for an image that is \(100, 100\)'):
        metric.process({}, [scaled])


def test_the_reference_backend_says_what_it_needs(
    content: dict, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setitem(sys.modules, 'lvis', None)
        with pytest.raises(ImportError, match='pip install lvis'):
            LongTailLVISMetric(write(content), backend='lvis')
    pytest.importorskip('lvis', reason='the package lvis is the reference; pip install lvis')
    for image in content['images']:
        del image['neg_category_ids']
    with pytest.raises(
        ValueError, match=r"needs frequency and neg_category_ids.*'faster_coco_eval'"
    ):
        evaluate(LongTailLVISMetric(write(content), backend='lvis'), FOUND)


def test_lvis_api_stays_as_installed(reference_class: type) -> None:
    from lvis import LVISEval
    from lvis import eval as module

    assert module.np is np
    assert reference_class.accumulate is not LVISEval.accumulate
    assert issubclass(reference_class, LVISEval)


def test_result_file_says_which_group_was_taken_for_which(
    content: dict, write: Callable, tmp_path: Path
) -> None:
    path = tmp_path / 'result.json'
    metric = LongTailLVISMetric(write(content), 'bbox', result_file=str(path))
    metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    found = [
        # On the first instance of a, the detection of b scores higher; the second has none with
        # an IoU of 0.5.
        sample(1, (FIRST, 0, 0.5), (FIRST, 1, 0.6), ((65, 65, 20, 20), 0, 0.9)),
        # b was not looked for in image 1, but the reader of a result sees its detection as well.
        sample(2, (FIRST, 1, 0.3)),
    ]
    evaluate(metric, found)
    assert json.loads(path.read_text())['confusion'] == {
        'f': {'f': 0, 'c': 0, 'r': 1, 'missed': 1},
        'c': {'f': 0, 'c': 0, 'r': 0, 'missed': 0},
        'r': {'f': 0, 'c': 0, 'r': 1, 'missed': 0},
    }


def test_masks_without_boxes_are_evaluated_alone_and_matched_by_the_boxes_around_them(
    content: dict, write: Callable, tmp_path: Path, capsys
) -> None:
    values = {}
    for name in ('as found', 'as SOLO has them', 'as saved'):
        found = copy.deepcopy(FOUND)
        for one in found if name != 'as found' else ():
            own = one['pred_instances']
            own['bboxes'] = torch.zeros_like(own['bboxes'])
            if name == 'as saved':
                dense = np.asfortranarray(own['masks'].permute(1, 2, 0).numpy(), dtype=np.uint8)
                own['masks'] = mask_utils.encode(dense)
        path = tmp_path / 'result.json'
        metric = LongTailLVISMetric(write(content), ['bbox', 'segm'], result_file=str(path))
        metric.dataset_meta = {'classes': ('a', 'b', 'c')}
        keys = {key.split('_')[0] for key in evaluate(metric, found)}
        assert keys == ({'lvis/bbox', 'lvis/segm'} if name == 'as found' else {'lvis/segm'})
        result = json.loads(path.read_text())
        values[name] = (result['confusion'], result['per_class']['segm_AP'])
    assert 'the model predicts masks alone' in capsys.readouterr().out
    assert values['as found'] == values['as SOLO has them'] == values['as saved']
    assert any(values['as found'][0]['f'].values())
