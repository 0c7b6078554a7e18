"""Road signs: stage 2 of a two-stage detector and of one on sigmoids, iterative and in one pass."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from one_pass import OUT, Task
from stage2 import BENCH, REPO

from mmdisalign.analysis import tables
from mmdisalign.engine.commands import run_tool

WAYS = ('iterative', 'one pass')
ITERATIONS = 1000  # of the 2,600 that its config has: it is the difference to stage 2 that counts


def mask_rcnn(seeds: Sequence[int]) -> str:
    """Mask R-CNN, from the checkpoint in ``../shared/bench``."""
    return _table('signs', BENCH / 'signs_stage1.pth', tables.DETECTION, seeds)


def retinanet(seeds: Sequence[int]) -> str:
    """RetinaNet; its stage 1 is trained first, unless it is there."""
    columns = [key for key in tables.DETECTION if key.startswith('bbox') and 'fixed' not in key]
    columns += ['bbox_pooled_AP', 'bbox_AR@300']  # what α and β can move, on sigmoids
    return _table('signs_retinanet', _stage1() if BENCH.is_dir() else Path(), columns, seeds)


def _stage1() -> Path:
    folder = OUT / 'signs_retinanet_stage1'
    options = [f'train_cfg.max_iters={ITERATIONS}', f'param_scheduler.1.end={ITERATIONS}']
    options += [f'default_hooks.checkpoint.interval={ITERATIONS // 4}', 'randomness.seed=0']
    command = [BENCH / 'signs_retinanet_stage1.py', '--resume', '--work-dir', folder]
    os.environ['PYTHONPATH'] = os.pathsep.join([str(BENCH), os.environ.get('PYTHONPATH', '')])
    options.append('train_cfg.val_begin=1000000')
    run_tool('train', *command, '--cfg-options', *options, log=folder.with_suffix('.log'))
    return folder / f'iter_{ITERATIONS}.pth'


def _table(name: str, stage1: Path, columns: Sequence[str], seeds: Sequence[int]) -> str:
    if not BENCH.is_dir():
        return f'{name}: not run, its stage-1 model and data are not in {BENCH.parent}'
    os.environ['PYTHONPATH'] = os.pathsep.join([str(BENCH), os.environ.get('PYTHONPATH', '')])
    config = REPO / f'benchmarks/disalign_{name}.py'
    task = Task(name, config, stage1, 'iter_400.pth', 400 * 4, columns)
    rows, _ = task.compare(seeds, WAYS)
    return task.table(rows)
