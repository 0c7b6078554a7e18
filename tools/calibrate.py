"""Calibrate a checkpoint in one pass: ``calibrate.py CONFIG CHECKPOINT --out calibrated.pth``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Union

from mmdisalign import cli
from mmdisalign.defaults import FIT_ON, IMAGES_PER_CLASS, PASSES, check_asked

UNITS = {'KB': 1e3, 'MB': 1e6, 'GB': 1e9, 'TB': 1e12}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser('Calibrate a trained model in one pass over its training data')
    parser.add_argument('config', type=Path, help='config of stage 1, or of ours of stage 2')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument(
        '--out',
        type=Path,
        required=True,
        help='checkpoint to write; its config is written beside it, with .py in the place of .pth',
    )
    parser.add_argument(
        '--prior', help='class frequencies; default: counted from the training data'
    )
    parser.add_argument(
        '--exp-scale',
        type=_exp_scale,
        help="ρ of disalign, or 'auto': that with the best balanced score on training images that "
        'are held out of the samples; default: that of a config of stage 2, else see --choose',
    )
    parser.add_argument(
        '--zero-count', type=_zero_count, help="weight of unseen classes: 'min', 'ignore', a count"
    )
    parser.add_argument(
        '--images-per-class',
        type=_per_class,
        help="pass so few images that each class is in about N, or 'all' of them; default: "
        + ', '.join(f'{number} in {plugin}' for plugin, number in IMAGES_PER_CLASS.items()),
    )
    parser.add_argument(
        '--passes',
        type=int,
        help='how often an image is passed, each time with other augmentation: at most, where a '
        f"class has few (default: {PASSES}), or with 'all' images (default: 1)",
    )
    parser.add_argument(
        '--cache-size', type=_num_bytes, default='1GB', help='bound of the samples; default: 1GB'
    )
    parser.add_argument(
        '--cache-dir', type=Path, help='where samples go, and stay; default: beside --out, removed'
    )
    parser.add_argument(
        '--method',
        default='disalign',
        help="a second-stage method, see docs/methods.md, or 'best' of all; default: disalign",
    )
    parser.add_argument(
        '--value', type=_value, help="the method's number, or name; default: it is chosen"
    )
    parser.add_argument(
        '--choose',
        choices=['val', 'train'],
        help='by which images ρ, or the method and its number, are chosen; default: val, where the '
        'config has labelled ones',
    )
    parser.add_argument(
        '--no-split-val',
        dest='split_val',
        action='store_false',
        help='let all validation images choose and report, not half of them each',
    )
    parser.add_argument(
        '--fit-on',
        choices=FIT_ON,
        default='train',
        help='what is fitted to: training images, the validation images that choose, both, or the '
        'best of these; default: train',
    )
    parser.add_argument(
        '--metric', help='what decides on validation images; default: top1, mIoU, AP (of boxes)'
    )
    parser.add_argument(
        '--fold',
        action='store_true',
        help='an error unless the result is a checkpoint of the stock config',
    )
    parser.add_argument('--seed', type=int, default=0, help='of augmentation and sampling')
    cli.add_config_options(parser)
    cli.add_launcher(parser)
    args = parser.parse_args()
    if args.exp_scale == 'auto' and args.method == 'disalign':
        if args.choose == 'val':
            parser.error('--exp-scale auto is --choose train: leave one of them out')
        args.choose, args.exp_scale = 'train', None
    try:
        check_asked(
            out=args.out,
            given=(args.config, args.checkpoint, args.prior),
            method=args.method,
            value=args.value,
            exp_scale=args.exp_scale,
            passes=args.passes,
        )
    except ValueError as error:
        parser.error(str(error))
    return args


def _exp_scale(text: str) -> Union[str, float]:
    if text == 'auto':
        return text
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"ρ is a number, or 'auto', got {text}") from None
    if not 0 <= number < float('inf'):
        raise argparse.ArgumentTypeError(f'ρ is at least 0, got {text}')
    return number


def _value(text: str) -> Union[str, float]:
    try:
        return float(text)
    except ValueError:
        return text


def _zero_count(text: str) -> Union[str, float]:
    if text in ('min', 'ignore'):
        return text
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'min', 'ignore' or a count, got {text}") from None
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'a count is above 0, got {text}')
    return number


def _per_class(text: str) -> Union[str, int]:
    if text != 'all' and not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"a number of at least 1, or 'all', got {text}")
    return text if text == 'all' else int(text)


def _num_bytes(text: str) -> float:
    number, unit = text[:-2], text[-2:].upper()
    if unit not in UNITS or not number.replace('.', '', 1).isdigit():
        raise argparse.ArgumentTypeError(f'a size is like 500MB or 2GB, got {text}')
    return float(number) * UNITS[unit]


def main() -> None:
    """Calibrate as the command line says."""
    args = parse_args()
    cli.check_files(args.config, args.checkpoint)
    from mmdisalign.onepass.calibrator import Calibrator
    from mmdisalign.onepass.options import Options
    from mmdisalign.processes import joined

    launcher, local_rank = args.launcher, args.local_rank
    del args.debug, args.launcher, args.local_rank
    with joined(launcher, local_rank):
        Calibrator(Options(**vars(args))).run()


if __name__ == '__main__':
    cli.run(main)
