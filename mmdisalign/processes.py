"""The processes that share work: each does a part, and all come to the same.

Without a group of ``torch.distributed``, there is one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

# Where each launcher's processes find who they are: (rank, world size, local rank).
RANK_VARIABLES = {
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
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
    """What the first process makes, for all; what it raises, all raise."""
    made, error = None, None
    if rank() == 0:
        try:
            made = make()
        except Exception as caught:
            error = caught
    made, error = agreed((made, error))
    if error is not None:
        raise error
    return made


@contextmanager
def joined(launcher: str, local_rank: int) -> Iterator[None]:
    """While the context lasts, be one of the processes of a launcher, without a Runner.

    All but the first print nothing. One that fails leaves the others to the launcher, which ends
    them: however long one has to do alone, they wait.

    Args:
        launcher: ``'none'``, and this is the only one, or as of mmengine.
        local_rank: On this machine, where the environment does not say.
    """
    if launcher == 'none':
        yield
        return
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    join(launcher, timeout=timedelta(weeks=1))
    with ExitStack() as stack:
        if torch.distributed.get_rank() > 0:
            nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
            stack.enter_context(redirect_stdout(nowhere))
        yield
    leave()


def join(launcher: str, **options: Any) -> None:
    """Start the group of processes: of GPUs, or without one, where mmengine would ask for it."""
    if launcher in RANK_VARIABLES:
        _export_ranks(launcher)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    backend = 'nccl' if torch.cuda.is_available() else 'gloo'
    torch.distributed.init_process_group(backend, **options)


def leave() -> None:
    """End the group, once all have come here."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _export_ranks(launcher: str) -> None:
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), RANK_VARIABLES[launcher]):
        os.environ[name] = os.environ[source]
    os.environ.setdefault('MASTER_PORT', '29500')
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        names = subprocess.run(hosts, capture_output=True, text=True, check=True).stdout
        os.environ['MASTER_ADDR'] = names.split()[0]
