"""Compare evaluations in a report: ``analyze.py BEFORE AFTER --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdisalign import cli


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser('Show what calibration did: a page to read, figures as PNG and SVG')
    parser.add_argument(
        'results',
        nargs='+',
        type=Path,
        metavar='RESULT',
        help='two or more, what is compared with first: the JSON of test_evaluator.result_file, or '
        'what test.py --out saved, which needs --config',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    parser.add_argument('--names', nargs='+', help='what to call the results')
    parser.add_argument('--title', default='Long-tail report', help='heading of the page')
    parser.add_argument('--prior', help='class frequencies: what class_prior takes as a string')
    parser.add_argument('--config', help='config whose test data was predicted; of stage 2')
    cli.add_config_options(parser)
    parser.add_argument('--checkpoint', help='DisAlign checkpoint, to show its α and β')
    parser.add_argument(
        '--confidence-images',
        type=int,
        default=32,
        metavar='N',
        help='test images to observe σ(x) on, with --checkpoint and --config; default: 32',
    )
    parser.add_argument(
        '--images',
        type=int,
        default=0,
        metavar='N',
        help='show the N images whose predictions of the rarest group changed most; needs '
        'predictions of test.py --out; of more than two, the first and the last are compared',
    )
    parser.add_argument(
        '--intervals',
        action='store_true',
        help='show how sure a gain is: its 95 %% interval by a bootstrap over the images; needs '
        'predictions of test.py --out',
    )
    args = parser.parse_args()
    if len(args.results) < 2:
        parser.error('give two results or more, what is compared with first')
    if args.names is not None and len(args.names) != len(args.results):
        parser.error(f'{len(args.results)} results, but {len(args.names)} names')
    return args


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    cli.check_files(*args.results, args.config, args.checkpoint)
    from mmdisalign.commands.analyze import analyze

    analyze(args)


if __name__ == '__main__':
    cli.run(main)
