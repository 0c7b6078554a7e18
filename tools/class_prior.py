"""Count the classes of a config's training data: ``class_prior.py CONFIG [--out prior.json]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmdisalign.analysis.imbalance import describe
from mmdisalign.calibration import ClassPrior
from mmdisalign.engine import check_data
from mmdisalign.engine.counting import AnnotationFault, CountError, counter_of
from mmdisalign.engine.launch import plugin_of


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Count the pixels, instances or images of each class'
    )
    parser.add_argument('config', help='config file of mmseg, mmdet or mmpretrain')
    parser.add_argument('--split', default='train', choices=['train', 'val', 'test'])
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override the config'
    )
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
    prior = count(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        prior.to_json(args.out)
    print()
    for name, value in describe(prior):
        print(f'{name + ":":18} {value}')
    if not prior.counts.all():
        print('zero_count= on the model says how to weigh a class that was never seen')
    if args.figure:
        from mmdisalign.analysis.figures import plot_frequencies

        plot_frequencies(prior, args.figure)
        print(f'drawn into {args.figure}')
    if args.out:
        print(f'written to {args.out}')


def count(args: argparse.Namespace) -> ClassPrior:
    """Count the split of the config; ends the program if its data are at fault."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    plugin = plugin_of(cfg)
    if not cfg.get(f'{args.split}_dataloader'):
        raise ValueError(f'{args.config} has no {args.split}_dataloader')
    check_data(cfg, args.split)
    init_default_scope(cfg.default_scope)
    try:
        return counter_of(plugin)(
            cfg[f'{args.split}_dataloader'].dataset, skip_errors=args.skip_errors
        )
    except CountError as error:
        hint = '; --skip-errors leaves it out and counts the rest'
        hint = hint if isinstance(error, AnnotationFault) else ''
        sys.exit(f'{args.config}, {args.split} split: {error}{hint}')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
