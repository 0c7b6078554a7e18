"""Stage 2 of models that do not classify pixels by ``cls_seg``, iterative and in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from one_pass import OUT, Task
from stage2 import BENCH, REPO, importable

from mmdisalign.analysis import tables
from mmdisalign.commands.launch import run_tool

WAYS = ('iterative', 'one pass')
RETINANET_ITERATIONS = 1000  # of its config's 2,600: it is the difference to stage 2 that counts
MASK2FORMER_ITERATIONS = 1000  # all of its config's


def signs(seeds: Sequence[int]) -> str:
    """Mask R-CNN on road signs, from the checkpoint in ``../shared/bench``."""
    stage1 = BENCH / 'signs_stage1.pth'
    columns = [*tables.DETECTION, 'bbox_pooled_AP', 'segm_pooled_AP']
    return _table('signs', stage1, 'iter_400.pth', 400 * 4, columns, seeds)


def signs_retinanet(seeds: Sequence[int]) -> str:
    """RetinaNet on road signs; its stage 1 is trained first, unless it is there."""
    columns = [key for key in tables.DETECTION if key.startswith('bbox') and 'fixed' not in key]
    columns += ['bbox_pooled_AP', 'bbox_AR@300']  # what α and β can move, on sigmoids
    stage1 = _stage1('signs_retinanet', RETINANET_ITERATIONS)
    return _table('signs_retinanet', stage1, 'iter_400.pth', 400 * 4, columns, seeds)


def camvid_mask2former(seeds: Sequence[int]) -> str:
    """Mask2Former on CamVid; its stage 1 is trained first, unless it is there."""
    stage1 = _stage1('camvid_mask2former', MASK2FORMER_ITERATIONS)
    name, last = 'camvid_mask2former', 'iter_150.pth'
    return _table(name, stage1, last, 150 * 4, tables.SEGMENTATION, seeds)


def _stage1(name: str, iterations: int) -> Path:
    if not BENCH.is_dir():
        return Path()
    folder = OUT / f'{name}_stage1'
    options = [f'train_cfg.max_iters={iterations}', f'param_scheduler.1.end={iterations}']
    options += [f'default_hooks.checkpoint.interval={iterations // 4}', 'randomness.seed=0']
    options.append('train_cfg.val_begin=1000000')
    command = [BENCH / f'{name}_stage1.py', '--resume', '--work-dir', folder]
    _find_configs()
    run_tool('train', *command, '--cfg-options', *options, log=folder.with_suffix('.log'))
    return folder / f'iter_{iterations}.pth'


def _find_configs() -> None:
    importable(BENCH)


def _table(
    name: str, stage1: Path, last: str, iterated: int, columns: Sequence[str], seeds: Sequence[int]
) -> str:
    if not BENCH.is_dir():
        return f'{name}: not run, its stage-1 model and data are not in {BENCH.parent}'
    _find_configs()
    config = REPO / f'benchmarks/disalign_{name}.py'
    task = Task(name, config, stage1, last, iterated, columns)
    rows, _ = task.compare(seeds, WAYS)
    return task.table(rows)
