"""DisAlign from end to end on synthetic scenes: train, calibrate, evaluate, compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdisalign import cli
from mmdisalign.defaults import DEMO_TASKS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser('Train, calibrate, evaluate and compare on synthetic scenes')
    parser.add_argument(
        'tasks', nargs='*', metavar='TASK', help=f'{", ".join(DEMO_TASKS)}; default: all'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes and of training')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'), help='where to write')
    args = parser.parse_args()
    if unknown := set(args.tasks) - set(DEMO_TASKS):
        parser.error(f'no such task: {", ".join(sorted(unknown))}')
    return args


def main() -> None:
    """Run the demo."""
    args = parse_args()
    from mmdisalign.commands.demo import demo

    demo(args)


if __name__ == '__main__':
    cli.run(main)
