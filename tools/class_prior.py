"""Count the classes of a config's training data: ``class_prior.py CONFIG [--out prior.json]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdisalign import cli


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser('Count the pixels, instances or images of each class')
    parser.add_argument('config', help='config file of mmseg, mmdet or mmpretrain')
    parser.add_argument('--split', default='train', choices=['train', 'val', 'test'])
    cli.add_config_options(parser)
    parser.add_argument('--out', type=Path, help='JSON file to write, which ClassPrior reads')
    parser.add_argument('--figure', type=Path, help='frequency by rank, drawn into this file')
    parser.add_argument(
        '--skip-errors',
        action='store_true',
        help='leave out annotations that are unreadable or of an unknown class, and print which',
    )
    return parser.parse_args()


def main() -> None:
    """Count and write as the command line says."""
    args = parse_args()
    cli.check_files(args.config)
    from mmdisalign.commands.class_prior import class_prior

    class_prior(args)


if __name__ == '__main__':
    cli.run(main)
