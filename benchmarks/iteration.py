"""What an iteration of stage 2 costs, over one of stage 1: the facade detector at 512 pixels."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint
from paired import compare
from stage2 import BENCH

CALIBRATED = 'mmdisalign.detection.CalibratedTwoStageDetector'
ANNOTATIONS = BENCH.parent / 'data/facade/annotations/facade_train.json'
SIZE = 512
BATCHES = 4


def run(pairs: int = 12) -> str:
    """Time training iterations of both stages, on the same images, in turns."""
    if not BENCH.is_dir():
        return f'iteration: not run, the stage-1 model and its data are not in {BENCH.parent}'
    sys.path.insert(0, str(BENCH))
    cfg = Config.fromfile(BENCH / 'facade_stage1.py')
    init_default_scope('mmdet')
    batches = list(_batches(cfg))
    stage1 = _iteration(cfg.model.copy(), cfg, batches)
    model = {**cfg.model, 'type': CALIBRATED, 'class_prior': str(ANNOTATIONS)}
    stage2 = _iteration(model, cfg, batches)
    times = compare(stage1, stage2, pairs)
    return f'Training iteration, Mask R-CNN, {SIZE}x{SIZE}, 4 images, stage 1 and 2: {times}'


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


def _iteration(model: dict, cfg: Config, batches: list[dict]) -> Callable[[], object]:
    detector = MODELS.build(model)
    load_checkpoint(detector, str(BENCH / 'facade_stage1.pth'))
    detector.train()
    # A rate of zero: the work is that of training, and the weights stay those of the checkpoint.
    wrapper = build_optim_wrapper(detector, {'optimizer': {'type': 'AdamW', 'lr': 0.0}})
    endless = itertools.cycle(batches)
    return lambda: detector.train_step(next(endless), wrapper)
