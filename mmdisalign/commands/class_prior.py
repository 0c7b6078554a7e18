"""Count the classes of a config's data."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from mmengine.registry import init_default_scope

from ..analysis.imbalance import describe
from ..calibration import ClassPrior
from ..counting.counting import AnnotationFault, CountError, counter_of
from ..engine import check_data, check_keys, plugin_of, read_config
from ..files import check_file, new_folders, where


def class_prior(args: argparse.Namespace) -> None:
    """Count and write as the command line says.

    Raises:
        CountError: If the data are at fault; the message names the file.
        OSError: If a file is not there, or cannot be written.
        ValueError: If the config does not fit.
    """
    with ExitStack() as stack:
        for path in filter(None, (args.out, args.figure)):
            check_file(path)
            print(f'Will be written: {where(path)}')
            stack.enter_context(new_folders(path.parent))
        prior = _count(args)
        if args.out:
            prior.to_json(args.out)
        _show(prior, args)


def _show(prior: ClassPrior, args: argparse.Namespace) -> None:
    print()
    for name, value in describe(prior):
        print(f'{name + ":":18} {value}')
    if not prior.counts.all():
        print('zero_count= on the model says how to weigh a class that was never seen')
    if args.figure:
        from ..analysis.figures import plot_frequencies

        plot_frequencies(prior, args.figure)
        print(f'drawn into {args.figure}')
    if args.out:
        print(f'written to {args.out}')


def _count(args: argparse.Namespace) -> ClassPrior:
    """Count the split of the config."""
    cfg = read_config(args.config, args.cfg_options)
    plugin = plugin_of(cfg)
    check_keys(cfg, f'{args.split}_dataloader')
    check_data(cfg, args.split)
    init_default_scope(cfg.default_scope)
    try:
        return counter_of(plugin)(
            cfg[f'{args.split}_dataloader'].dataset, skip_errors=args.skip_errors
        )
    except CountError as error:
        hint = '; --skip-errors leaves it out and counts the rest'
        hint = hint if isinstance(error, AnnotationFault) else ''
        raise CountError(f'{args.config}, {args.split} split: {error}{hint}') from error
