"""Validation images of a detector: boxes predicted again from scores on, and judged by AP."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PRIOR, SIZE, C, Noise, filled, small, stage1
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmdisalign.calibration import AffineScores, LinearScores
from mmdisalign.detection import calibrated_model
from mmdisalign.detection.metrics import LongTailLVISMetric
from mmdisalign.detection.replay import KEYS, Replayer
from mmdisalign.detection.validation import JudgedBoxes
from mmdisalign.engine.confidence import calibrations_of

MODELS_OF: dict[str, Callable[[], ConfigDict]] = {
    'Faster R-CNN': lambda: small('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    'Mask R-CNN': lambda: small('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    'RetinaNet': lambda: stage1('RetinaNet'),
    'DETR': lambda: stage1('DETR'),
    'DINO': lambda: stage1('DINO'),
}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


def built(cfg: ConfigDict) -> nn.Module:
    torch.manual_seed(0)
    cfg = copy.deepcopy(cfg)
    if 'num_queries' in cfg:
        cfg.test_cfg.max_per_img = cfg.num_queries
    model = MODELS.build(ConfigDict(cfg, type=calibrated_model(cfg), class_prior=PRIOR))
    return filled(model).eval()


def image() -> dict[str, Any]:
    """A batch of an image that is half as large as it was."""
    data = pseudo_collate([Noise('mmdet', several=False)[0]])
    meta = dict(scale_factor=(0.5, 0.5), ori_shape=(2 * SIZE, 2 * SIZE))
    data['data_samples'][0].set_metainfo(meta)
    return data


def predicted(model: nn.Module) -> InstanceData:
    with torch.no_grad():
        (sample,) = model.test_step(image())
    return sample.pred_instances


@pytest.fixture(params=list(MODELS_OF))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return built(MODELS_OF[request.param]())


def test_a_replay_is_the_prediction_and_follows_a_calibration(model: nn.Module) -> None:
    replayer, stock = Replayer(model), predicted(model)
    made = replayer.record(image())
    made = replayer.record(image())  # the first is checked, and so passed to the end
    again = replayer.predict(made)
    assert len(again) and all(torch.equal(again[key], stock[key]) for key in KEYS)

    (calibration,) = calibrations_of(model).values()
    torch.manual_seed(1)
    scores = copy.deepcopy(calibration)
    with torch.no_grad():
        for parameter in scores.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    again = replayer.predict(made, scores)
    calibration.load_state_dict(scores.state_dict())
    calibrated = predicted(model)
    assert not torch.equal(calibrated.scores, stock.scores)
    assert torch.equal(again.labels, calibrated.labels)
    # Features are kept in half precision: 1e-3 of them, and so of what σ changes.
    torch.testing.assert_close(again.scores, calibrated.scores, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(again.bboxes, calibrated.bboxes, rtol=1e-6, atol=1e-4)


def test_a_classifier_in_the_place_of_the_old_one_scores_the_background_too() -> None:
    model = built(MODELS_OF['Faster R-CNN']())
    layer = model.roi_head.bbox_head.fc_cls
    replayer = Replayer(model)
    made = replayer.record(image())
    same = replayer.predict(made, LinearScores.of(layer.weight, layer.bias))
    stock = replayer.predict(made)
    # As above; here every score is made of such features. Near ties may change places.
    torch.testing.assert_close(same.scores, stock.scores, rtol=1e-3, atol=1e-5)
    # Without a chance for its rarest class, nothing is taken for it.
    shift = torch.zeros(C)
    shift[C - 1] = -100
    fewer = replayer.predict(made, AffineScores.shifted(shift))
    assert C - 1 in stock.labels and C - 1 not in fewer.labels


def test_an_image_without_proposals_has_no_boxes() -> None:
    model = built(MODELS_OF['Faster R-CNN']())
    model.test_cfg.rpn.min_bbox_size = model.rpn_head.test_cfg.min_bbox_size = 10 * SIZE
    replayer = Replayer(model)
    made = replayer.record(image())
    assert made.method is None
    assert len(replayer.predict(made)) == len(predicted(model)) == 0


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'scored by several classifiers, each'),
        ('solo/solo_r50_fpn_1x_coco.py', 'its scores are changed before boxes are predicted'),
        ('grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py', 'its boxes are changed after they are'),
    ],
)
def test_what_is_not_predicted_by_scores_alone_is_refused(name: str, message: str) -> None:
    model = built(small(name))
    with pytest.raises(ValueError, match=message):
        Replayer(model).record(image())


CLASSES = ('a', 'b', 'c', 'd')


def scene(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Annotations of LVIS's format in so many images, some a crowd, some images not exhaustive."""
    images, annotations = [], []
    for index in range(1, number + 1):
        negative, unsure = ([int(own)] for own in rng.integers(1, 5, 2))
        images.append(
            dict(
                id=index,
                height=100,
                width=100,
                neg_category_ids=negative,
                not_exhaustive_category_ids=unsure,
            )
        )
        for _ in range(rng.integers(0, 8)):
            x, y, width, height = (int(own) for own in rng.integers(5, 50, 4))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=int(rng.integers(1, 4)),  # none is of the last class
                    bbox=[x, y, width, height],
                    area=width * height,
                    iscrowd=int(rng.random() < 0.2),
                )
            )
    categories = [
        dict(id=place, name=name, frequency=frequency)
        for place, (name, frequency) in enumerate(zip(CLASSES, 'frcr'), start=1)
    ]
    return dict(images=images, annotations=annotations, categories=categories)


def detections(rng: np.random.Generator, content: dict[str, Any]) -> list[DetDataSample]:
    """About each annotation some boxes, and some elsewhere.

    Scores are often those of another image. Of an image that counts twice, those that were the same
    would come twice in a row here, and in turns in its copies.
    """
    samples = []
    for own in content['images']:
        true = [each for each in content['annotations'] if each['image_id'] == own['id']]
        boxes = [each['bbox'] for each in true for _ in range(3)]
        labels = [each['category_id'] - 1 for each in true for _ in range(3)]
        boxes = np.array([*boxes, *rng.integers(5, 50, (4, 4))], float)
        boxes += rng.integers(-4, 5, boxes.shape)
        labels = np.array([*labels, *rng.integers(0, 4, 4)])
        order = rng.permutation(len(boxes))
        boxes[:, 2:] += boxes[:, :2]
        predictions = InstanceData(
            bboxes=torch.from_numpy(boxes[order]).float(),
            labels=torch.from_numpy(labels[order]),
            scores=torch.from_numpy(rng.permutation(len(boxes)) / len(boxes)).float(),
        )
        samples.append(dict(img_id=own['id'], pred_instances=predictions))
    return samples


def judged(metric: LongTailLVISMetric, samples: list[dict], images: list[int]) -> JudgedBoxes:
    metric.results.clear()
    metric.process(None, [samples[image] for image in images])
    return JudgedBoxes.of(metric)


def test_ap_is_that_of_the_metric_in_every_draw_of_the_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = scene(rng, 12)
    samples = detections(rng, content)
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    metric = LongTailLVISMetric(str(path))
    metric.dataset_meta = dict(classes=CLASSES)
    images = rng.permutation(range(2, 12)).tolist()  # two others do not count
    times = np.stack([np.ones(10, int), *(rng.multinomial(10, np.ones(10) / 10, 3))])
    found = judged(metric, samples, images).values(times)
    assert list(found) == ['AP', 'APf', 'APc', 'APr']
    for number, draw in enumerate(times):
        expected = of_copies(tmp_path / f'{number}.json', content, samples, images, draw)
        for name, values in found.items():
            # The same precisions at the same recalls: but for the order of a sum.
            assert values[number] == pytest.approx(100 * expected[f'lvis/bbox_{name}'], abs=1e-9)


def of_copies(
    path: Path, content: dict, samples: list[dict], images: list[int], times: np.ndarray
) -> dict[str, float]:
    """What the metric says where each image is there so many times, one after the other."""
    drawn = sorted(np.repeat(images, times).tolist())
    copies, annotations, again = [], [], []
    for number, place in enumerate(drawn, start=1):
        copies.append(dict(content['images'][place], id=number))
        again.append(dict(samples[place], img_id=number))
        for own in content['annotations']:
            if own['image_id'] == content['images'][place]['id']:
                annotations.append(dict(own, id=len(annotations) + 1, image_id=number))
    content = dict(images=copies, annotations=annotations, categories=content['categories'])
    path.write_text(json.dumps(content))
    metric = LongTailLVISMetric(str(path))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process(None, again)
    return metric.evaluate(len(again))
