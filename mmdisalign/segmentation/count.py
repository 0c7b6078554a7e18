"""Count the pixels of each class in a segmentation data set."""

from __future__ import annotations

import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from ..calibration import ClassPrior
from ..engine import iter_datasets


def count_pixels(dataset: dict) -> ClassPrior:
    """Count the labels that a model would be trained on.

    Only annotations are read, with the label map, ``reduce_zero_label`` and ``ignore_index`` of the
    data set. Data sets below wrappers, such as ConcatDataset, are added up.

    Args:
        dataset: Config of an mmseg data set.

    Raises:
        ValueError: If a label is not one of the classes, or data sets differ in their classes; the
            message names the file and the label, or the classes.
    """
    parts = [DATASETS.build({**part, 'pipeline': []}) for part in iter_datasets(dataset)]
    classes = {tuple(part.metainfo['classes']) for part in parts}
    if len(classes) > 1:
        raise ValueError(f'the data sets below a wrapper differ in their classes: {classes}')
    return ClassPrior(sum(_count_pixels(part) for part in parts), classes.pop())


def _count_pixels(dataset: BaseSegDataset) -> np.ndarray:
    load = LoadAnnotations()
    counts = np.zeros(len(dataset.metainfo['classes']), dtype=np.int64)
    for index in track_iter_progress(range(len(dataset))):
        info = dataset.get_data_info(index)
        label = load(info)['gt_seg_map']
        counts += _count(label[label != dataset.ignore_index], len(counts), info['seg_map_path'])
    return counts


def _count(labels: np.ndarray, num_classes: int, path: str) -> np.ndarray:
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    if len(counts) > num_classes:
        raise ValueError(
            f'{path}: label {len(counts) - 1}, but the data set has {num_classes} classes'
        )
    return counts
