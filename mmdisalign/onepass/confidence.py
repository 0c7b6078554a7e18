"""How confident a calibrated model is, and what it has learned, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import load_checkpoint
from rich.progress import track
from torch import Tensor

from ..engine.confidence import calibrations_of, watch_confidence
from ..engine.configs import model_config
from ..engine.stage import naming_checkpoint

NUM_BINS = 50


class ConfidenceHistogram:
    """Counts σ in equal bins of [0, 1], by the group of the class with the highest score z.

    Args:
        groups: Class indices of each group, each class in at most one; those from C on, which the
            calibration does not score, are left out.
        num_classes: C.

    Attributes:
        counts: By name of the calibration, shape (G, 50).
    """

    def __init__(self, groups: Mapping[str, Sequence[int]], num_classes: int) -> None:
        self.groups = groups
        self.counts: dict[str, np.ndarray] = {}
        self._group_of = torch.full((num_classes,), len(groups))
        for number, members in enumerate(groups.values()):
            self._group_of[[index for index in members if index < num_classes]] = number

    def see(self, name: str, logits: Tensor, sigma: Tensor) -> None:
        """Count a forward pass; what :func:`watch_confidence` calls."""
        group = self._group_of[logits.argmax(1).flatten().cpu()]
        cell = (sigma.flatten().cpu() * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        counts = torch.bincount(
            group * NUM_BINS + cell, minlength=(len(self.groups) + 1) * NUM_BINS
        )
        counts = counts.reshape(-1, NUM_BINS)[: len(self.groups)].numpy()
        self.counts[name] = self.counts.get(name, 0) + counts

    def of(self, name: str) -> Optional[dict[str, list[int]]]:
        """Counts of a calibration by group, each (50,); None if it was not seen."""
        counts = self.counts.get(name)
        return None if counts is None else dict(zip(self.groups, counts.tolist()))


def observe_confidence(
    cfg: Config, checkpoint: str, groups: Mapping[str, Sequence[int]], num_images: int
) -> ConfidenceHistogram:
    """Run a calibrated model on test images, evenly spaced, and count its confidence.

    Args:
        cfg: Config of stage 2; its default scope must be the current one.
        checkpoint: File of stage 2.
        groups: Class indices of each group.
        num_images: How many images, at most.

    Raises:
        ValueError: If the model of the config has no calibration.
    """
    model = MODELS.build(model_config(cfg))
    calibrations = calibrations_of(model)
    if not calibrations:
        raise ValueError(
            f'{cfg.filename} has no calibration whose confidence could be observed: give the '
            'stage-2 config with --config, or leave --checkpoint out'
        )
    with naming_checkpoint(checkpoint):
        load_checkpoint(model, checkpoint, map_location='cpu')
    model.to(get_device()).eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    histogram = ConfidenceHistogram(groups, next(iter(calibrations.values())).num_classes)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).astype(int))
    with watch_confidence(model, histogram.see), torch.no_grad():
        for index in track(chosen.tolist(), 'Observing σ(x)'):
            model.test_step(pseudo_collate([dataset[index]]))
    return histogram


def learned(state: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """α and β of each calibration in a model's weights, by the calibration's name.

    One that layers share, as SSD's do, is there under the name of each, and is told once.
    """
    found: dict[str, list[Tensor]] = {}
    for key in state:
        name = key.removesuffix('.magnitude')
        if name == key or f'{name}.margin' not in state:
            continue
        own = [value for other, value in state.items() if other.startswith(f'{name}.')]
        if not any(all(map(torch.equal, own, other)) for other in found.values()):
            found[name] = own
    parts = ('magnitude', 'margin')
    return {name: tuple(state[f'{name}.{part}'].tolist() for part in parts) for name in found}
