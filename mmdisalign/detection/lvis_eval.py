"""Average precision on LVIS- and COCO-style annotation files, class by class.

LVIS is annotated federatedly: an image counts for a class only if it was searched for that class.
So each class has images of its own, and evaluating class by class needs neither the detections of
other classes nor a table of images × classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as mask_utils

NUM_IOUS = 10  # 0.50, 0.55, ..., 0.95
NUM_AREAS = 4  # all, small, medium, large
FREQUENCIES = ('r', 'c', 'f')


@dataclass(frozen=True)
class Regions:
    """Boxes or masks of many images, in columns.

    Attributes:
        image: Index of the image in the annotation file, shape (N,).
        category: Index of the category in the annotation file, shape (N,).
        area: Square pixels, shape (N,).
        shape: Boxes ``(x, y, width, height)``, float64 (N, 4); or the compressed RLE counts of
            masks, bytes objects (N,).
        score: Confidence of detections, shape (N,); None for ground truth.
        crowd: Whether a ground truth is a crowd, shape (N,); None for detections.
    """

    image: np.ndarray
    category: np.ndarray
    area: np.ndarray
    shape: np.ndarray
    score: Optional[np.ndarray] = None
    crowd: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: np.ndarray) -> Regions:
        columns = {
            name: None if column is None else column[index] for name, column in vars(self).items()
        }
        return Regions(**columns)

    def records(self, sizes: Sequence[tuple[int, int]]) -> list[dict]:
        """The regions in COCO's format; ids count from 1, image and category are left out.

        Args:
            sizes: Height and width of each image of the annotation file.
        """
        records: list[dict] = [
            {'id': number, 'area': area} for number, area in enumerate(self.area.tolist(), start=1)
        ]
        columns: dict[str, Iterable] = {}
        if self.shape.ndim == 2:
            columns['bbox'] = self.shape.tolist()
        else:
            columns['segmentation'] = (
                {'size': sizes[image], 'counts': counts}
                for image, counts in zip(self.image, self.shape)
            )
        if self.score is not None:
            columns['score'] = self.score.tolist()
        if self.crowd is not None:
            columns['iscrowd'] = self.crowd.tolist()
        for name, values in columns.items():
            for record, value in zip(records, values):
                record[name] = value
        return records


class GroundTruth:
    """What evaluation needs of an annotation file: RLEs in place of polygons, arrays of dicts.

    An image's detections of a category count if the category is annotated in the image or listed
    in its ``neg_category_ids``. An image without that key, as in COCO, counts for all categories.

    Args:
        path: Annotation file in LVIS or COCO format.
        metrics: Which regions to read: ``'bbox'``, ``'segm'``.

    Attributes:
        category_ids: Ids in the order of the file.
        names: Category names in the same order.
        groups: Category indices by LVIS frequency, ``{'r': [...], 'c': [...], 'f': [...]}``; empty
            if the categories have no ``frequency``.
        image_ids: Image ids in ascending order, the order in which ties of scores are broken.
        sizes: Height and width of each image.
        federated: Whether the images say which categories were looked for.
        regions: Ground truth regions by metric, those without area left out, as lvis-api does.

    Raises:
        ValueError: If it is no annotation file of this kind, contradicts itself, or lacks masks.
    """

    def __init__(self, path: Union[str, Path], metrics: Sequence[str]) -> None:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        keys = {'images', 'annotations', 'categories'}
        if not (isinstance(content, dict) and keys <= set(content)):
            raise ValueError(f'{path} has no images, annotations and categories, as LVIS and COCO')
        self.path = str(path)
        self.category_ids: list[int] = [category['id'] for category in content['categories']]
        self.names: list[str] = [category['name'] for category in content['categories']]
        self._category_index = {key: index for index, key in enumerate(self.category_ids)}
        self.groups = _frequency_groups(content['categories'])
        images = sorted(content['images'], key=lambda image: image['id'])
        self.image_ids: list[int] = [image['id'] for image in images]
        self._image_index = {key: index for index, key in enumerate(self.image_ids)}
        self.sizes: list[tuple[int, int]] = [(image['height'], image['width']) for image in images]
        self._check(images, content['annotations'])
        annotations = [a for a in content['annotations'] if a['area'] > 0]
        self._read_federation(images, annotations)
        columns = self._columns(annotations)
        self.regions = {name: self._regions(name, annotations, columns) for name in metrics}

    def image_index(self, image_id: int) -> int:
        """Index of an image; ValueError if the file does not have it."""
        if image_id not in self._image_index:
            raise ValueError(
                f'image {image_id} is not in {self.path}: ann_file of the metric and of the data '
                'set must be the same file'
            )
        return self._image_index[image_id]

    def counts(self, image: int, categories: np.ndarray) -> np.ndarray:
        """Which detections of an image count, given the category index of each, shape (N,)."""
        counted = self._counted[image]
        return np.ones(len(categories), bool) if counted is None else np.isin(categories, counted)

    def pairs(self, regions: Regions) -> np.ndarray:
        """One number for image and category of each region, (N,), in the order of the images."""
        return regions.image.astype(np.int64) * len(self.names) + regions.category

    def not_exhaustive(self, pairs: np.ndarray) -> np.ndarray:
        """Of which pairs the image may show the category where no annotation is, shape (N,)."""
        return np.isin(pairs, self._not_exhaustive)

    def _check(self, images: list[dict], annotations: list[dict]) -> None:
        for image in images:
            for key in ('neg_category_ids', 'not_exhaustive_category_ids'):
                unknown = set(image.get(key, [])) - set(self._category_index)
                if unknown:
                    raise ValueError(
                        f'image {image["id"]} of {self.path} has {key} {sorted(unknown)}, which '
                        'the file does not define as categories'
                    )
        for annotation in annotations:
            if 'segments_info' in annotation:
                raise ValueError(
                    f'{self.path} is panoptic: LongTailPanopticMetric evaluates it, or name the '
                    'file of its instances'
                )
            missing = {'id', 'image_id', 'category_id', 'bbox', 'area'} - set(annotation)
            if missing:
                raise ValueError(f'an annotation of {self.path} lacks {sorted(missing)}')
            known = {'image_id': self._image_index, 'category_id': self._category_index}
            for key, index in known.items():
                if annotation[key] not in index:
                    raise ValueError(
                        f'annotation {annotation["id"]} of {self.path} has {key} '
                        f'{annotation[key]}, which the file does not define'
                    )

    def _read_federation(self, images: list[dict], annotations: list[dict]) -> None:
        index = self._category_index
        self.federated = any('neg_category_ids' in image for image in images)
        self._counted: list[Optional[np.ndarray]] = [None] * len(images)
        counted = [{index[key] for key in image.get('neg_category_ids', [])} for image in images]
        for annotation in annotations:
            image = self._image_index[annotation['image_id']]
            counted[image].add(index[annotation['category_id']])
        for number, image in enumerate(images):
            if 'neg_category_ids' in image:
                self._counted[number] = np.array(sorted(counted[number]), dtype=np.int64)
        self._not_exhaustive = np.array(
            [
                number * len(self.names) + index[key]
                for number, image in enumerate(images)
                for key in image.get('not_exhaustive_category_ids', [])
            ],
            dtype=np.int64,
        )

    def _columns(self, annotations: list[dict]) -> dict[str, np.ndarray]:
        return {
            'image': np.array([self._image_index[a['image_id']] for a in annotations], np.int32),
            'category': np.array(
                [self._category_index[a['category_id']] for a in annotations], np.int32
            ),
            'area': np.array([a['area'] for a in annotations], np.float64),
            'crowd': np.array([a.get('iscrowd', 0) for a in annotations], np.int8),
        }

    def _regions(
        self, metric: str, annotations: list[dict], columns: Mapping[str, np.ndarray]
    ) -> Regions:
        if metric == 'bbox':
            boxes = np.array([a['bbox'] for a in annotations], np.float64).reshape(-1, 4)
            return Regions(**columns, shape=boxes)
        without = next((a for a in annotations if 'segmentation' not in a), None)
        if without is not None:
            raise ValueError(
                f"annotation {without['id']} of {self.path} has no segmentation: use metric='bbox'"
            )
        rles = (
            _rle_counts(a['segmentation'], self.sizes[image])
            for a, image in zip(annotations, columns['image'])
        )
        return Regions(**columns, shape=as_objects(rles, len(annotations)))


@dataclass(frozen=True)
class Curves:
    """Precision-recall curves in short, NaN where there is no ground truth.

    K counts classes, or pools of classes; areas are all, small, medium and large.

    Attributes:
        ap: Average precision, shape (10 IoUs, K, 4 areas).
        recall: Recall of all detections, shape (10 IoUs, K, 4 areas).
    """

    ap: np.ndarray
    recall: np.ndarray

    @classmethod
    def empty(cls, num: int) -> Curves:
        """No curve yet, for ``num`` classes or pools."""
        return cls(*(np.full((NUM_IOUS, num, NUM_AREAS), np.nan) for _ in range(2)))

    def set(self, number: int, precision: np.ndarray, recall: np.ndarray) -> None:
        """Set curve ``number`` from COCO's arrays, which have -1 where there is no ground truth.

        Args:
            number: Which of the K curves.
            precision: Precision at 101 recalls, shape (10, 101, 4).
            recall: Shape (10, 4).
        """
        self.ap[:, number] = np.where(precision < 0, np.nan, precision).mean(axis=1)
        self.recall[:, number] = np.where(recall < 0, np.nan, recall)


def evaluate(
    ground_truth: GroundTruth, metric: str, detections: Regions, pools: Sequence[Sequence[int]]
) -> Curves:
    """Evaluate with faster-coco-eval, matching within image and class.

    Args:
        ground_truth: The annotation file.
        metric: ``'bbox'`` or ``'segm'``.
        detections: Detections that count, with area.
        pools: Category indices of each curve: of one category for its AP, of several for the AP
            of their detections in one ranking.
    """
    curves = Curves.empty(len(pools))
    annotated = ByCategory(ground_truth.regions[metric])
    detected = ByCategory(detections)
    for number, members in enumerate(pools):
        true = annotated.of(members)
        if len(true):
            found = _evaluate_pool(ground_truth, metric, true, detected.of(members))
            curves.set(number, found['precision'][:, :, 0, :, 0], found['recall'][:, 0, :, 0])
    return curves


def _evaluate_pool(
    ground_truth: GroundTruth, metric: str, true: Regions, detected: Regions
) -> Mapping[str, np.ndarray]:
    # To the evaluator, each pair of image and class is an image of its own, with a single class:
    # matches stay within image and class, while one curve ranks the detections of all pairs.
    true_pairs, detected_pairs = ground_truth.pairs(true), ground_truth.pairs(detected)
    pairs = np.unique(np.concatenate([true_pairs, detected_pairs]))
    unsure = ground_truth.not_exhaustive(pairs).tolist()
    images = [
        {
            'id': number,
            'height': height,
            'width': width,
            'neg_category_ids': [1],
            'not_exhaustive_category_ids': [1] if unsure[number] else [],
        }
        for number, (height, width) in enumerate(
            ground_truth.sizes[image] for image in pairs // len(ground_truth.names)
        )
    ]
    both = [
        _coco(images, regions.records(ground_truth.sizes), np.searchsorted(pairs, own))
        for regions, own in ((true, true_pairs), (detected, detected_pairs))
    ]
    evaluator = COCOeval_faster(*both, iouType=metric, lvis_style=True, rle_iou_max_workers=1)
    # No further limit: detections were selected before. A larger number would cost memory.
    _, numbers = np.unique(detected_pairs, return_counts=True)
    evaluator.params.maxDets = [int(numbers.max(initial=1))]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def _coco(images: list[dict], annotations: list[dict], image_numbers: np.ndarray) -> COCO:
    for annotation, number in zip(annotations, image_numbers.tolist()):
        annotation['image_id'] = number
        annotation['category_id'] = 1
    coco = COCO()
    category = {'id': 1, 'name': 'pool', 'frequency': 'f'}
    coco.dataset = {'images': images, 'annotations': annotations, 'categories': [category]}
    coco.createIndex()
    return coco


class ByCategory:
    """Regions by category, found without searching all of them for each."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._order = np.argsort(regions.category, kind='stable')
        self._sorted = regions.category[self._order]

    def of(self, members: Sequence[int]) -> Regions:
        """The regions of some categories, in their own order."""
        starts = np.searchsorted(self._sorted, members, side='left')
        ends = np.searchsorted(self._sorted, members, side='right')
        slices = [self._order[start:end] for start, end in zip(starts, ends)]
        return self._regions[np.sort(np.concatenate([self._order[:0], *slices]))]


def as_objects(values: Iterable[Any], num: int) -> np.ndarray:
    """An array of Python objects, which numpy must not take for strings; shape (num,)."""
    array = np.empty(num, dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _rle_counts(segmentation: Union[list, dict], size: tuple[int, int]) -> bytes:
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))['counts']
    counts = segmentation['counts']
    if isinstance(counts, list):
        return mask_utils.frPyObjects(segmentation, *size)['counts']
    return counts.encode()


def _frequency_groups(categories: Sequence[Mapping]) -> dict[str, list[int]]:
    if not all('frequency' in category for category in categories):
        return {}
    return {
        name: [i for i, category in enumerate(categories) if category['frequency'] == name]
        for name in FREQUENCIES
    }
