"""Count the images of each class in a classification data set."""

from __future__ import annotations

import numpy as np
from mmpretrain.registry import DATASETS

from ..calibration import ClassPrior
from ..engine import built_datasets


def count_images(dataset: dict) -> ClassPrior:
    """Count the images of each class; no image is read.

    Data sets below wrappers, such as ConcatDataset, are added up. Where a data set has no names of
    classes, there are as many as the largest label says.

    Args:
        dataset: Config of an mmpretrain data set of images with one label.

    Raises:
        ValueError: If data sets differ in their classes, or a label is not one of them.
    """
    parts, classes = built_datasets(dataset, DATASETS)
    labels = np.concatenate([part.get_gt_labels() for part in parts])
    counts = np.bincount(labels, minlength=len(classes or ()))
    if classes and len(counts) > len(classes):
        raise ValueError(f'label {len(counts) - 1}, but the data set has {len(classes)} classes')
    return ClassPrior(counts, classes, images=counts)
