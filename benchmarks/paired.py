"""Two things timed in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """Seconds of two things, each a list with one of each turn.

    Attributes:
        base: Of the first.
        other: Of the second.
    """

    base: list[float]
    other: list[float]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Quartiles of what the second takes of the first's time, turn by turn."""
        ratios = [other / base for base, other in zip(self.base, self.other)]
        return tuple(statistics.quantiles(ratios, n=4))

    def __str__(self) -> str:
        first, second = (statistics.median(times) for times in (self.base, self.other))
        low, middle, high = self.ratio
        return (
            f'{first:.3f} s and {second:.3f} s, ratio {middle:.3f} '
            f'(quartiles {low:.3f} to {high:.3f}, {len(self.base)} pairs)'
        )


def compare(
    base: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time both ``pairs`` times, after a turn that warms up.

    Args:
        base: The first.
        other: The second.
        pairs: How many turns.
        clock: Tells seconds. Default: those of the wall.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs + 1):
        both = [(seconds[0], base), (seconds[1], other)]
        for times, function in both[:: 1 if turn % 2 else -1]:
            start = clock()
            function()
            times.append(clock() - start)
    return Paired(*(times[1:] for times in seconds))
