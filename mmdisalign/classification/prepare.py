"""What would fail late in an mmpretrain config."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmpretrain.datasets import MultiLabelDataset
from mmpretrain.registry import DATASETS, METRICS

from ..engine import iter_datasets, registered_class
from .metrics import LongTailAccuracy, LongTailAveragePrecision

# The metric of images with one label, and that of images with several.
ONE, SEVERAL = LongTailAccuracy, LongTailAveragePrecision


def prepare(cfg: Config, *splits: str) -> None:
    """Refuse a metric of ours that would end with the first batch of an evaluation.

    Args:
        cfg: Of mmpretrain.
        splits: Such as ``'val'``.

    Raises:
        ValueError: If images with several labels are to be evaluated as if they had one, or the
            other way round.
    """
    for split in splits:
        evaluators = cfg.get(f'{split}_evaluator') or []
        evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
        kinds = {
            registered_class(own['type'], METRICS)
            for own in evaluators
            if isinstance(own, Mapping) and 'type' in own
        }
        for dataset in iter_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            several = issubclass(registered_class(dataset['type'], DATASETS), MultiLabelDataset)
            wrong, right = (ONE, SEVERAL) if several else (SEVERAL, ONE)
            if wrong in kinds:
                raise ValueError(
                    f'{split}_evaluator: {wrong.__name__} is of images with '
                    f'{"one label" if several else "several labels"}, and '
                    f'{split}_dataloader has others: take {right.__name__}'
                )
