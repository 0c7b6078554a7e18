"""Convert a checkpoint of the released (cvpods) detectors for mmdet."""

from __future__ import annotations

import argparse

import torch

from ..detection.released import convert_released_detector, load_released
from ..files import check_file, where, written_whole


def convert_released(args: argparse.Namespace) -> None:
    """Convert as the command line says.

    Raises:
        OSError: If a file is not there, or cannot be written.
        ValueError: If it is no such checkpoint, or its content needs ``--trust``.
    """
    check_file(args.out)
    print(f'The checkpoint will be {where(args.out)}.')
    state_dict = convert_released_detector(load_released(args.checkpoint, args.trust))
    with written_whole(args.out) as file:
        torch.save(dict(meta=dict(converted_from=args.checkpoint), state_dict=state_dict), file)
    calibrated = any('.calibration.' in name for name in state_dict)
    classes = len(state_dict['roi_head.bbox_head.fc_cls.weight']) - 1
    print(
        f'{len(state_dict)} tensors, {classes} classes, '
        f'{"calibrated" if calibrated else "not calibrated"}, written to {args.out}'
    )
