"""Count the pixels of each class in a segmentation data set."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import mmcv
import mmseg
import numpy as np
from mmcv.transforms import LoadAnnotations as LoadAnyAnnotations
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from ..calibration import ClassPrior
from ..counting.cache import Key, cache_key, file_identity
from ..counting.counting import (
    AnnotationFault,
    CountError,
    Faults,
    common_classes,
    counted_prior,
    lazy_datasets,
    leaves_of,
    listed,
    read_annotations,
)
from ..counting.files import count_files
from ..version import __version__
from .label_maps import WAY_OUT, map_fault, stock_loader

Histogram = dict[str, int]  # pixels by label, as JSON has it
IGNORED = 255  # what reduce_zero_label makes of 0


def count_pixels(dataset: dict, *, skip_errors: bool = False) -> ClassPrior:
    """Count the labels that a model would be trained on, and the images that have them.

    Only annotations are read, by the loading transform of the data set's pipeline, with its label
    map, ``reduce_zero_label`` and ``ignore_index``. Data sets below wrappers, such as
    ConcatDataset, are added up. All cores count; what they have counted is cached map by map, so
    that an interrupted count goes on, and a map that has not changed is not counted again. What a
    loading transform of the user's own loads, which may depend on anything, is counted each time.

    Args:
        dataset: Config of an mmseg data set.
        skip_errors: Leave out each map that cannot be loaded or has a label that is not one of the
            classes, and print which. Default: False.

    Raises:
        CountError: At the first such map, unless they are skipped; the message names the file and
            the label. If a data set is empty.
        ValueError: If data sets have no classes, or differ in them.
    """
    parts = lazy_datasets(dataset, DATASETS)
    maps = [each for config, part in parts for each in _maps(config, part)]
    classes = common_classes([part for _, part in parts])
    if not classes:
        raise ValueError('the data set has no classes; name them: metainfo=dict(classes=...)')
    faults = Faults(skip_errors)
    pixels, images = (np.zeros(len(classes), dtype=np.int64) for _ in range(2))

    def add(each: _Map, found: Union[Histogram, str]) -> None:
        fault = each.fault(found, len(classes))
        if fault:
            faults.add(fault)
            return
        for label, number in each.counting(found):
            pixels[label] += number
            images[label] += 1

    count_files(maps, add, 'maps')
    faults.report(len(maps), 'maps')
    return counted_prior(pixels, classes, images)


def classes_of(
    infos: Iterable[Mapping[str, Any]], dataset: BaseDataset, num_classes: int
) -> list[np.ndarray]:
    """The classes of each image's map, see :func:`classes_of_images`; counts are cached."""
    # Parts of a data set may have the same maps with other labels in them.
    maps = {_settings(each.info): each for leaf in leaves_of(dataset) for each in _built_maps(leaf)}
    found: dict[str, np.ndarray] = {}

    def add(each: _Map, counted: Union[Histogram, str]) -> None:
        fault = each.fault(counted, num_classes)
        if fault:
            raise AnnotationFault(fault)
        labels = [label for label, _ in each.counting(counted)]
        found[_settings(each.info)] = np.array(labels, dtype=int)

    count_files(list(maps.values()), add, 'maps')
    return [found[_settings(info)] for info in infos]


def _settings(info: Mapping[str, Any]) -> str:
    """What a data set says of an image, but for its number there."""
    return repr({key: value for key, value in info.items() if key != 'sample_idx'})


def loading_transform(pipeline: Sequence[Any]) -> LoadAnyAnnotations:
    """What loads the labels in training: that of the pipeline if it has one, else mmseg's."""
    for step in pipeline:
        kind = step.get('type') if isinstance(step, Mapping) else None
        kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(kind) and issubclass(kind, LoadAnyAnnotations):
            return TRANSFORMS.build(step)
    return LoadAnnotations()


@dataclass
class _Map:
    """The annotation of an image: what the data set says of it, and what loads it."""

    info: dict[str, Any]
    load: LoadAnyAnnotations
    how: Optional[str]  # the loading transform, as a key of the cache has it
    ignore_index: int

    @property
    def path(self) -> str:
        return self.info['seg_map_path']

    @property
    def key(self) -> Optional[Key]:
        """What the counts depend on."""
        settings = {k: v for k, v in self.info.items() if k not in ('img_path', 'seg_map_path')}
        image = self.info.get('img_path')  # whose size the map should have
        of_image = image and file_identity(image)
        return None if self.how is None else cache_key(self.path, self.how, settings, of_image)

    def count(self) -> Union[Histogram, str]:
        """Pixels by label as training would load it, or why it cannot be, or not rightly."""
        try:
            fault = map_fault(self.info, self.load)
            if fault:
                return fault
            labels = self.load({**self.info, 'seg_fields': []})['gt_seg_map']
            if labels.ndim != 2:
                return f'an image of shape {labels.shape}, not one label a pixel: {WAY_OUT}'
            found = np.bincount(labels.ravel())
        except Exception as error:
            if 'NoneType' in str(error):  # what OpenCV makes of a file that it cannot decode
                return 'cannot be decoded as an image'
            return f'cannot be loaded: {type(error).__name__}: {error}'
        return {str(label): int(found[label]) for label in np.flatnonzero(found)}

    def fault(self, found: Union[Histogram, str], num_classes: int) -> str:
        """What is wrong with the map, if anything."""
        fault = found if isinstance(found, str) else self._unknown_labels(found, num_classes)
        return f'{self.path}: {fault}' if fault else ''

    def counting(self, found: Histogram) -> list[tuple[int, int]]:
        """The labels that count, with their pixels."""
        pairs = ((int(label), number) for label, number in found.items())
        return [(label, number) for label, number in pairs if label != self.ignore_index]

    def _unknown_labels(self, found: Histogram, num_classes: int) -> str:
        """Say which labels are not one of the classes, if any."""
        unknown = [
            f'label {self._name(label)} in {number:,} pixels'
            for label, number in self.counting(found)
            if label >= num_classes
        ]
        if not unknown:
            return ''
        return f'{listed(unknown, 3)}, but the data set has {num_classes} classes'

    def _name(self, label: int) -> str:
        """A label, and what the file has in its place, where that is plain."""
        reduced = isinstance(self.load, LoadAnnotations) and self.info.get('reduce_zero_label')
        if not reduced or self.info.get('label_map') or label == IGNORED:
            return str(label)
        return f'{label} ({label + 1} in the file, before reduce_zero_label)'


def _maps(config: Mapping[str, Any], part: BaseDataset) -> list[_Map]:
    """The maps of a data set below wrappers."""
    load = loading_transform(config.get('pipeline') or ())
    return _maps_loaded(read_annotations(part), load, part.ignore_index)


def _built_maps(part: BaseDataset) -> list[_Map]:
    """The maps of a data set that is built, pipeline and all."""
    infos = [part.get_data_info(index) for index in range(len(part))]
    for info in infos:
        info.pop('sample_idx')  # which is not in the key of what was counted before
    steps = [step for step in part.pipeline.transforms if isinstance(step, LoadAnyAnnotations)]
    return _maps_loaded(infos, steps[0] if steps else LoadAnnotations(), part.ignore_index)


def _maps_loaded(
    infos: Sequence[dict[str, Any]], load: LoadAnyAnnotations, ignore_index: int
) -> list[_Map]:
    if infos and 'seg_map_path' not in infos[0]:
        raise CountError(
            f'{infos[0]["img_path"]} has no annotation: name the folder, data_prefix.seg_map_path'
        )
    how = _fingerprint(load) if _reads_this_disk(load) else None
    return [_Map(info, load, how, ignore_index) for info in infos]


def _reads_this_disk(load: LoadAnyAnnotations) -> bool:
    """Whether a path means a file here; in other storage, it may be there by coincidence."""
    options = (load.backend_args, load.file_client_args)
    return all(not each or each.get('backend') in ('local', 'disk') for each in options)


def _fingerprint(load: LoadAnyAnnotations) -> Optional[str]:
    """What tells a transform from others; None of a user's own, which may depend on anything."""
    kind = stock_loader(load)
    if kind.__module__.partition('.')[0] not in ('mmcv', 'mmseg'):
        return None
    versions = (mmcv.__version__, mmseg.__version__, __version__)
    return repr((kind.__qualname__, vars(load), versions))
