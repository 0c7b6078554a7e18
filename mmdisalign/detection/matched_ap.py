"""AP of boxes where an image counts some times: matched once, and counted anew for each draw.

faster-coco-eval, by which :mod:`lvis_eval` computes AP, does not tell which detections it matched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from .lvis_eval import NUM_IOUS, ByCategory, GroundTruth, Regions

IOUS = np.linspace(0.5, 0.95, NUM_IOUS)
RECALLS = np.linspace(0, 1, 101)
CHUNK = 1 << 22  # numbers that are computed with at a time: 32 MB


@dataclass(frozen=True)
class ClassMatches:
    """The D detections of a class, the best first, in I images.

    Attributes:
        image: Position of the image of each among the images, shape (D,).
        found: Which are on an annotation, at each IoU, shape (10, D).
        counted: Which count, shape (10, D): not those in a crowd, and where an image may show more
            than is annotated, those found alone.
        annotated: How many annotations an image has, without crowds, shape (I,).
    """

    image: np.ndarray
    found: np.ndarray
    counted: np.ndarray
    annotated: np.ndarray

    def ap(self, times: np.ndarray) -> np.ndarray:
        """Average precision, the mean over IoUs, as COCO and LVIS have it.

        Args:
            times: How often each image counts, in each of R draws, shape (R, I).

        Returns:
            Shape (R,), in [0, 1]; NaN where nothing is annotated.
        """
        size = max(1, CHUNK // (NUM_IOUS * (len(self.image) + 1)))
        parts = np.split(times.astype(np.float64), range(size, len(times), size))
        return np.concatenate([self._ap(part) for part in parts])

    def _ap(self, times: np.ndarray) -> np.ndarray:
        # Recall rises at found detections alone, and only they have the precisions that count.
        rises, true = self.found.any(axis=0), times @ self.annotated
        if not rises.any():
            return np.where(true > 0, 0.0, np.nan)
        weight = times[:, None, self.image]
        kinds, kind = np.unique(self.counted, axis=0, return_inverse=True)
        total = np.cumsum(weight * kinds, axis=2)[:, :, rises][:, kind.ravel()]
        right = np.cumsum(weight[:, :, rises] * self.found[:, rises], axis=2)
        with np.errstate(invalid='ignore', divide='ignore'):  # 0 / 0
            recall = right / true[:, None, None]
        precision = right / np.maximum(total, np.finfo(np.float64).tiny)
        best = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
        reached = np.searchsorted(RECALLS, recall, side='right')
        ap = (best * np.diff(reached, axis=2, prepend=0)).sum(axis=2) / len(RECALLS)
        return np.where(true > 0, ap.mean(axis=1), np.nan)


def match_boxes(
    ground_truth: GroundTruth, detections: Regions, images: np.ndarray, categories: Sequence[int]
) -> Iterator[ClassMatches]:
    """Match detections to annotations, within image and class, the best first.

    Args:
        ground_truth: With boxes.
        detections: Those that count, in the order of the images.
        images: Indices of the images that are judged, ascending, shape (I,).
        categories: Indices of the classes.

    Returns:
        The matches of each class.
    """
    regions = ground_truth.regions['bbox']
    annotated = ByCategory(regions[np.isin(regions.image, images)])
    detected = ByCategory(detections)
    for category in categories:
        yield _match_class(ground_truth, annotated.of([category]), detected.of([category]), images)


def _match_class(
    ground_truth: GroundTruth, true: Regions, detected: Regions, images: np.ndarray
) -> ClassMatches:
    detected = detected[np.argsort(-detected.score, kind='stable')]
    found, crowded = np.zeros((2, NUM_IOUS, len(detected)), bool)
    for image in np.intersect1d(true.image, detected.image):
        own, there = (np.flatnonzero(each.image == image) for each in (detected, true))
        crowd = true.crowd[there]
        overlaps = mask_utils.iou(detected.shape[own], true.shape[there], crowd.tolist())
        found[:, own] = _found(overlaps[:, crowd == 0])
        most = overlaps[:, crowd == 1].max(axis=1, initial=0)
        crowded[:, own] = most >= IOUS[:, None]
    unsure = ground_truth.not_exhaustive(ground_truth.pairs(detected))
    place, annotated = (
        np.searchsorted(images, each) for each in (detected.image, true.image[true.crowd == 0])
    )
    annotated = np.bincount(annotated, minlength=len(images))
    return ClassMatches(place, found, found | ~(crowded | unsure), annotated)


def _found(overlaps: np.ndarray) -> np.ndarray:
    """Which detections are on an annotation of an image, at each IoU, shape (10, n).

    Each takes that of those left which it overlaps most.

    Args:
        overlaps: IoU of detections, the best first, with annotations, shape (n, m).
    """
    found = np.zeros((NUM_IOUS, len(overlaps)), bool)
    taken = np.zeros((NUM_IOUS, overlaps.shape[1]), bool)
    every = np.arange(NUM_IOUS)
    for number in np.flatnonzero((overlaps >= IOUS[0]).any(axis=1)):
        left = np.where(taken, -1, overlaps[number])
        most = left.argmax(axis=1)
        found[:, number] = left[every, most] >= IOUS
        taken[every, most] |= found[:, number]
    return found
