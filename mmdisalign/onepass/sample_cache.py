"""Samples of what classifiers saw, in memory-mapped files of bounded size, that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..files import written_whole
from .fitting import Samples


@dataclass(frozen=True)
class Layout:
    """How large a sample is.

    Attributes:
        positions: K.
        channels: F.
        scores: C, and what passes behind them.
    """

    positions: int
    channels: int
    scores: int

    @property
    def bytes(self) -> int:
        """Bytes of a sample: features in half precision, the rest in single."""
        return sum(_size(*array) for array in self.arrays(1).values())

    def arrays(self, slots: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of what holds so many samples."""
        return {
            'features': ('float16', (slots, self.positions, self.channels)),
            'logits': ('float32', (slots, self.positions, self.scores)),
            'taps': ('float32', (slots, self.positions)),
            'label': ('int32', (slots,)),
            'weight': ('float64', (slots,)),
            'quality': ('float32', (slots,)),
            'image': ('int32', (slots,)),
            'view': ('int32', (slots,)),
        }


def fair_capacities(expected: Sequence[float], total: int) -> np.ndarray:
    """Share slots among classes: each gets what it expects, or a share by the root of that.

    Between equal shares, which would leave a detector's background with as few samples as its
    rarest class to stand for most of the loss, and shares by frequency, which would lose the tail.

    Args:
        expected: How many samples of each class will come, at most, shape (C,).
        total: Slots.
    """
    expected = np.ceil(np.asarray(expected, dtype=np.float64))
    slots, is_open, left = np.zeros(len(expected)), expected > 0, float(total)
    while is_open.any():
        roots = np.sqrt(expected) * is_open
        shares = left * roots / roots.sum()
        full = is_open & (expected <= shares)
        if not full.any():
            slots[is_open] = shares[is_open]
            break
        slots[full], is_open = expected[full], is_open & ~full
        left = total - slots.sum()
    return np.floor(slots).astype(np.int64)


class Reservoir:
    """Keeps at most so many samples of each class, each that came with the same probability.

    Vitter's algorithm R, class by class. A sample that was kept stands for as many as came for each
    that is kept.

    Args:
        folder: Where the files are, or are to be made.
        layout: Size of a sample.
        capacity: Slots of each class, shape (C,).

    Raises:
        OSError: If the disk has no room for all slots; nothing is left there then.
    """

    def __init__(self, folder: Path, layout: Layout, capacity: np.ndarray) -> None:
        self.capacity = capacity
        self.first = np.concatenate([[0], np.cumsum(capacity)[:-1]])
        self.seen = np.zeros(len(capacity), dtype=np.int64)
        self.arrays = {
            name: _mapped(folder / f'{name}.bin', dtype, shape)
            for name, (dtype, shape) in layout.arrays(int(capacity.sum())).items()
        }

    def offer(self, samples: Samples, rng: np.random.Generator) -> None:
        """Let samples in, or not."""
        for label in np.unique(samples.label):
            came = np.flatnonzero(samples.label == label)
            order = self.seen[label] + np.arange(len(came))
            # Sample number n takes the place of any of n, if that is one of the slots.
            slot = np.where(
                order < self.capacity[label], order, rng.integers(0, order + 1, len(order))
            )
            self.seen[label] += len(came)
            kept = slot < self.capacity[label]
            # Of two that take the same slot, the later stays, as numpy assigns.
            place = self.first[label] + slot[kept]
            for name, array in self.arrays.items():
                array[place] = getattr(samples, name)[came[kept]]

    def flush(self) -> None:
        """Write to the files."""
        for array in self.arrays.values():
            array.flush()

    def samples(self) -> Samples:
        """All that are kept; a class's weights are scaled up for those that are not."""
        kept = np.minimum(self.seen, self.capacity)
        index = np.concatenate(
            [first + np.arange(number) for first, number in zip(self.first, kept)]
        ).astype(np.int64)
        label = np.asarray(self.arrays['label'][index])
        weight = self.arrays['weight'][index] * (self.seen / np.maximum(kept, 1))[label]
        small = {n: np.asarray(self.arrays[n][index]) for n in ('image', 'view', 'quality')}
        # The large arrays stay on the disk.
        large = {name: self.arrays[name] for name in ('features', 'logits', 'taps')}
        return Samples(**large, **small, label=label, weight=weight, rows=index)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped array whose room on the disk is taken at once, not found missing later."""
    size = max(1, _size(dtype, shape))
    if not path.exists() or path.stat().st_size != size:
        with path.open('wb') as file:
            os.posix_fallocate(file.fileno(), 0, size)
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode='r+', shape=shape)


def folder_of(folder: Union[str, Path], identity: Mapping[str, Any]) -> Path:
    """A folder of their own for files that an identity decides: what else is in the user's stays.

    Args:
        folder: The user's.
        identity: As JSON.
    """
    text = json.dumps(identity, sort_keys=True)
    return Path(folder) / f'samples_{hashlib.sha256(text.encode()).hexdigest()[:16]}'


def remove_folder(folder: Path) -> None:
    """Delete a folder of :func:`folder_of`, and the one that it is in unless that has others."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


class SampleCache:
    """The reservoirs of a model's calibrations, and how far collecting has come.

    Args:
        folder: Where it gets a folder of its own.
        identity: What decides the samples, as JSON; those of anything else are not touched.
        layouts: Of each calibration, by name.
        capacities: Slots of each class, by the calibration's name.

    Attributes:
        done: Batches that are collected.
        elements: Elements that came, ignored ones included, by the calibration's name.
        resumed: Whether it goes on from an earlier run.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        identity: Mapping[str, Any],
        layouts: Mapping[str, Layout],
        capacities: Mapping[str, np.ndarray],
    ) -> None:
        self.folder = folder_of(folder, identity)
        state = self._read_state() if self._is_whole(layouts, capacities) else None
        self.resumed = state is not None
        if not self.resumed:
            self.remove()
        try:
            self.reservoirs = {
                name: Reservoir(self._subfolder(number), layout, capacities[name])
                for number, (name, layout) in enumerate(layouts.items())
            }
        except OSError as error:
            self.remove()
            size = sum(layouts[name].bytes * capacities[name].sum() for name in layouts)
            raise OSError(
                f'the samples need {size / 1e9:.1f} GB in {self.folder}, and the disk does not '
                f'have them ({error.strerror}): name a smaller --cache-size or another --cache-dir'
            ) from error
        state = state or {'done': 0, 'elements': dict.fromkeys(layouts, 0.0), 'seen': {}}
        self.done, self.elements = state['done'], state['elements']
        for name, seen in state['seen'].items():
            self.reservoirs[name].seen[:] = seen

    @property
    def has_progress(self) -> bool:
        """Whether there is anything that a run could go on from."""
        return self._read_state() is not None

    def samples(self) -> dict[str, Samples]:
        """Those of each calibration, by its name."""
        return {name: own.samples() for name, own in self.reservoirs.items()}

    def save(self) -> None:
        """Write what came so far; a run that is killed goes on from here.

        What came after it is offered again, with the same random numbers, to the same slots.
        """
        for reservoir in self.reservoirs.values():
            reservoir.flush()
        state = {
            'done': self.done,
            'elements': self.elements,
            'seen': {name: r.seen.tolist() for name, r in self.reservoirs.items()},
        }
        with written_whole(self.folder / 'state.json') as file:
            file.write_text(json.dumps(state), encoding='utf-8')

    def remove(self) -> None:
        """Delete the files, and the folder that they are in unless it has others."""
        remove_folder(self.folder)

    def _is_whole(
        self, layouts: Mapping[str, Layout], capacities: Mapping[str, np.ndarray]
    ) -> bool:
        """Whether all files are there, of the size that they should have."""
        sizes = {
            self.folder / str(number) / f'{array}.bin': max(1, _size(*kind))
            for number, (name, layout) in enumerate(layouts.items())
            for array, kind in layout.arrays(int(capacities[name].sum())).items()
        }
        return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())

    def _subfolder(self, number: int) -> Path:
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _read_state(self) -> Optional[dict[str, Any]]:
        try:
            return json.loads((self.folder / 'state.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
