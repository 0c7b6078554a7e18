"""What would fail late in an mmdet config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.logging import print_log

from ..engine import registered_class
from .metrics import REGIONS

# Arguments of mmdet's LVISMetric that ours has, too, and those that only decide what is printed.
KEPT = ('ann_file', 'metric', 'backend_args', 'collect_device', 'prefix')
LEFT_OUT = ('classwise', 'proposal_nums', 'metric_items', 'file_client_args')


def prepare(cfg: Config, *splits: str) -> None:
    """Put our metric in the place of mmdet's ``LVISMetric``, which dies with a numpy from 1.24 on.

    It does so in lvis-api, after the last image of an evaluation.

    Args:
        cfg: Of mmdet; its ``val_evaluator`` and ``test_evaluator`` may change.
        splits: Such as ``'val'``.

    Raises:
        ValueError: If it has options that ours has not.
    """
    if hasattr(np, 'float'):
        return
    for split in splits:
        key = f'{split}_evaluator'
        found = cfg.get(key)
        if isinstance(found, (list, tuple)):
            cfg[key] = [_replaced(each, key) for each in found]
        elif found is not None:
            cfg[key] = _replaced(found, key)


def _replaced(evaluator: Any, key: str) -> Any:
    if not isinstance(evaluator, Mapping):
        return evaluator
    if registered_class(evaluator.get('type'), METRICS) is not LVISMetric:
        return evaluator
    options = {name: value for name, value in evaluator.items() if name != 'type'}
    metric = options.get('metric', 'bbox')
    others = {metric} if isinstance(metric, str) else set(metric)
    lost = [f'metric {name}' for name in sorted(others - set(REGIONS))]
    lost += [name for name in options if name not in (*KEPT, *LEFT_OUT) and options[name]]
    if lost:
        raise ValueError(
            f"{key}: mmdet's LVISMetric fails with numpy {np.__version__} (lvis-api asks for "
            f'np.float), and LongTailLVISMetric in its place has no {", ".join(lost)}: leave that '
            'out, or install a numpy before 1.24'
        )
    print_log(
        f"{key}: mmdisalign's LongTailLVISMetric in the place of mmdet's LVISMetric, which fails "
        f'with numpy {np.__version__}.',
        'current',
    )
    kept = {name: options[name] for name in KEPT if name in options}
    return {'type': 'mmdisalign.detection.LongTailLVISMetric', **kept}
