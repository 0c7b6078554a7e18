"""Train a model: ``python tools/train.py CONFIG``."""

from __future__ import annotations

import argparse

from mmdisalign.engine import check_checkpoint, check_data, launch


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are OpenMMLab's."""
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='config file')
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, by default from the last one in the work_dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    return parser.parse_args()


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    cfg = launch.load_config(args)
    check_data(cfg, 'train', 'val')
    if args.amp:
        launch.use_amp(cfg)
    if args.resume is not None:
        launch.resume(cfg, args.resume)
    check_checkpoint(cfg.get('load_from'))
    launch.build_runner(cfg).train()


if __name__ == '__main__':
    main()
