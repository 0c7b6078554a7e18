"""What an iteration of stage 2 costs, over one of stage 1: the facade detector at 512 pixels."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from paired import compare
from stage2 import BENCH

SIZE = 512
BATCHES = 4


def run(pairs: int = 12) -> str:
    """Time training iterations of both stages, on the same images, in turns."""
    if not BENCH.is_dir():
        return f'iteration: not run, the stage-1 model and its data are not in {BENCH.parent}'
    sys.path.insert(0, str(BENCH))
    stages = [BENCH / 'facade_stage1.py', Path(__file__).with_name('disalign_facade.py')]
    cfgs = [Config.fromfile(path) for path in stages]
    init_default_scope('mmdet')
    batches = list(_batches(cfgs[0]))
    # The benchmark samples 512 proposals of an image where stage 1 samples 128.
    samplers = [cfg.model.train_cfg.rcnn.sampler for cfg in cfgs]
    lines = []
    for num in sorted({sampler.num for sampler in samplers}):
        samplers[1].num = num
        stage1, stage2 = (_iteration(cfg.model, batches) for cfg in cfgs)
        times = compare(stage1, stage2, pairs)
        lines.append(
            f'- {samplers[0].num} proposals an image in stage 1, {num} in stage 2: {times}'
        )
    return f'Training iteration, Mask R-CNN, {SIZE}x{SIZE}, 4 images\n\n' + '\n'.join(lines)


def _batches(cfg: Config) -> Iterator[dict]:
    """Some batches, loaded beforehand: loading is no part of what is timed."""
    loader = cfg.train_dataloader
    for step in loader.dataset.pipeline:
        if step.type == 'RandomResize':
            step.update(scale=(SIZE, SIZE), ratio_range=(1.0, 1.0))
    dataset = DATASETS.build(loader.dataset)
    for batch in range(BATCHES):
        indices = range(batch * loader.batch_size, (batch + 1) * loader.batch_size)
        yield pseudo_collate([dataset[index] for index in indices])


def _iteration(model: dict, batches: list[dict]) -> Callable[[], object]:
    # mmdet writes into the config that it builds from.
    detector = MODELS.build(copy.deepcopy(model))
    load_checkpoint(detector, str(BENCH / 'facade_stage1.pth'))
    detector.train()
    # A rate of zero: the work is that of training, and the weights stay those of the checkpoint.
    wrapper = build_optim_wrapper(detector, {'optimizer': {'type': 'AdamW', 'lr': 0.0}})
    endless = itertools.cycle(batches)
    return lambda: detector.train_step(next(endless), wrapper)
