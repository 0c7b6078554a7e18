"""Is the data where the config says it is? Asked before anything is built."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .derive import type_name

ADE20K_LAYOUT = (
    "ADE20K (SceneParsing, 150 classes) is expected in mmseg's layout, {root}/annotations and "
    '{root}/images, each with training (20,210 files) and validation (2,000). Get '
    'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unzip it there, or '
    'name its folder with --cfg-options train_dataloader.dataset.data_root=DIR '
    'val_dataloader.dataset.data_root=DIR test_dataloader.dataset.data_root=DIR'
)
# Where a list of images comes from, by the beginning of its name.
IMAGE_LISTS = {
    'ImageNet_LT_': """\
ImageNet-LT (Liu et al. 2019: 1,000 classes, 115,846 training images).
Lists: https://github.com/zhmiao/OpenLongTailRecognition-OLTR, for ann_file.
Images: ImageNet-2012, https://image-net.org, in the folders that the lists name:
train/n01440764/*.JPEG and val/n01440764/*.JPEG, below data_prefix.""",
    'Places_LT_': """\
Places-LT (Liu et al. 2019: 365 classes, 62,500 training images).
Lists: https://github.com/zhmiao/OpenLongTailRecognition-OLTR, for ann_file.
Images: Places365-Standard, http://places2.csail.mit.edu/download.html, small images with easy
directory structure, in the folders that the lists name, below data_prefix.""",
    'iNaturalist18_': """\
iNaturalist 2018 (8,142 classes, 437,513 training images).
Lists: https://github.com/facebookresearch/classifier-balancing, data/iNaturalist18, for ann_file.
Images: https://github.com/visipedia/inat_comp/tree/master/2018, in the folders that the lists name,
train_val2018/Plantae/7477/*.jpg, below data_prefix.""",
}
# Data sets of mmpretrain, and of ours on top, that are downloaded where they are missing.
DOWNLOADED = ('CIFAR10', 'CIFAR100', 'CIFAR10LT', 'CIFAR100LT', 'MNIST', 'FashionMNIST')


def check_data(cfg: Mapping[str, Any], *splits: str) -> None:
    """Raise FileNotFoundError if a data set of the config is not on disk.

    Args:
        cfg: An OpenMMLab config.
        splits: Which of its data loaders will be used: ``'train'``, ``'val'``, ``'test'``.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for dataset in iter_datasets(loader.get('dataset') if loader else None):
            missing = [path for path in dict.fromkeys(_paths(dataset)) if not path.exists()]
            if missing:
                raise FileNotFoundError(_explain(split, dataset, missing))


def iter_datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The data sets below wrappers such as RepeatDataset and ConcatDataset."""
    if not isinstance(dataset, Mapping):
        return
    inner = inner_datasets(dataset)
    if not inner:
        yield dataset
    for child in inner:
        yield from iter_datasets(child)


def inner_datasets(dataset: Mapping[str, Any]) -> Sequence[Any]:
    """What a wrapper wraps; of a data set, nothing."""
    return dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else [])


def only_dataset(dataset: Any) -> Mapping[str, Any]:
    """The config of the one data set below wrappers.

    Raises:
        ValueError: If there are several.
    """
    found = list(iter_datasets(dataset))
    if len(found) != 1:
        raise ValueError(
            f'the test data is {len(found)} data sets in one, whose predictions cannot be told '
            'apart: give a config of one of them'
        )
    return found[0]


def _paths(dataset: Mapping[str, Any]) -> Iterator[Path]:
    kind = type_name(dataset.get('type'))
    if kind in DOWNLOADED and dataset.get('download', True):
        return
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or ''
    folders = [prefix] if isinstance(prefix, str) else prefix.values()
    for name in (dataset.get('ann_file'), *folders):
        if isinstance(name, str) and _is_local(root) and _is_local(name):
            yield Path(root) / os.path.expanduser(name)
    if kind == 'CustomDataset' and isinstance(prefix, str) and _is_local(root + prefix):
        yield from _listed_folder(Path(root), prefix, dataset.get('ann_file') or '')
    metainfo = dataset.get('metainfo') or {}
    classes = dataset.get('classes') or metainfo.get('classes')
    if isinstance(classes, str) and _is_local(classes):  # a file of names, not below data_root
        yield Path(os.path.expanduser(classes))


def _listed_folder(root: Path, prefix: str, ann_file: str) -> Iterator[Path]:
    """The folder that the first line of a ``path label`` list begins with, if the list is there."""
    path = root / os.path.expanduser(ann_file)
    if not ann_file or not path.is_file():
        return
    with path.open(encoding='utf-8') as lines:
        parts = Path(next(lines, '').rpartition(' ')[0]).parts
    if len(parts) > 1 and _is_local(parts[0]):
        yield root / os.path.expanduser(prefix) / parts[0]


def _is_local(path: str) -> bool:
    """Whether a path is on disk; remote storage (s3://, petrel://) is its file client's affair."""
    return '://' not in path


def _explain(split: str, dataset: Mapping[str, Any], missing: list[Path]) -> str:
    paths = ', '.join(str(path) for path in missing)
    kind = type_name(dataset.get('type'))
    given = dataset.get('type')
    name = given if isinstance(given, str) else kind
    message = f'the {split} data ({name}) is not there: {paths} (from {Path.cwd()})'
    if kind == 'ADE20KDataset':
        return f'{message}\n{ADE20K_LAYOUT.format(root=dataset["data_root"])}'
    ann_file = Path(str(dataset.get('ann_file'))).name
    sources = [text for name, text in IMAGE_LISTS.items() if ann_file.startswith(name)]
    settings = 'data_root, data_prefix, ann_file and metainfo.classes'
    return '\n'.join([message, *sources, f'Look at {settings} of {split}_dataloader.dataset.'])
