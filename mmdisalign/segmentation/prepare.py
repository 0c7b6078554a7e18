"""What would fail, or be wrong without a word, in an mmseg config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from ..counting.counting import lazy_datasets, read_annotations
from ..engine import iter_datasets, registered_class
from .count import IGNORED, loading_transform
from .label_maps import CheckedLoadAnnotations, check_map

MAPS_LOOKED_AT = 64  # of a data set, evenly spaced: the files of one come from one program


def prepare(cfg: Config, *splits: str) -> None:
    """Look at the labels that the data sets of a config give, and that its heads take.

    Args:
        cfg: Of mmseg.
        splits: Such as ``'train'``.

    Raises:
        ValueError: If a label would be taken for another, or end a training in an IndexError.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for config in iter_datasets(loader.get('dataset')):
            if not issubclass(registered_class(config.get('type'), DATASETS), BaseSegDataset):
                continue
            ((_, dataset),) = lazy_datasets(config, DATASETS)
            if split == 'train':
                _check_heads(cfg.get('model') or {}, dataset)
            _check_maps(config, dataset)
            _check_when_loaded(config)


def _check_heads(model: Mapping[str, Any], dataset: BaseDataset) -> None:
    heads = model.get('decode_head') or []
    for head in heads if isinstance(heads, (list, tuple)) else [heads]:
        head = head.get('kernel_generate_head') or head  # K-Net's, which knows its classes
        ignored, num_classes = head.get('ignore_index', IGNORED), head.get('num_classes') or 0
        if dataset.reduce_zero_label and ignored != IGNORED:
            raise ValueError(
                f'decode_head.ignore_index={ignored}, but reduce_zero_label=True of '
                f'{type(dataset).__name__} makes {IGNORED} of the label 0, which then is no class: '
                f'leave ignore_index out of decode_head, or set it to {IGNORED}'
            )
        if ignored == IGNORED < num_classes:
            raise ValueError(
                f'decode_head.num_classes={num_classes}, but the label {IGNORED} is ignored, so a '
                'class would be: set ignore_index of decode_head and of the data set to a label '
                'that is no class'
            )


def _check_when_loaded(config: Any) -> None:
    """Let the pipeline of a data set look at each map: those looked at here are some of them."""
    for step in config.get('pipeline') or ():
        kind = step.get('type') if isinstance(step, dict) else None
        if kind is not None and registered_class(kind, TRANSFORMS) is LoadAnnotations:
            step['type'] = f'mmdisalign.segmentation.{CheckedLoadAnnotations.__name__}'


def _check_maps(config: Mapping[str, Any], dataset: BaseDataset) -> None:
    load = loading_transform(config.get('pipeline') or ())
    infos = read_annotations(dataset)
    chosen = np.linspace(0, len(infos) - 1, min(MAPS_LOOKED_AT, len(infos))).astype(int)
    for index in np.unique(chosen):
        if 'seg_map_path' in infos[index]:
            check_map(infos[index], load)
