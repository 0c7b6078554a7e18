"""Train a model: ``python tools/train.py CONFIG``."""

from __future__ import annotations

import argparse

from mmdisalign import cli


def parse_args() -> argparse.Namespace:
    """Read the command line; the arguments are OpenMMLab's."""
    parser = cli.tool_parser('Train a model')
    parser.add_argument('config', help='config file')
    cli.add_runner_arguments(parser)
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
    cli.check_files(args.config)
    from mmdisalign.commands.train import train

    train(args)


if __name__ == '__main__':
    cli.run(main)
