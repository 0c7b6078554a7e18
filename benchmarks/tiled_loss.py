"""What ``tiled_loss`` costs: the calibration loss with its gradients, plain and in tiles."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from paired import compare

from mmdisalign.segmentation.decode_heads import DisAlignFCNHead

FEATURES = 16
# Images, classes and pixels a side, of which the scores have a quarter.
CASES = [(4, 150, 512), (1, 150, 512), (4, 19, 512), (4, 150, 64), (4, 19, 64), (2, 5, 32)]


def run(pairs: int = 10) -> str:
    """Measure the memory of both, each in a process of its own; time both in turns."""
    plain, tiled = (_memory_of_a_process(name) for name in ('plain', 'tiled'))
    lines = [
        'The loss of stage 2 and its gradients, from scores at a quarter of the resolution, plain '
        f'and in tiles, {torch.get_num_threads()} threads\n',
        f'- {_named(*CASES[0])}: {plain:.0f} MB and {tiled:.0f} MB, ratio {tiled / plain:.3f}',
    ]
    for case in CASES:
        times = compare(_iteration(*case, tiled=False), _iteration(*case, tiled=True), pairs)
        lines.append(f'- {_named(*case)}: {times}')
    return '\n'.join(lines)


def _named(images: int, classes: int, size: int) -> str:
    return f'{images} x {classes} classes x {size} x {size}'


def _iteration(images: int, classes: int, size: int, tiled: bool) -> Callable[[], None]:
    """A forward and backward pass of a calibrated head that is a classifier alone."""
    torch.manual_seed(0)
    init_default_scope('mmseg')
    prior = (1 / torch.arange(1, classes + 1)).tolist()
    head = DisAlignFCNHead(
        in_channels=FEATURES,
        channels=FEATURES,
        num_convs=0,
        concat_input=False,
        num_classes=classes,
        loss_decode={'type': 'GRWCrossEntropyLoss', 'class_prior': prior, 'exp_scale': 0.2},
    )
    head.requires_grad_(False).eval()
    head.calibration.requires_grad_(True)
    if tiled:
        head.tile_loss()
    features = torch.randn(images, FEATURES, size // 4, size // 4)
    labels = torch.randint(0, classes, (images, 1, size, size))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]

    def iterate() -> None:
        losses = head.calibration_loss([features], batch_data_samples=samples)
        losses['loss_grw'].backward()

    return iterate


def _memory_of_a_process(name: str) -> float:
    command = [sys.executable, __file__, name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.splitlines()[-1])


def _memory(name: str) -> float:
    """MB that the first case adds, at its peak, to what the process holds before."""
    iterate = _iteration(*CASES[0], tiled=name == 'tiled')
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    before = pages * resource.getpagesize()
    iterate()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 1024**2


if __name__ == '__main__':
    print(_memory(*sys.argv[1:]))
