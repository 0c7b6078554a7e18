"""Count the images of each class in a classification data set."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file
from mmpretrain.datasets import CustomDataset, MultiLabelDataset
from mmpretrain.registry import DATASETS

from ..calibration import ClassPrior
from ..counting.counting import (
    Faults,
    common_classes,
    counted_prior,
    lazy_datasets,
    naming_file,
    rate,
    read_annotations,
    source_of,
)

# A line of a list as mmpretrain splits it. A label below 0 is one, to be named as such.
IMAGE_LINE = re.compile(r'\s*\S.* [-+]?\d+\s*$')


def count_images(dataset: dict, *, skip_errors: bool = False) -> ClassPrior:
    """Count the images of each class; no image is read.

    An image with several labels counts for each. Data sets below wrappers, such as ConcatDataset,
    are added up. Where a data set has no names of
    classes, there are as many as the largest label says.

    Args:
        dataset: Config of an mmpretrain data set of images with one label, or with several.
        skip_errors: Leave out each image whose label is not one of the classes and each line of a
            list that is not ``path label``, and print which. Default: False.

    Raises:
        CountError: At the first of them, unless they are skipped; the message names the list and
            the line, or the image. If annotations cannot be read, or a data set is empty.
        ValueError: If data sets differ in their classes.
    """
    start = time.monotonic()
    faults = Faults(skip_errors)
    parts = [part for _, part in lazy_datasets(dataset, DATASETS)]
    images = [labels for part in parts for labels in _labels(part, faults)]
    classes = common_classes(parts)
    total = len(images) + len(faults.found)
    print(f'{total:,} images', rate(total, 'images', start))
    faults.report(total, 'images')
    labels = [label for own in images for label in own]
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(classes or ()))
    return counted_prior(counts, classes, counts)


def classes_of(infos: Iterable[dict], _: BaseDataset, __: int) -> list[np.ndarray]:
    """The classes of each image; see :func:`classes_of_images`."""
    return [np.atleast_1d(np.asarray(info['gt_label'], dtype=np.int64)) for info in infos]


def _labels(part: BaseDataset, faults: Faults) -> list[set[int]]:
    """The labels of each image of a data set below wrappers, if they are of its classes."""
    source = source_of(part)
    is_list = isinstance(part, CustomDataset) and part.ann_file and part.with_label
    infos, lines = _read_list(part, faults) if is_list else (read_annotations(part), [])
    num_classes = len(part.metainfo.get('classes') or ())
    images = []
    for index, info in enumerate(infos):
        label = info.get('gt_label')
        own = np.atleast_1d(label).tolist() if isinstance(part, MultiLabelDataset) else [label]
        fault = next(filter(None, (_fault(each, num_classes) for each in own)), '')
        if not fault:
            images.append(set(own))
            continue
        # With indices=, the samples are not the lines.
        line = f', line {lines[index]}' if len(lines) == len(infos) else ''
        faults.add(f'{source}{line}: {info.get("img_path", f"image {index}")} has {fault}')
    return images


def _fault(label: Any, num_classes: int) -> str:
    """What is wrong with a label, if anything; 0 classes are as many as the labels say."""
    if not isinstance(label, (int, np.integer)):
        return f'label {label!r}, which is not one number'
    if label < 0 or (num_classes and label >= num_classes):
        return f'label {label}, but the data set has {num_classes or "no negative"} classes'
    return ''


def _read_list(part: CustomDataset, faults: Faults) -> tuple[list[dict], list[int]]:
    """The samples of a ``path label`` list, and the numbers of their lines.

    mmpretrain does not say at which line it fails. Where lines are skipped, it reads a copy of the
    list without them.
    """
    with naming_file(part):
        lines = list_from_file(part.ann_file)
    good = {number: line for number, line in enumerate(lines, start=1) if IMAGE_LINE.match(line)}
    for number, line in enumerate(lines, start=1):
        if number not in good:
            faults.add(f"{part.ann_file}, line {number}: {line!r} is not 'path label'")
    with TemporaryDirectory() as folder:
        if 0 < len(good) < len(lines):
            part.ann_file = str(Path(folder, 'list.txt'))
            Path(part.ann_file).write_text('\n'.join(good.values()), encoding='utf-8')
        return read_annotations(part), list(good)
