"""How confident a calibrated model is, and what it has learned, for the report."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import load_checkpoint
from rich.progress import track
from torch import Tensor, nn

from ..analysis import Gate, Picture
from ..analysis.gate import LEVELS, NUM_BINS, bins_of
from ..calibration import AdaptiveCalibration
from ..engine.confidence import calibrations_of, watch_confidence
from ..engine.configs import model_config, plugin_of
from ..engine.stage import naming_checkpoint

MOST_PICTURES = 4
TILE = 2**22  # scores that are calibrated at a time, beside those that the model makes


@dataclass(frozen=True)
class Seen:
    """A forward pass of a calibration, each of shape (N, *).

    Attributes:
        sigma: σ(x).
        before: Which class scores highest before calibration.
        gated: After it.
        opened: After it, were σ = 1.
        labels: True class, -1 where there is none; None where they are not known.
    """

    sigma: Tensor
    before: Tensor
    gated: Tensor
    opened: Tensor
    labels: Optional[Tensor]

    @property
    def saved(self) -> Tensor:
        """Where the class is right, and would not be with σ = 1; where labels are known."""
        return (self.gated == self.labels) & (self.opened != self.labels)

    @property
    def lost(self) -> Tensor:
        """Where it is wrong, and would be right."""
        return (self.gated != self.labels) & (self.opened == self.labels)


class Viewer:
    """Knows what the rows of a forward pass are of; that of a plug-in knows more than this one.

    Args:
        model: What is observed.
        dataset: Its images.

    Attributes:
        unit: What has one σ each.
    """

    unit = 'places'

    def __init__(self, model: nn.Module, dataset: Any) -> None:
        self.model, self.dataset = model, dataset

    def begin(self, index: int, batch: Mapping[str, Any]) -> None:
        """Be shown the image that follows.

        Args:
            index: Of the image in the data set.
            batch: What the model's preprocessor makes of it: ``inputs`` and ``data_samples``.
        """

    def labels(self, classes: Tensor) -> Optional[Tensor]:
        """True class of each row of a pass; others than 0 to C - 1 where there is none.

        Args:
            classes: Which scores highest before calibration, (N, *).

        Returns:
            Of the same shape; None where they are not known.
        """

    def keep(self, seen: Seen) -> Any:
        """What a picture of a pass takes, a few numbers; None if none can be drawn of it."""

    def picture(self, kept: Any, note: str) -> Picture:
        """Draw what :meth:`keep` returned.

        Args:
            kept: That.
            note: In words, how much of it is closed.
        """
        raise NotImplementedError


class GateObserver:
    """Counts where the gates of a model close; in memory, only the counts of each class stay.

    Args:
        calibrations: Of the model, by name.
        viewer: Knows what the rows are of.
        most: For how many images of a calibration to keep what a picture takes.
    """

    def __init__(
        self,
        calibrations: Mapping[str, AdaptiveCalibration],
        viewer: Viewer,
        most: int = MOST_PICTURES,
    ) -> None:
        self.calibrations, self.viewer, self.most = calibrations, viewer, most
        self._counts: dict[tuple[str, bool], dict[str, np.ndarray]] = {}
        self._closed: dict[str, list[tuple[tuple, int, Any]]] = {}
        self._number = count()
        self._images = 0

    def begin(self, index: int, batch: Mapping[str, Any]) -> None:
        """Be shown the image that follows, see :meth:`Viewer.begin`."""
        self._images += 1
        self.viewer.begin(index, batch)

    def see(self, name: str, logits: Tensor, sigma: Tensor) -> None:
        """Count a forward pass; what :func:`watch_confidence` calls."""
        classes = self._classes(name, logits, sigma)
        number, labels = logits.shape[1], self.viewer.labels(classes[0])
        if labels is not None:
            labels = labels.where((labels >= 0) & (labels < number), -1)
        seen = Seen(sigma[:, 0], *classes, labels)
        own = seen.before if labels is None else labels
        valid = own >= 0
        if valid.any():
            self._note(name, seen, seen.sigma[valid])
        cells = own * NUM_BINS + bins_of(seen.sigma)
        shape = (number, NUM_BINS)
        found = {
            'counts': _count(cells[valid], number * NUM_BINS).reshape(shape),
            'changed': _count(own[valid & (seen.gated != seen.opened)], number),
        }
        if labels is not None:
            is_right = valid & (seen.before == labels)
            found['right'] = _count(cells[is_right], number * NUM_BINS).reshape(shape)
            found['saved'] = _count(own[valid & seen.saved], number)
            found['lost'] = _count(own[valid & seen.lost], number)
        sums = self._counts.setdefault((name, labels is not None), {})
        sums.update({key: sums.get(key, 0) + counts for key, counts in found.items()})

    def of(self, name: str) -> Optional[Gate]:
        """What was seen of a calibration, with true classes if any was known; None if nothing."""
        counts = self._counts.get((name, True), self._counts.get((name, False)))
        return None if counts is None else Gate(self.viewer.unit, self._images, **counts)

    def pictures(self, name: str) -> list[Picture]:
        """Of the passes of a calibration that are closed most; of none that is open throughout."""
        ranked = sorted(self._closed.get(name, ()), reverse=True)
        return [
            self.viewer.picture(kept, _closed_in_words(self.viewer.unit, key))
            for key, _, kept in ranked
        ]

    def _classes(self, name: str, logits: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The highest-scoring class before calibration, after, and with σ = 1, each (N, *)."""
        calibration, shape = self.calibrations[name], sigma[:, 0].shape
        magnitude, margin = (
            each.detach().float()[:, None] for each in (calibration.magnitude, calibration.margin)
        )
        rows = [each.unsqueeze(-1).flatten(2) for each in (logits, sigma)]
        step = max(1, TILE // max(1, logits.shape[0] * logits.shape[1]))
        parts = []
        for scores, gate in zip(*(each.split(step, 2) for each in rows)):
            scores = scores.float()
            change = magnitude * scores + margin
            values = scores, scores + gate * change, scores + change
            parts.append([each.argmax(1) for each in values])
        before, gated, opened = (torch.cat(own, dim=1).view(shape) for own in zip(*parts))
        return before, gated, opened

    def _note(self, name: str, seen: Seen, counted: Tensor) -> None:
        """Keep what a picture takes, if the pass is among those that are closed most."""
        shares = [float((counted < level).double().mean()) for level in LEVELS]
        ranks = self._closed.setdefault(name, [])
        key = (*shares, -float(counted.double().mean()), len(counted))
        if not shares[-1] or (len(ranks) >= self.most and key[:3] <= ranks[0][0][:3]):
            return
        kept = self.viewer.keep(seen)
        if kept is not None:
            heapq.heappush(ranks, (key, -next(self._number), kept))
            if len(ranks) > self.most:
                heapq.heappop(ranks)


def observe_confidence(cfg: Config, checkpoint: str, num_images: int) -> GateObserver:
    """Run a calibrated model on test images, evenly spaced, and count where its gate closes.

    Args:
        cfg: Config of stage 2; its default scope must be the current one.
        checkpoint: File of stage 2.
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
    viewer = import_module(f'mmdisalign.{plugin_of(cfg)}.gate').GateViewer(model, dataset)
    observer = GateObserver(calibrations, viewer)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).astype(int))
    index = 0
    handle = model.data_preprocessor.register_forward_hook(
        lambda module, inputs, batch: observer.begin(index, batch)
    )
    try:
        with watch_confidence(model, observer.see), torch.no_grad():
            for index in track(chosen.tolist(), 'Observing σ(x)'):
                model.test_step(pseudo_collate([dataset[index]]))
    finally:
        handle.remove()
    return observer


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


def _count(values: Tensor, number: int) -> np.ndarray:
    return torch.bincount(values.flatten(), minlength=number).cpu().numpy()


def _closed_in_words(unit: str, key: Sequence[float]) -> str:
    closed, low, negative_mean, number = key
    if number == 1:
        return f'σ {-negative_mean:.3g}'
    return (
        f'{100 * closed:.1f} % of {number:,} {unit} below {LEVELS[0]:g}, '
        f'{100 * low:.1f} % below {LEVELS[1]:g}'
    )
