"""Count the instances and images of each class in a detection data set."""

from __future__ import annotations

import numpy as np
from mmdet.registry import DATASETS

from ..calibration import ClassPrior
from ..engine import built_datasets


def count_instances(dataset: dict) -> ClassPrior:
    """Count the instances that a detector would be trained on, and the images that have them.

    Only annotations are read, after the data set's own filters. Crowds and other ignored instances
    do not count. Data sets below wrappers, such as ConcatDataset, are added up; a repetition, as of
    ClassBalancedDataset, does not count twice.

    Args:
        dataset: Config of an mmdet data set.

    Raises:
        ValueError: If data sets differ in their classes.
    """
    parts, classes = built_datasets(dataset, DATASETS)
    instances, images = (np.zeros(len(classes), dtype=np.int64) for _ in range(2))
    for part in parts:
        for index in range(len(part)):
            labels = [
                instance['bbox_label']
                for instance in part.get_data_info(index)['instances']
                if not instance['ignore_flag']
            ]
            np.add.at(instances, labels, 1)
            images[np.unique(labels).astype(int)] += 1
    return ClassPrior(instances, classes, images=images)
