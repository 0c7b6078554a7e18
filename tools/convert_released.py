"""Convert a checkpoint of the released (cvpods) detectors for mmdet."""

from __future__ import annotations

import argparse

from mmdisalign import cli


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.tool_parser(
        'Convert a checkpoint of the released (cvpods) detectors for mmdet. The config '
        'needs the released preprocessing and ResNet: BGR, standard deviation 1, caffe style.'
    )
    parser.add_argument('checkpoint', help='.pth or .pkl of cvpods or detectron2')
    parser.add_argument('out', help='.pth to write')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='read files that can run code when they are read: any .pkl, and some .pth',
    )
    return parser.parse_args()


def main() -> None:
    """Convert as the command line says."""
    args = parse_args()
    cli.check_files(args.checkpoint)
    from mmdisalign.commands.convert_released import convert_released

    convert_released(args)


if __name__ == '__main__':
    cli.run(main)
