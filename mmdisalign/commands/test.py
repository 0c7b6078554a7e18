"""Evaluate a checkpoint."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from mmengine.config import Config

from .. import config_path
from ..engine import (
    check_calibration,
    check_checkpoint,
    check_data,
    check_keys,
    launch,
    plugin_of,
    prepare,
    registered_class,
)
from ..engine.stage import naming_checkpoint
from ..files import new_folders, where

# With reduce_zero_label, mmseg adds 1 to what it saves; 255 is what is ignored.
MOST_CLASSES = 254
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
        check_keys(cfg, 'visualizer')
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


def check_out(cfg: Config, out: str) -> None:
    """Raise ValueError if predictions cannot be saved so."""
    if cfg.default_scope != 'mmseg':
        if not out.endswith(('.pkl', '.pickle')):
            raise ValueError(f'--out {out}: predictions are saved in a pickle file, *.pkl')
        return
    if out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {out}: label maps are saved in a folder, name one')
    head = cfg.model.decode_head
    head = head[-1] if isinstance(head, (list, tuple)) else head
    classes = head.get('num_classes') or 0
    if classes > MOST_CLASSES:
        raise ValueError(
            f'--out: mmseg saves label maps of 8 bits, which do not hold {classes} classes (up to '
            f'{MOST_CLASSES} they do): leave --out out'
        )


def save_predictions(cfg: Config, out: str) -> None:
    """Keep the predictions: mmseg's as label maps in a folder, the others' in a pickle file."""
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if cfg.default_scope == 'mmseg':
        from mmseg.evaluation import IoUMetric
        from mmseg.registry import METRICS

        for evaluator in evaluators:
            if issubclass(registered_class(evaluator.get('type'), METRICS), IoUMetric):
                evaluator.update(output_dir=out)
                return
        raise ValueError('--out needs an IoUMetric, which saves label maps, in test_evaluator')
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
    check_keys(cfg, 'model', 'test_dataloader', 'test_evaluator')
    cfg.load_from = args.checkpoint
    check_data(cfg, 'test')
    check_checkpoint(args.checkpoint)
    prepare(cfg, 'test')
    if args.out:
        check_out(cfg, args.out)
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    with ExitStack() as stack:
        if args.out:
            save_predictions(cfg, args.out)
            print(f'The predictions will be written to {where(args.out)}.')
            is_folder = cfg.default_scope == 'mmseg'
            stack.enter_context(new_folders(args.out if is_folder else Path(args.out).parent))
        runner = launch.build_runner(cfg)
        check_calibration(runner.model, args.checkpoint)
        stack.enter_context(naming_checkpoint(args.checkpoint))
        runner.test()
        launch.finish(runner)
