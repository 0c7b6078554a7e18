"""Evaluate a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from .. import config_path
from ..engine import check_calibration, check_checkpoint, check_data, launch, plugin_of, prepare
from ..engine.stage import naming_checkpoint
from ..files import where

PAINTERS = {
    'mmseg': 'SegVisualizationHook',
    'mmdet': 'DetVisualizationHook',
    'mmpretrain': 'VisualizationHook',
}


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the hook that paints predictions; OpenMMLab's own paints few of the images."""
    kind = PAINTERS[cfg.default_scope]
    hooks = cfg.setdefault('default_hooks', {})
    hook = hooks.get('visualization', {'type': kind})
    options = {'interval': 1, 'show': args.show, 'wait_time': args.wait_time}
    if cfg.default_scope == 'mmpretrain':
        hooks['visualization'] = {
            **hook,
            **options,
            'enable': True,
            'out_dir': args.show_dir,
        }
        return
    hooks['visualization'] = {**hook, **options, 'draw': True}
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir
        cfg.visualizer.vis_backends = [{'type': 'LocalVisBackend'}]


def use_tta(cfg: Config) -> None:
    """Test in several scales and flipped, as the config says or else as the paper segments."""
    if 'tta_pipeline' not in cfg and cfg.default_scope != 'mmseg':
        raise ValueError(
            f'--tta needs tta_model and tta_pipeline in a config of {cfg.default_scope}'
        )
    tta = cfg if 'tta_pipeline' in cfg else Config.fromfile(config_path('_base_/tta_seg.py'))
    cfg.test_dataloader.dataset.pipeline = tta.tta_pipeline
    cfg.model = dict(tta.tta_model, module=cfg.model)


def save_predictions(cfg: Config, out: str) -> None:
    """Keep the predictions: mmseg's as label maps in a folder, the others' in a pickle file."""
    if cfg.default_scope == 'mmseg':
        cfg.test_evaluator.update(output_dir=out)
        return
    evaluators = cfg.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    kind = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    # First, so that what was predicted is kept if a metric fails, as LVIS's does on numpy 1.24.
    cfg.test_evaluator = [{'type': kind, 'out_file_path': out}, *evaluators]


def test(args: argparse.Namespace) -> None:
    """Evaluate as the command line says; what would fail later is said before it starts.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If config, data or checkpoint do not fit.
    """
    cfg = launch.load_config(args)
    plugin_of(cfg)  # or an error
    cfg.load_from = args.checkpoint
    check_data(cfg, 'test')
    check_checkpoint(args.checkpoint)
    prepare(cfg, 'test')
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out:
        save_predictions(cfg, args.out)
        print(f'The predictions will be written to {where(Path(args.out))}.')
    runner = launch.build_runner(cfg)
    check_calibration(runner.model, args.checkpoint)
    with naming_checkpoint(args.checkpoint):
        runner.test()
