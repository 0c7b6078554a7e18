"""What the gate σ(x) of a calibrated segmentor is worth, and where: mIoU with σ and without.

python benchmarks/gate.py CONFIG CHECKPOINT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor
from torch.nn.functional import interpolate

from mmdisalign.analysis import markdown_table
from mmdisalign.engine import read_config
from mmdisalign.engine.confidence import calibrations_of, watch_confidence
from mmdisalign.engine.configs import model_config

LEVELS = (0.0, 0.5, 0.9, 0.99, 1.0)


def passes(model: Any, dataset: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each image: z (1, C, h, w) and σ (1, 1, h, w) of the head, and the labels (H, W)."""
    seen: list[tuple[Tensor, Tensor]] = []
    with watch_confidence(model, lambda _, *own: seen.append(own)), torch.no_grad():
        for index in range(len(dataset)):
            data = dataset[index]
            model.test_step(pseudo_collate([data]))
            yield *seen.pop(), data['data_samples'].gt_sem_seg.data[0].long()


def variants(sigma: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """σ as it is, and what may stand in its place."""
    found = {
        'stage 1, σ = 0': torch.zeros_like(sigma),
        'σ(x)': sigma,
        'its mean': mean.expand_as(sigma),
        'σ = 1': torch.ones_like(sigma),
    }
    for low, high in zip(LEVELS, LEVELS[1:]):
        is_between = (sigma >= low) & (sigma < high)
        found[f'its mean where {low:g} ≤ σ(x) < {high:g}'] = torch.where(is_between, mean, sigma)
    return found


def main() -> None:
    """Evaluate each in the place of σ on all test images, and print the table."""
    cfg = read_config(sys.argv[1])
    init_default_scope(cfg.default_scope)
    model = MODELS.build(model_config(cfg)).eval()
    load_checkpoint(model, sys.argv[2], map_location='cpu')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    ((_, calibration),) = calibrations_of(model).items()
    head, number = model.decode_head, calibration.num_classes
    kept = list(passes(model, dataset))
    mean = torch.cat([sigma.flatten() for _, sigma, _ in kept]).mean()
    confusion: dict[str, Tensor] = {}
    for scores, sigma, labels in kept:
        is_known = labels < number
        shape = (1, -1, 1, 1)
        change = calibration.magnitude.view(shape) * scores + calibration.margin.view(shape)
        for name, gate in variants(sigma, mean).items():
            own = (scores + gate * change).detach()
            own = interpolate(own, labels.shape, mode='bilinear', align_corners=head.align_corners)
            pairs = labels[is_known] * number + own.argmax(1)[0][is_known]
            counts = torch.bincount(pairs, minlength=number**2).reshape(number, number)
            confusion[name] = confusion.get(name, 0) + counts
    rows = []
    for name, counts in confusion.items():
        right = counts.diag().double()
        iou = 100 * right / (counts.sum(0) + counts.sum(1) - right)
        rows.append([name, f'{iou.nanmean():.2f}', *(f'{own:.1f}' for own in iou)])
    print(f'{len(kept)} images, mean of σ(x) {mean:.3f}\n')
    print(markdown_table(['', 'mIoU', *dataset.metainfo['classes']], rows))


if __name__ == '__main__':
    main()
