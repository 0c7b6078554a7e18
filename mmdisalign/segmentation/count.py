"""Count the pixels of each class in a segmentation data set."""

from __future__ import annotations

import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from ..calibration import ClassPrior


def count_pixels(dataset: dict) -> ClassPrior:
    """Count the labels that a model would be trained on.

    Only annotations are read, with the label map, ``reduce_zero_label`` and ``ignore_index`` of the
    data set.

    Args:
        dataset: Config of an mmseg data set.

    Raises:
        ValueError: If a label is not one of the classes; the message names the file and the label.
    """
    built: BaseSegDataset = DATASETS.build({**dataset, 'pipeline': []})
    classes = built.metainfo['classes']
    load = LoadAnnotations()
    counts = np.zeros(len(classes), dtype=np.int64)
    for index in track_iter_progress(range(len(built))):
        info = built.get_data_info(index)
        label = load(info)['gt_seg_map']
        counts += _count(label[label != built.ignore_index], len(classes), info['seg_map_path'])
    return ClassPrior(counts, classes)


def _count(labels: np.ndarray, num_classes: int, path: str) -> np.ndarray:
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    if len(counts) > num_classes:
        raise ValueError(
            f'{path}: label {len(counts) - 1}, but the data set has {num_classes} classes'
        )
    return counts
