"""The processes that share a calibration: each does a part, and all come to the same.

Without a group of ``torch.distributed``, there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar('Value')


def _is_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """The number of this process; the first, 0, prints and writes."""
    return torch.distributed.get_rank() if _is_group() else 0


def number() -> int:
    """How many there are."""
    return torch.distributed.get_world_size() if _is_group() else 1


def wait() -> None:
    """Go on once all have come here."""
    if _is_group():
        torch.distributed.barrier()


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if _is_group():
        torch.distributed.all_reduce(values)
    return values


def gathered(value: Any) -> list[Any]:
    """What each process has, in their order."""
    values = [value] * number()
    if _is_group():
        torch.distributed.all_gather_object(values, value)
    return values


def agreed(value: Value) -> Value:
    """What the first process has: others may have rounded otherwise, and must not choose so."""
    values = [value]
    if _is_group():
        torch.distributed.broadcast_object_list(values)
    return values[0]


def of_first(make: Callable[[], Value]) -> Value:
    """What the first process makes, for all."""
    return agreed(make() if rank() == 0 else None)
