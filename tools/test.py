"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

from __future__ import annotations

import argparse

from mmengine.config import Config

from mmdisalign import config_path
from mmdisalign.engine import check_checkpoint, check_data, launch


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are OpenMMLab's."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='where to save the predictions: a folder (mmseg), a .pkl (mmdet)',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='where to save the painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show waits')
    parser.add_argument('--tta', action='store_true', help='multi-scale and flip testing')
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the hook that paints predictions."""
    kind = 'DetVisualizationHook' if is_detector(cfg) else 'SegVisualizationHook'
    hook = cfg.default_hooks.get('visualization', {'type': kind})
    # OpenMMLab paints every 50th image by default.
    options = {'draw': True, 'interval': 1, 'show': args.show, 'wait_time': args.wait_time}
    cfg.default_hooks.visualization = {**hook, **options}
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir
        cfg.visualizer.vis_backends = [{'type': 'LocalVisBackend'}]


def use_tta(cfg: Config) -> None:
    """Test in several scales and flipped, as the config says or else as the paper segments."""
    if 'tta_pipeline' not in cfg and is_detector(cfg):
        raise ValueError('--tta needs tta_model and tta_pipeline in the config of a detector')
    tta = cfg if 'tta_pipeline' in cfg else Config.fromfile(config_path('_base_/tta_seg.py'))
    cfg.test_dataloader.dataset.pipeline = tta.tta_pipeline
    cfg.model = dict(tta.tta_model, module=cfg.model)


def save_predictions(cfg: Config, out: str) -> None:
    """Keep the predictions: mmseg's as label maps in a folder, mmdet's in a pickle file."""
    if not is_detector(cfg):
        cfg.test_evaluator.update(output_dir=out)
        return
    evaluators = cfg.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    cfg.test_evaluator = [*evaluators, {'type': 'DumpDetResults', 'out_file_path': out}]


def is_detector(cfg: Config) -> bool:
    """Whether the config is mmdet's."""
    return cfg.get('default_scope') == 'mmdet'


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    cfg = launch.load_config(args)
    cfg.load_from = args.checkpoint
    check_data(cfg, 'test')
    check_checkpoint(args.checkpoint)
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out:
        save_predictions(cfg, args.out)
    launch.build_runner(cfg).test()


if __name__ == '__main__':
    main()
