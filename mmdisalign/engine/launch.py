"""From a command line to an mmengine Runner, with or without a GPU."""

from __future__ import annotations

import argparse
import gc
import os
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from ..processes import join, leave
from .configs import read_config
from .derive import type_name

SYNC_BN = ('SyncBN', 'SyncBatchNorm')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of ``add_runner_arguments`` and settle its launcher and work_dir."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def resume(cfg: Config, checkpoint: str) -> None:
    """Make the run go on from a checkpoint, or with ``'auto'`` from the last one in its work_dir.

    mmengine takes ``load_from`` for what is to be resumed, which in stage 2 is the stage-1
    checkpoint. Where there is nothing to resume yet, the run starts as it would without.
    """
    if checkpoint == 'auto':
        checkpoint = find_latest_checkpoint(cfg.work_dir)
        if checkpoint == '':  # a kill while its name was written: it was saved before
            saved = (Path(cfg.work_dir).glob(f'{unit}_*.pth') for unit in ('iter', 'epoch'))
            checkpoint = max(map(str, chain(*saved)), key=os.path.getmtime, default=None)
        if checkpoint is None:
            print_log(f'Nothing to resume in {cfg.work_dir}: training starts.', 'current')
            return
    cfg.resume = True
    cfg.load_from = checkpoint


def use_amp(cfg: Config) -> None:
    """Train in mixed precision: float16 with a loss scale on a GPU, bfloat16 on the CPU."""
    wrappers = {
        'cpu': {'type': 'CPUAmpOptimWrapper'},
        'cuda': {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'},
    }
    wrapper = wrappers['cpu' if get_device() == 'cpu' else 'cuda']
    if get_device() == 'cpu' and cfg.get('default_scope') == 'mmdet':
        raise ValueError("--amp needs a GPU for detectors: mmcv's NMS takes no bfloat16")
    current = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if current not in ('OptimWrapper', *(known['type'] for known in wrappers.values())):
        raise ValueError(
            f'--amp needs optim_wrapper.type OptimWrapper, but the config has {current}'
        )
    cfg.optim_wrapper.pop('loss_scale', None)
    cfg.optim_wrapper.update(wrapper)


def build_runner(cfg: Config) -> Runner:
    """Build the runner, after preparing what mmengine takes for granted on a GPU."""
    if cfg.launcher != 'none' and get_device() == 'cpu':
        _init_gloo(cfg)
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def finish(runner: Runner) -> None:
    """Leave the group of processes that :func:`build_runner` has joined; the runner is done then.

    What gloo has running in the background could otherwise end a process that has done its work
    with an abort, and with it the launch. It ends once nothing holds the group, as DDP does.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        runner.model = None
        gc.collect()
        leave()


def _init_gloo(cfg: Config) -> None:
    """Start the processes' group without a GPU, where mmengine would ask CUDA for a device."""
    join(cfg.launcher)
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'device_ids': None,
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    if _replace_sync_bn(cfg.model):
        print_log('SyncBN needs a GPU: BN takes its place.', 'current')


def _replace_sync_bn(cfg: Any) -> bool:
    """Turn every ``type='SyncBN'``, or its class, into BN; returns whether there was one."""
    found = False
    if isinstance(cfg, dict):
        if type_name(cfg.get('type')) in SYNC_BN:
            cfg['type'] = 'BN'
            found = True
        children = list(cfg.values())
    else:
        children = list(cfg) if isinstance(cfg, (list, tuple)) else []
    for child in children:
        found = _replace_sync_bn(child) or found
    return found
