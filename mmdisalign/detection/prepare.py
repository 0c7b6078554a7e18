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
DYING = (LVISMetric, *filter(None, [METRICS.get('LVISFixedAPMetric')]))
LEFT_OUT = ('classwise', 'proposal_nums', 'metric_items', 'file_client_args')


def prepare(cfg: Config, *splits: str) -> None:
    """Put our metric in the place of mmdet's for LVIS, which die with a numpy from 1.24 on.

    They do so in lvis-api, after the last image of an evaluation. That is looked at in a training,
    too, and in what :mod:`mmdisalign.commands.calibrate` writes: whatever the splits are.

    Args:
        cfg: Of mmdet; its ``val_evaluator`` and ``test_evaluator`` may change.
        splits: Such as ``'val'``.

    Raises:
        ValueError: If a metric has options that ours has not.
    """
    if hasattr(np, 'float'):
        return
    for key in ('val_evaluator', 'test_evaluator'):
        if cfg.get(key) is not None:
            cfg[key] = _replaced(cfg[key], key)


def _replaced(evaluator: Any, key: str) -> Any:
    """An evaluator, several, or mmengine's ``dict(metrics=...)``, with ours for LVIS's."""
    if isinstance(evaluator, (list, tuple)):
        return [_replaced(each, key) for each in evaluator]
    if not isinstance(evaluator, Mapping):
        return evaluator
    if 'metrics' in evaluator:
        return {**evaluator, 'metrics': _replaced(evaluator['metrics'], key)}
    kind = registered_class(evaluator.get('type'), METRICS)
    if kind not in DYING or evaluator.get('format_only'):
        return evaluator
    options = {name: value for name, value in evaluator.items() if name != 'type'}
    metric = options.get('metric', 'bbox')
    others = {metric} if isinstance(metric, str) else set(metric)
    lost = [f'metric {name}' for name in sorted(others - set(REGIONS))]
    lost += [name for name in options if name not in (*KEPT, *LEFT_OUT) and options[name]]
    if lost:
        raise ValueError(
            f"{key}: mmdet's {kind.__name__} fails with numpy {np.__version__} (lvis-api asks for "
            f'np.float), and LongTailLVISMetric in its place has no {", ".join(lost)}: leave that '
            'out, or install a numpy before 1.24'
        )
    print_log(
        f"{key}: mmdisalign's LongTailLVISMetric in the place of mmdet's {kind.__name__}, which "
        f'fails with numpy {np.__version__}.',
        'current',
    )
    kept = {name: options[name] for name in KEPT if name in options}
    return {'type': 'mmdisalign.detection.LongTailLVISMetric', **kept}
