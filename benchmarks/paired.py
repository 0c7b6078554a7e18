"""Two things timed in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(base: Callable[[], object], other: Callable[[], object], pairs: int) -> str:
    """Time both ``pairs`` times, after a turn that warms up; returns their seconds and ratio."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs + 1):
        both = [(seconds[0], base), (seconds[1], other)]
        for times, function in both[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    first, second = (times[1:] for times in seconds)
    ratios = [b / a for a, b in zip(first, second)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f'{statistics.median(first):.3f} s and {statistics.median(second):.3f} s, ratio '
        f'{middle:.3f} (quartiles {low:.3f} to {high:.3f}, {pairs} pairs)'
    )
