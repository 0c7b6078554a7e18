"""Read the checkpoints that mmengine writes, with PyTorch's safe loader.

Since PyTorch 2.6, ``torch.load`` unpickles nothing but an allow-list, and mmengine 0.10's
checkpoints hold its log history: without this, ``--resume`` and ``test.py`` end in an
UnpicklingError.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
from packaging.version import Version
from torch import Tensor


def read_state(checkpoint: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, on the CPU.

    Args:
        checkpoint: File or address; of mmengine's, as it comes or with ``state_dict``.
    """
    content = _load_checkpoint(checkpoint, map_location='cpu')
    return content.get('state_dict', content)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` accept mmengine's log history, and nothing that could run code."""
    if Version(torch.__version__) < Version('2.6'):  # before, torch.load allowed everything
        return
    reconstruct, scalar = (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    # What numpy 1 wrote is read with numpy 2, and the other way round.
    arrays = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for core in ('core', '_core')
        for function in (reconstruct, scalar)
    ]
    dtypes = {type(np.dtype(code)) for code in ('?', 'i4', 'i8', 'f2', 'f4', 'f8')}
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *arrays, (_statistic, 'builtins.getattr')]
    )


def _statistic(owner: type, name: str) -> Callable:
    """Stands for ``getattr`` in a checkpoint, where the history refers to its own methods."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'the checkpoint asks for {owner}.{name}')
    return getattr(owner, name)
