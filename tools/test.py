"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

from __future__ import annotations

import argparse

from mmdisalign import cli


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are OpenMMLab's."""
    parser = cli.tool_parser('Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    cli.add_runner_arguments(parser)
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


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    cli.check_files(args.config, args.checkpoint)
    from mmdisalign.commands.test import test

    test(args)


if __name__ == '__main__':
    cli.run(main)
