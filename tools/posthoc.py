"""Rebalance a trained classifier without training it.

    python tools/posthoc.py METHOD CONFIG CHECKPOINT OUT

Writes a checkpoint for the same config. τ and γ are chosen by a metric on the config's validation
data, unless --value says what to take.
"""

from __future__ import annotations

import argparse

from mmdisalign import cli

NEEDS_PRIOR = {'tau-norm': False, 'logit-adjustment': True, 'norcal': True}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser('Rebalance a classifier without training')
    parser.add_argument('method', choices=[*NEEDS_PRIOR, 'ncm'], help='what to do')
    parser.add_argument('config', help='config file; for ncm, of a model with a CosineClsHead')
    parser.add_argument('checkpoint', help='checkpoint of stage 1')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument('--prior', help='class prior: a file or the name of a table')
    parser.add_argument('--unit', choices=['instances', 'images'], help='what the prior counts')
    parser.add_argument('--value', type=float, nargs='+', help='τ or γ; of several, the best')
    parser.add_argument('--metric', help='what is compared, the higher the better')
    cli.add_runner_arguments(parser)
    args = parser.parse_args()
    if args.launcher != 'none':
        parser.error('it runs in one process: leave --launcher out')
    if NEEDS_PRIOR.get(args.method) and not args.prior:
        parser.error(f'{args.method} needs class frequencies: --prior')
    if args.method == 'ncm' and (args.value or args.metric):
        parser.error('ncm has nothing to choose: leave --value and --metric out')
    return args


def main() -> None:
    """Do what the command line says."""
    args = parse_args()
    cli.check_files(args.config, args.checkpoint)
    from mmdisalign.commands.posthoc import posthoc

    posthoc(args)


if __name__ == '__main__':
    cli.run(main)
