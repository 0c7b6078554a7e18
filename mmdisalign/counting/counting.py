"""What counting the classes of a data set takes in every library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Optional

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import Registry

from ..calibration import ClassPrior
from ..engine.data_check import iter_datasets
from ..progress import progress_bar

NUM_SHOWN = 20
# What counts, by plug-in.
COUNTERS = {
    'segmentation': 'count_pixels',
    'detection': 'count_instances',
    'classification': 'count_images',
}


def counter_of(plugin: str) -> Callable[..., ClassPrior]:
    """The function of a plug-in that counts the classes of a data set's config."""
    return getattr(import_module(f'mmdisalign.{plugin}.count'), COUNTERS[plugin])


def classes_of_images(plugin: str, dataset: BaseDataset, num_classes: int) -> list[np.ndarray]:
    """The classes that each image of a data set, or of a wrapper, has.

    Args:
        plugin: Such as ``'segmentation'``.
        dataset: One that is built.
        num_classes: C.

    Raises:
        CountError: If an annotation cannot be read, or has another label.
        TypeError: If a wrapper does not tell what is in an image.
    """
    if not hasattr(dataset, 'get_data_info'):
        raise TypeError(
            f'{type(dataset).__name__} does not tell what is in an image: take every image, '
            '--images-per-class all'
        )
    classes_of = import_module(f'mmdisalign.{plugin}.count').classes_of
    with progress_bar() as bar:
        indices = bar.track(range(len(dataset)), description='Looking for the classes')
        # One at a time: those of a large data set, with its polygons, take gigabytes.
        return classes_of((dataset.get_data_info(index) for index in indices), dataset, num_classes)


def leaves_of(dataset: BaseDataset) -> Iterator[BaseDataset]:
    """The data sets below wrappers, which are built."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    for part in getattr(dataset, 'datasets', None) or [dataset.dataset]:
        yield from leaves_of(part)


class CountError(ValueError):
    """The data cannot be counted; the message names the file and what is wrong with it."""


class AnnotationFault(CountError):
    """One annotation is at fault: the rest could be counted without it."""


class Faults:
    """What is wrong with the data: the first fault ends the count, unless it is to be skipped.

    Args:
        skip: Whether to leave out what is at fault and count the rest.

    Attributes:
        found: What was left out and why, each with its file.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """Take note of a fault, or raise AnnotationFault with it."""
        if not self.skip:
            raise AnnotationFault(fault)
        self.found.append(fault)

    def report(self, total: int, unit: str) -> None:
        """Print what is left out of so many maps, instances or images."""
        if self.found:
            print(listed(self.found, NUM_SHOWN, '\n'))
            print(f'{len(self.found):,} of {total:,} {unit} are left out of the count')


def rate(number: int, unit: str, start: float) -> str:
    """How fast so many were counted since a ``time.monotonic()``."""
    seconds = max(time.monotonic() - start, 1e-6)
    return f'at {number / seconds:,.0f} {unit}/s in {seconds:.1f} s'


def listed(items: Sequence[str], limit: int, separator: str = ', ') -> str:
    """The first items, and how many there are besides."""
    rest = [f'and {len(items) - limit:,} more'] if len(items) > limit else []
    return separator.join([*items[:limit], *rest])


def lazy_datasets(dataset: Any, registry: Registry) -> list[tuple[Mapping, BaseDataset]]:
    """The configs of the data sets below wrappers, with the data sets, which have read nothing yet.

    They are built without their pipelines. :func:`read_annotations` reads them.

    Args:
        dataset: Config of a data set, or of a wrapper.
        registry: The library's registry of data sets.
    """
    # Serialized samples save the workers of a training memory; here it would be time alone.
    options = {'pipeline': [], 'lazy_init': True, 'serialize_data': False}
    return [(config, registry.build({**config, **options})) for config in iter_datasets(dataset)]


def read_annotations(dataset: BaseDataset) -> list[dict]:
    """The samples of a data set from :func:`lazy_datasets`, after its own filters.

    Raises:
        CountError: If they cannot be read, or there are none; the message names the annotation
            file, or the folders.
    """
    with naming_file(dataset):
        dataset.full_init()
    if not dataset.data_list:
        raise CountError(
            f'{source_of(dataset)}: there is no sample in it that {type(dataset).__name__} would '
            'use; look at its ann_file, data_prefix, suffixes, classes and filter_cfg'
        )
    return dataset.data_list


@contextmanager
def naming_file(dataset: BaseDataset) -> Iterator[None]:
    """Whatever a reader raises becomes a CountError that names the annotation file or folders."""
    try:
        yield
    except (CountError, ImportError):  # of a package that is not installed, the file is innocent
        raise
    except Exception as error:
        raise CountError(
            f'{source_of(dataset)} cannot be read: {type(error).__name__}: {error}'
        ) from error


def source_of(dataset: BaseDataset) -> str:
    """What to call the place that a data set's annotations come from."""
    folders = ', '.join(str(folder) for folder in dataset.data_prefix.values() if folder)
    return str(dataset.ann_file or folders or dataset.data_root)


def common_classes(datasets: Sequence[BaseDataset]) -> Optional[tuple[str, ...]]:
    """The classes that all of the data sets have, or None if they have no names.

    Raises:
        ValueError: If they differ.
    """
    classes = {tuple(part.metainfo.get('classes') or ()) for part in datasets}
    if len(classes) > 1:
        raise ValueError(f'the data sets below a wrapper differ in their classes: {classes}')
    return classes.pop() or None


def counted_prior(
    counts: np.ndarray, classes: Optional[Sequence[str]], images: np.ndarray
) -> ClassPrior:
    """The prior that was counted, see :class:`ClassPrior`. Raises CountError if nothing was."""
    if not np.any(counts):
        raise CountError('there is nothing of any class in it: all counts are 0')
    return ClassPrior(counts, classes, images=images)
