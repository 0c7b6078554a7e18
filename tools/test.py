"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

from __future__ import annotations

import argparse

from mmengine.config import Config

from mmdisalign import config_path
from mmdisalign.engine import check_calibration, check_checkpoint, check_data, launch

PAINTERS = {
    'mmseg': 'SegVisualizationHook',
    'mmdet': 'DetVisualizationHook',
    'mmpretrain': 'VisualizationHook',
}


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are OpenMMLab's."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='where to save the predictions: a folder (mmseg), a .pkl (mmdet, mmpretrain)',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='where to save the painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show waits')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip testing')
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the hook that paints predictions; OpenMMLab's own paints few of the images."""
    kind = PAINTERS[cfg.default_scope]
    hook = cfg.default_hooks.get('visualization', {'type': kind})
    options = {'interval': 1, 'show': args.show, 'wait_time': args.wait_time}
    if cfg.default_scope == 'mmpretrain':
        cfg.default_hooks.visualization = {
            **hook,
            **options,
            'enable': True,
            'out_dir': args.show_dir,
        }
        return
    cfg.default_hooks.visualization = {**hook, **options, 'draw': True}
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


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    cfg = launch.load_config(args)
    launch.plugin_of(cfg)  # or an error
    cfg.load_from = args.checkpoint
    check_data(cfg, 'test')
    check_checkpoint(args.checkpoint)
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out:
        save_predictions(cfg, args.out)
    runner = launch.build_runner(cfg)
    check_calibration(runner.model, args.checkpoint)
    runner.test()


if __name__ == '__main__':
    main()
