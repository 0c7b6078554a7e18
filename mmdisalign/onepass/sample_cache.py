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

from .. import processes
from ..files import written_whole
from .fitting import Samples

FREE = 0.0  # the key of a slot without a sample, as in a new file; those of samples are above


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
            'key': ('float64', (slots,)),
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

    Class by class, each sample gets a random key, and those with the largest keys are kept (as in
    Efraimidis and Spirakis 2006, with equal weights). So what is kept of several reservoirs
    together, see :func:`merged`, is what one would have kept that had been offered all; and a
    sample that is offered again, with the same key, takes its old place.

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

        # Of an earlier run; what it was offered after it was last saved will be offered again.
        self._old_slots = np.flatnonzero(self.arrays['key'])
        self._old_slots = self._old_slots[np.argsort(self.arrays['key'][self._old_slots])]
        self._old = self.arrays['key'][self._old_slots]

    def offer(self, samples: Samples, rng: np.random.Generator) -> None:
        """Let samples in, or not."""
        keys = 1 - rng.random(len(samples))
        again, place = self._again(keys)
        for label in np.unique(samples.label):
            came = np.flatnonzero((samples.label == label) & ~again)
            self.seen[label] += (samples.label == label).sum()
            first = self.first[label]
            kept = self.arrays['key'][first : first + self.capacity[label]]
            entering, slots = _entering(keys[came], kept)
            again[came[entering]] = True
            place[came[entering]] = first + slots
        samples = {**vars(samples), 'key': keys}
        for name, array in self.arrays.items():  # the key last: with it, a sample is there
            array[place[again]] = samples[name][again]

    def _again(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which samples are there, by their keys (n,), and where; any number for the others."""
        if not len(self._old):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        place = self._old_slots[np.searchsorted(self._old, keys) % len(self._old)]
        return self.arrays['key'][place] == keys, place

    def flush(self) -> None:
        """Write to the files."""
        for array in self.arrays.values():
            array.flush()


def _entering(keys: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which samples, by their keys (n,), take which slots of a class, by their keys (k,).

    Returns:
        Numbers of samples and of slots, both (m,).
    """
    entering = np.flatnonzero(keys > kept.min(initial=1.0))
    free = np.flatnonzero(kept == FREE)
    if len(entering) > len(free):
        both = np.concatenate([kept, keys[entering]])
        least = np.partition(both, -len(kept))[-len(kept)]
        entering = entering[keys[entering] >= least]
        free = np.flatnonzero(kept < least)
    return entering, free[: len(entering)]


def merged(reservoirs: Sequence[Reservoir], shared: bool, device: str) -> Samples:
    """All that are kept of what reservoirs were offered; they stand for those that are not.

    Their order is that of the images as they were passed, whichever reservoir has them.

    Args:
        reservoirs: One of each process.
        shared: See :class:`Samples`.
        device: See :class:`Samples`.
    """
    small = {
        name: np.concatenate([np.asarray(each.arrays[name]) for each in reservoirs])
        for name in ('label', 'weight', 'quality', 'image', 'view', 'key')
    }
    label, view, key = (small.pop(name) for name in ('label', 'view', 'key'))
    rows = np.flatnonzero(key > FREE)
    rows = rows[np.lexsort((-key[rows], label[rows]))]
    place = np.arange(len(rows)) - np.searchsorted(label[rows], label[rows])
    rows = rows[place < reservoirs[0].capacity[label[rows]]]
    rows = rows[np.lexsort((key[rows], view[rows], label[rows]))]
    small = {name: values[rows] for name, values in small.items()}
    label, view = label[rows], view[rows]
    seen = sum(each.seen for each in reservoirs)
    kept = np.bincount(label, minlength=len(seen))
    small['weight'] *= (seen / np.maximum(kept, 1))[label]
    # The large arrays stay on the disk.
    large = {
        name: _joined([each.arrays[name] for each in reservoirs])
        for name in ('features', 'logits', 'taps')
    }
    options = {'rows': rows, 'shared': shared, 'device': device}
    return Samples(**large, **small, label=label, view=view, **options)


class Joined:
    """Arrays, one behind the other, of which rows are read."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])
        self.shape = (int(self.ends[-1]), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.ends, rows, side='right')
        for number, array in enumerate(self.arrays):
            own = owner == number
            found[own] = array[rows[own] - (self.ends[number] - len(array))]
        return found


def _joined(arrays: Sequence[np.ndarray]) -> Union[np.ndarray, Joined]:
    return arrays[0] if len(arrays) == 1 else Joined(arrays)


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

    Each of several processes has its own, in a folder of its own in one that all have.

    Args:
        folder: Where it gets a folder of its own.
        identity: What decides the samples, as JSON; those of anything else are not touched.
        layouts: Of each calibration, by name.
        capacities: Slots of each class, by the calibration's name.

    Attributes:
        done: Batches that this process has collected.
        elements: Elements that came to it, ignored ones included, by the calibration's name.
        resumed: Whether it goes on from an earlier run.

    Raises:
        OSError: If the disk has no room.
        ValueError: If another number of processes has collected such samples.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        identity: Mapping[str, Any],
        layouts: Mapping[str, Layout],
        capacities: Mapping[str, np.ndarray],
    ) -> None:
        self.folder = folder_of(folder, identity)
        self._layouts, self._capacities = layouts, capacities
        self._check_number()
        self._own = self._folder_of(processes.rank())
        state = self._read_state() if self._is_whole() else None
        self.resumed = state is not None
        if not self.resumed:
            shutil.rmtree(self._own, ignore_errors=True)
        try:
            self.reservoirs = self._reservoirs(self._own)
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

    def save(self) -> None:
        """Write what came so far; a run that is killed goes on from here.

        What came after it is offered again, with the same keys.
        """
        for reservoir in self.reservoirs.values():
            reservoir.flush()
        state = {
            'done': self.done,
            'elements': self.elements,
            'seen': {name: r.seen.tolist() for name, r in self.reservoirs.items()},
        }
        with written_whole(self._own / 'state.json') as file:
            file.write_text(json.dumps(state), encoding='utf-8')

    def merged(self, device: str = 'cpu') -> tuple[dict[str, Samples], dict[str, float]]:
        """The samples of all processes, once each has saved its own, and the elements that came.

        Args:
            device: See :class:`Samples`.

        Raises:
            ValueError: If those of another process are not in the folder.
        """
        parts = processes.gathered(
            (self.elements, {name: own.seen for name, own in self.reservoirs.items()})
        )
        found: dict[str, list[Reservoir]] = {name: [] for name in self.reservoirs}
        for number, (_, seen) in enumerate(parts):
            reservoirs = self.reservoirs
            if number != processes.rank():
                reservoirs = self._reservoirs_of_other(number)
            for name, own in reservoirs.items():
                own.seen[:] = seen[name]
                found[name].append(own)
        shared = len(parts) > 1
        samples = {name: merged(own, shared, device) for name, own in found.items()}
        return samples, {name: sum(own[name] for own, _ in parts) for name in found}

    def remove(self) -> None:
        """Delete the files of this process, and the folders that they are in unless others are."""
        shutil.rmtree(self._own, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _folder_of(self, rank: int) -> Path:
        return self.folder / f'{rank}_of_{processes.number()}'

    def _check_number(self) -> None:
        """Raise ValueError if as many processes as another number have collected such samples."""
        for other in self.folder.glob('*_of_*'):
            number = int(other.name.split('_')[-1])
            if number != processes.number() and (other / 'state.json').is_file():
                raise ValueError(
                    f'the samples in {self.folder} are of {number} processes, and these are '
                    f'{processes.number()}: go on with {number}, or delete them'
                )

    def _reservoirs(self, folder: Path) -> dict[str, Reservoir]:
        found = {}
        for number, (name, layout) in enumerate(self._layouts.items()):
            own = folder / str(number)
            own.mkdir(parents=True, exist_ok=True)
            found[name] = Reservoir(own, layout, self._capacities[name])
        return found

    def _reservoirs_of_other(self, rank: int) -> dict[str, Reservoir]:
        folder = self._folder_of(rank)
        if not (folder / 'state.json').is_file():
            raise ValueError(
                f'there are no samples of process {rank} in {self.folder}: all processes need one '
                'folder, so name one on a disk that they share, with --cache-dir'
            )
        return self._reservoirs(folder)

    def _is_whole(self) -> bool:
        """Whether all files are there, of the size that they should have."""
        sizes = {
            self._own / str(number) / f'{array}.bin': max(1, _size(*kind))
            for number, (name, layout) in enumerate(self._layouts.items())
            for array, kind in layout.arrays(int(self._capacities[name].sum())).items()
        }
        return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())

    def _read_state(self) -> Optional[dict[str, Any]]:
        try:
            return json.loads((self._own / 'state.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
