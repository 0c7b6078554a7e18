"""Count annotation files with all cores, and none of them twice."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional, Protocol, Union

import cv2
from rich.progress import TextColumn
from torch.utils.data import DataLoader

from ..progress import progress_bar
from .cache import CountCache, Key
from .counting import rate

Counted = Union[dict, str]  # what is in a file, as JSON has it, or why it cannot be read
BATCH = 16  # files that a process counts at a time: a few hundredths of a second
FILES_PER_PROCESS = 200  # to start a process for fewer takes longer than to count them
SECONDS_BETWEEN_WRITES = 1.0


class AnnotationFile(Protocol):
    """A file to be counted, in a worker process."""

    @property
    def key(self) -> Optional[Key]:
        """Its key in the cache, or None if it has no identity."""

    def count(self) -> Counted:
        """Count it; what goes wrong is returned, for an exception would not say which file."""


def count_files(
    files: Sequence[AnnotationFile], use: Callable[[Any, Counted], None], unit: str
) -> None:
    """Count files, or take from the cache what was counted before; prints how many and how fast.

    Args:
        files: What to count.
        use: Called with each file and what is in it, in this process; those of the cache first.
            Whatever it raises ends the count, and what is counted by then stays in the cache.
        unit: What to call the files, such as ``'maps'``.
    """
    cache = CountCache()
    keys = [file.key for file in files]
    known = cache.read(keys)
    left = [index for index, key in enumerate(keys) if key not in known]
    for file, key in zip(files, keys):
        if key in known:
            use(file, known[key])
    start = time.monotonic()
    batches = iter(_loader([files[index] for index in left]))
    try:
        with _keeping(cache) as keep, _progress(len(files), len(left), unit) as advance:
            for index, counted in zip(left, (one for batch in batches for one in batch)):
                if isinstance(counted, dict):
                    keep(keys[index], counted)
                use(files[index], counted)
                advance()
    except KeyboardInterrupt:
        if cache.usable and any(keys):
            print('interrupted: the same command goes on from here', file=sys.stderr)
        raise
    from_cache = f'{len(files) - len(left):,} from the cache'
    speed = f' {rate(len(left), unit, start)}' if left else ''
    print(f'{len(files):,} {unit}: {from_cache}, {len(left):,} counted{speed}')


def usable_cores() -> int:
    """The cores that this process may use, which in a container or a job are not all."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Files:
    """What worker processes index."""

    def __init__(self, files: Sequence[AnnotationFile]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Counted:
        return self.files[index].count()


def _loader(files: Sequence[AnnotationFile]) -> DataLoader:
    """Batches in the order of the files, whose workers end with this process even if it is killed.

    A few files are counted in this process.
    """
    processes = min(usable_cores(), len(files) // FILES_PER_PROCESS)
    return DataLoader(
        _Files(files),
        batch_size=BATCH,
        num_workers=processes if processes > 1 else 0,
        collate_fn=list,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for it
    cv2.setNumThreads(0)


@contextmanager
def _keeping(cache: CountCache) -> Iterator[Callable[[Optional[Key], Any], None]]:
    """A function that caches values, about once a second, and at the end whatever comes."""
    fresh: list[tuple[Optional[Key], Any]] = []
    written = time.monotonic()

    def keep(key: Optional[Key], value: Any) -> None:
        nonlocal written
        fresh.append((key, value))
        if time.monotonic() - written > SECONDS_BETWEEN_WRITES:
            cache.write(fresh)
            fresh.clear()
            written = time.monotonic()

    try:
        yield keep
    finally:
        cache.write(fresh)


@contextmanager
def _progress(total: int, left: int, unit: str) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left, on a terminal; a function that moves it on by one."""
    speed = TextColumn('{task.fields[rate]:,.0f} ' + f'{unit}/s')
    with progress_bar(speed) as bar:
        task = bar.add_task(unit, total=total, completed=total - left, rate=0.0)
        start, done = time.monotonic(), 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, rate=done / (time.monotonic() - start))

        yield advance
