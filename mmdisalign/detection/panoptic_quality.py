"""Panoptic quality: which segments of an image were found, and what that is worth.

As panopticapi computes it, which is not on PyPI (Kirillov et al. 2019, "Panoptic Segmentation",
arXiv:1801.00868).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.fileio import get

MATCHED = 0.5  # a segment is found by one with an IoU above this, of which there is one at most


@dataclass(frozen=True)
class Segments:
    """The things and the stuff of an image: each pixel is of one of them, or of none.

    Attributes:
        index: Number of the segment that a pixel is of, 0 to S - 1, or S if of none, shape (H, W).
        label: Of each segment, shape (S,).
        crowd: Whether it is a crowd, shape (S,).
    """

    index: np.ndarray
    label: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, segments: Mapping[int, tuple[int, bool]]) -> Segments:
        """From a map of ids, shape (H, W), and label and crowd of those that are segments."""
        number_of = {own: number for number, own in enumerate(segments)}
        found, inverse = np.unique(ids, return_inverse=True)
        numbers = np.array([number_of.get(own, len(segments)) for own in found.tolist()])
        label, crowd = np.array(list(segments.values()), dtype=np.int64).reshape(-1, 2).T
        return cls(numbers[inverse.reshape(ids.shape)], label, crowd.astype(bool))

    @classmethod
    def predicted(cls, panoptic: np.ndarray, is_thing: np.ndarray) -> Segments:
        """From what mmdet predicts.

        Args:
            panoptic: Label + 1000 · number of the instance, which is 0 of stuff, shape (H, W). What
                is no class is no segment, nor is a thing without a number: mmdet's own metric puts
                0 there.
            is_thing: Of each class, shape (C,).
        """
        segments = {}
        for own in np.unique(panoptic).tolist():
            number, label = divmod(own, INSTANCE_OFFSET)
            if label < len(is_thing) and (number or not is_thing[label]):
                segments[own] = (label, False)
        return cls.of(panoptic, segments)

    @property
    def labels(self) -> np.ndarray:
        """The label of each pixel, -1 if it is of no segment, shape (H, W)."""
        return np.append(self.label, -1)[self.index]


@dataclass(frozen=True)
class Matches:
    """The true segments of one or many images, without crowds, and what was predicted on them.

    Attributes:
        truth: Label of each, shape (T,).
        found: Label of the predicted segment on it, -1 without one, shape (T,).
        iou: Its intersection over union, 0 without one, shape (T,).
        wrong: Labels of the predicted segments that are on no true one of their class, shape (E,).
    """

    truth: np.ndarray
    found: np.ndarray
    iou: np.ndarray
    wrong: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Matches]) -> Matches:
        """Of the images of all parts."""
        return cls(
            *(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in parts)))
        )

    def quality(self, num_classes: int) -> dict[str, np.ndarray]:
        """PQ, SQ and RQ of each class, in [0, 1], shape (C,); NaN of a class that is nowhere."""
        right = self.found == self.truth
        iou, true, missed, wrong = (
            np.bincount(labels, weights, minlength=num_classes)
            for labels, weights in (
                (self.truth[right], self.iou[right]),
                (self.truth[right], None),
                (self.truth[~right], None),
                (self.wrong, None),
            )
        )
        with np.errstate(invalid='ignore'):  # 0 / 0
            recognition = true / (true + missed / 2 + wrong / 2)
        return {
            'PQ': recognition * (iou / np.maximum(true, 1)),
            'SQ': np.where(np.isnan(recognition), np.nan, iou / np.maximum(true, 1)),
            'RQ': recognition,
        }


def match(truth: Segments, predicted: Segments) -> Matches:
    """Match the segments of an image.

    Pixels of a predicted segment where nothing is annotated are not of the union. One with more
    than half of its pixels there, or on crowds of its class, is not wrong.
    """
    number, others = len(truth.label), len(predicted.label)
    pairs = truth.index * (others + 1) + predicted.index
    common = np.bincount(pairs.ravel(), minlength=(number + 1) * (others + 1))
    common = common.reshape(number + 1, others + 1)
    area, true_area = common[:, :others].sum(0), common[:number].sum(1)
    iou = np.zeros((number, others + 1))  # the last is that of no segment
    union = true_area[:, None] + area - common[:number, :others] - common[number, :others]
    iou[:, :others] = common[:number, :others] / np.maximum(union, 1)
    best = np.where(iou.max(1) > MATCHED, iou.argmax(1), others)
    counted = ~truth.crowd
    label = np.append(predicted.label, -1)
    right = counted & (label[best] == truth.label)
    crowd = truth.crowd[:, None] & (truth.label[:, None] == predicted.label)
    excused = common[number, :others] + (common[:number, :others] * crowd).sum(0)
    wrong = excused <= area / 2
    wrong[best[right]] = False
    own = iou[np.arange(number), best]
    return Matches(truth.label[counted], label[best[counted]], own[counted], predicted.label[wrong])


class PanopticTruth:
    """A panoptic annotation file of COCO's format, and the maps of its segments.

    Args:
        path: Annotation file.
        folder: Of the maps, PNG files whose colours are ids.
        backend_args: Of mmengine's file backend, to read the maps. Default: None.

    Attributes:
        names: Of the categories, in the order of the file, as mmdet labels them.
        is_thing: Of the categories, shape (C,).

    Raises:
        ValueError: If it is no such file.
    """

    def __init__(
        self, path: Union[str, Path], folder: str, backend_args: Optional[dict] = None
    ) -> None:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        self.path, self.folder, self.backend_args = str(path), folder, backend_args
        try:
            categories = content['categories']
            self.names: list[str] = [category['name'] for category in categories]
            self.is_thing = np.array([bool(category['isthing']) for category in categories])
            label_of = {category['id']: label for label, category in enumerate(categories)}
            self._images = {
                own['image_id']: (own['file_name'], _labelled(own['segments_info'], label_of))
                for own in content['annotations']
            }
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no panoptic annotation file of COCO's format: {error} is not there"
            ) from None

    def segments(self, image_id: int) -> Segments:
        """The true segments of an image; ValueError if the file has none, or its map is broken."""
        if image_id not in self._images:
            raise ValueError(
                f'image {image_id} is not in {self.path}: ann_file of the metric and of the data '
                'set must be the same file'
            )
        name, segments = self._images[image_id]
        path = f'{self.folder}/{name}'
        content = get(path, backend_args=self.backend_args)
        colours = mmcv.imfrombytes(content, flag='color', channel_order='rgb')
        if colours is None:
            raise ValueError(f'{path} cannot be decoded as an image')
        ids = colours.astype(np.int64) @ [1, 256, 256**2]
        return Segments.of(ids, segments)


def _labelled(
    segments: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> dict[int, tuple[int, bool]]:
    """Label of each segment by its id, and whether it is a crowd."""
    return {
        own['id']: (label_of[own['category_id']], bool(own.get('iscrowd', 0))) for own in segments
    }
