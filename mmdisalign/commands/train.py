"""Train a model."""

from __future__ import annotations

import argparse

from ..engine import check_checkpoint, check_data, check_keys, launch, plugin_of, prepare
from ..engine.stage import naming_checkpoint
from ..files import is_full


def train(args: argparse.Namespace) -> None:
    """Train as the command line says; what would fail later is said before it starts.

    Raises:
        OSError: If a checkpoint cannot be written, or data are not there.
        ValueError: If config, data or checkpoint do not fit.
    """
    cfg = launch.load_config(args)
    plugin_of(cfg)  # or an error
    check_keys(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_data(cfg, 'train', 'val')
    prepare(cfg, 'train', 'val')
    if args.amp:
        launch.use_amp(cfg)
    if args.resume is not None:
        launch.resume(cfg, args.resume)
    check_checkpoint(cfg.get('load_from'))
    runner = launch.build_runner(cfg)
    try:
        with naming_checkpoint(cfg.get('load_from')):
            runner.train()
        launch.finish(runner)
    except (OSError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise OSError(
            f'a checkpoint cannot be written into {runner.work_dir}: the disk is full. Make room, '
            'and go on from the last one that is whole with --resume'
        ) from error
