"""Count the instances, or segments, and images of each class in a detection data set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import mmdet
import numpy as np
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from ..calibration import ClassPrior
from ..counting.cache import CountCache, cache_key
from ..counting.counting import (
    CountError,
    Faults,
    common_classes,
    counted_prior,
    lazy_datasets,
    listed,
    rate,
    read_annotations,
    source_of,
)

CATEGORIES_SHOWN = 10
Counts = dict[str, Any]  # as the cache has it: see _count


def count_instances(dataset: dict, *, skip_errors: bool = False) -> ClassPrior:
    """Count the instances that a detector would be trained on, and the images that have them.

    Of panoptic data, these are its segments: each thing, and what an image has of a kind of stuff.

    Only annotations are read, after the data set's own filters. Crowds and other ignored instances
    do not count. Data sets below wrappers, such as ConcatDataset, are added up; a repetition, as of
    ClassBalancedDataset, does not count twice. The counts of a COCO or LVIS file without faults are
    cached.

    Args:
        dataset: Config of an mmdet data set.
        skip_errors: Leave out each instance whose label is not one of the classes, and each
            annotation of a category or an image that its file does not have, and print which.
            Default: False.

    Raises:
        CountError: At the first of them, unless they are skipped; the message names the file, the
            image and the label. If a file cannot be read, or a data set is empty.
        ValueError: If data sets differ in their classes.
    """
    start = time.monotonic()
    faults, cache = Faults(skip_errors), CountCache()
    parts = lazy_datasets(dataset, DATASETS)
    counts = [_recall_or_count(config, part, faults, cache) for config, part in parts]
    classes = common_classes([part for _, part in parts])
    for note in filter(None, (each['note'] for each in counts)):
        print(note)
    samples = sum(each['samples'] for each in counts)
    recalled = all(each.get('recalled') for each in counts)
    print(f'{samples:,} images', 'from the cache' if recalled else rate(samples, 'images', start))
    instances, images = (
        np.sum([each[name] for each in counts], axis=0) for name in ('instances', 'images')
    )
    faults.report(int(instances.sum()) + len(faults.found), 'instances')
    return counted_prior(instances, classes, images)


def classes_of(
    infos: Iterable[Mapping[str, Any]], dataset: BaseDataset, _: int
) -> list[np.ndarray]:
    """The classes of each image's instances; see :func:`classes_of_images`."""
    return [np.unique(labels).astype(int) for labels in _labels(infos, dataset.metainfo)]


def _labels(infos: Iterable[Mapping[str, Any]], metainfo: Mapping[str, Any]) -> list[list[int]]:
    """The labels of what each image is trained on, with repetitions."""
    found = [(_instances(info), _no_things(info)) for info in infos]
    # What is no thing here, and is one by its name or elsewhere, is a crowd.
    names = metainfo.get('thing_classes') or ()
    things = {label for label, name in enumerate(metainfo['classes']) if name in names}
    things.update(label for own, _ in found for label in own)
    return [own + [each for each in others if each not in things] for own, others in found]


def _instances(info: Mapping[str, Any]) -> list[int]:
    if 'instances' not in info:
        raise CountError(f'{info.get("img_path")} has a map of labels, and no instances to count')
    return [each['bbox_label'] for each in info['instances'] if not each['ignore_flag']]


def _no_things(info: Mapping[str, Any]) -> list[int]:
    """Of panoptic data, the labels of stuff, and of crowds."""
    return [each['category'] for each in info.get('segments_info', ()) if not each['is_thing']]


def _recall_or_count(
    config: Mapping[str, Any], part: BaseDataset, faults: Faults, cache: CountCache
) -> Counts:
    """The counts of a data set below wrappers, from the cache if its one file is as it was."""
    if not _is_one_file(part):
        return _count(part, faults)
    settings = {name: value for name, value in config.items() if name != 'pipeline'}
    how = (type(part), settings, part.metainfo['classes'], mmdet.__version__)
    if isinstance(part, CocoPanopticDataset):
        how += ('segments',)  # before, stuff was not counted
    key = cache_key(part.ann_file, *how)
    known = cache.read([key])
    if known:
        return {**known[key], 'recalled': True}
    num_faults = len(faults.found)
    counts = _count(part, faults)
    if len(faults.found) == num_faults:
        cache.write([(key, counts)])
    return counts


def _is_one_file(part: BaseDataset) -> bool:
    """Whether the instances come from ``ann_file`` alone; who knows with classes from elsewhere."""
    own = isinstance(part, CocoDataset) and type(part).__module__.startswith('mmdet.')
    return own and not part.proposal_file and not part.backend_args


def _count(part: BaseDataset, faults: Faults) -> Counts:
    """Instances and images by class, the number of samples, and what the config leaves out."""
    content = _catch_content(part) if isinstance(part, CocoDataset) else _name_files(part)
    infos = read_annotations(part)
    note = _check_content(content, part, faults) if content else None
    instances, images = (np.zeros(len(part.metainfo['classes']), dtype=np.int64) for _ in range(2))
    for info, labels in zip(infos, _labels(infos, part.metainfo)):
        known = [label for label in labels if 0 <= label < len(instances)]
        if len(known) < len(labels):
            _name_unknown(labels, part, info, faults)
        np.add.at(instances, known, 1)
        images[np.unique(known).astype(int)] += 1
    counts = {'instances': instances.tolist(), 'images': images.tolist()}
    return {**counts, 'samples': len(infos), 'note': note}


def _name_unknown(
    labels: Sequence[int], part: BaseDataset, info: Mapping[str, Any], faults: Faults
) -> None:
    """Take note of labels beyond the classes."""
    num_classes = len(part.metainfo['classes'])
    for label in labels:
        if not 0 <= label < num_classes:
            category = f' (category {part.cat_ids[label]})' if hasattr(part, 'cat_ids') else ''
            faults.add(
                f'{source_of(part)}: label {label}{category} in image {info["img_path"]}, but the '
                f'data set has {num_classes} classes'
            )


def _catch_content(part: CocoDataset) -> dict[str, Any]:
    """A dict that will hold the annotation file, when the data set reads it.

    The data set tells nothing of the annotations that it passes over, and drops the file as soon as
    it has parsed it; a file of LVIS's size should not be read twice.
    """
    content: dict[str, Any] = {}
    parse = part.parse_data_info

    def parse_data_info(info: dict) -> Any:
        if not content:
            content.update((part.coco if hasattr(part, 'coco') else part.lvis).dataset)
        if isinstance(part, CocoPanopticDataset):
            _check_segments(info['raw_ann_info'], part)
        return parse(info)

    part.parse_data_info = parse_data_info
    return content


def _check_segments(segments: Iterable[Mapping[str, Any]], part: CocoPanopticDataset) -> None:
    """Raise CountError if mmdet cannot read the segments of an image."""
    for segment in segments:
        category, chosen = segment['category_id'], part.cat2label
        if category not in chosen:
            raise CountError(
                f'{part.ann_file}: segment {segment["id"]} of image {segment["image_id"]} has '
                f'category {category}, which is none of the {len(chosen)} classes of the config; '
                'mmdet reads panoptic files with all of their categories: metainfo.classes'
            )


def _name_files(part: BaseDataset) -> dict:
    """Let a data set with a file for each image, as VOC's, say which it cannot read; returns {}."""
    parse = part.parse_data_info

    def parse_data_info(info: dict) -> Any:
        try:
            return parse(info)
        except Exception as error:
            name = info.get('xml_path', info.get('img_path', info))
            raise CountError(f'{name} cannot be read: {type(error).__name__}: {error}') from error

    part.parse_data_info = parse_data_info
    return {}


def _check_content(content: Mapping[str, Any], part: CocoDataset, faults: Faults) -> Optional[str]:
    """Name annotations of unknown categories and images; say what the config leaves out.

    Of panoptic data, an annotation is of all segments of an image, and none can be left out.
    """
    names = {category['id']: category['name'] for category in content['categories']}
    images = {image['id']: image.get('file_name', image['id']) for image in content['images']}
    chosen, others = set(part.cat_ids), Counter()
    for annotation in content.get('annotations', ()):
        image, category = annotation['image_id'], annotation.get('category_id')
        where = f'{part.ann_file}: annotation {annotation.get("id")}'
        if image not in images:
            faults.add(f'{where} is of image {image}, which is not one of its images')
        elif 'category_id' in annotation and category not in names:
            where = f'{where} of image {images[image]}'
            faults.add(f'{where} has category {category}, which is not one of its categories')
        elif category in names and category not in chosen:
            others[names[category]] += 1
    if not others:
        return None
    ordered = [f'{name} ({number:,})' for name, number in others.most_common()]
    return (
        f'{part.ann_file}: the classes of the config leave out {sum(others.values()):,} '
        f'annotations of {len(others):,} categories: {listed(ordered, CATEGORIES_SHOWN)}'
    )
