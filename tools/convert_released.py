"""Convert a checkpoint of the released (cvpods) detectors for mmdet."""

from __future__ import annotations

import argparse

import torch

from mmdisalign.detection.released import convert_released_detector, load_released


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Convert a checkpoint of the released (cvpods) detectors for mmdet. The config '
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
    try:
        state_dict = convert_released_detector(load_released(args.checkpoint, args.trust))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    torch.save(dict(meta=dict(converted_from=args.checkpoint), state_dict=state_dict), args.out)
    calibrated = any('.calibration.' in name for name in state_dict)
    classes = len(state_dict['roi_head.bbox_head.fc_cls.weight']) - 1
    print(
        f'{len(state_dict)} tensors, {classes} classes, '
        f'{"calibrated" if calibrated else "not calibrated"}, written to {args.out}'
    )


if __name__ == '__main__':
    main()
