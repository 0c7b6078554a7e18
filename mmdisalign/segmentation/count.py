"""Count the pixels of each class in a segmentation data set."""

from __future__ import annotations

import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from ..calibration import ClassPrior
from ..engine import built_datasets


def count_pixels(dataset: dict) -> ClassPrior:
    """Count the labels that a model would be trained on, and the images that have them.

    Only annotations are read, with the label map, ``reduce_zero_label`` and ``ignore_index`` of the
    data set. Data sets below wrappers, such as ConcatDataset, are added up.

    Args:
        dataset: Config of an mmseg data set.

    Raises:
        ValueError: If a label is not one of the classes, or data sets differ in their classes; the
            message names the file and the label, or the classes.
    """
    parts, classes = built_datasets(dataset, DATASETS)
    pixels, images = (np.zeros(len(classes), dtype=np.int64) for _ in range(2))
    for part in parts:
        load = LoadAnnotations()
        for index in track_iter_progress(range(len(part))):
            info = part.get_data_info(index)
            label = load(info)['gt_seg_map']
            label = label[label != part.ignore_index]
            counts = _count(label, len(classes), info['seg_map_path'])
            pixels += counts
            images += counts > 0
    return ClassPrior(pixels, classes, images=images)


def _count(labels: np.ndarray, num_classes: int, path: str) -> np.ndarray:
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    if len(counts) > num_classes:
        raise ValueError(
            f'{path}: label {len(counts) - 1}, but the data set has {num_classes} classes'
        )
    return counts
