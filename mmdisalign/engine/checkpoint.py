"""Read the checkpoints that mmengine writes, with PyTorch's safe loader.

Since PyTorch 2.6, ``torch.load`` unpickles nothing but an allow-list, and mmengine 0.10's
checkpoints hold its log history: without this, ``--resume`` and ``test.py`` end in an
UnpicklingError.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Optional, Union

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
from mmengine.utils.dl_utils import load_url
from packaging.version import Version
from torch import Tensor

from ..files import written_whole


def check_checkpoint(path: Optional[str]) -> None:
    """Raise an error unless a checkpoint that should be on disk is there, and whole.

    Args:
        path: What ``load_from`` says: a file, an address (``https://``, ``open-mmlab://``) or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    if not path or '://' in path:
        return
    if not Path(path).expanduser().is_file():  # as mmengine reads it
        raise FileNotFoundError(
            f'there is no checkpoint {path} (seen from {Path.cwd()}); name it with load_from in '
            'the config, or train the stage that it comes from first'
        )
    read_state(path)


def read_state(checkpoint: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, on the CPU.

    Args:
        checkpoint: File or address; of mmengine's, as it comes or with ``state_dict``.

    Raises:
        ValueError: If it cannot be read, or holds no weights; the message names it.
    """
    with naming_unreadable(checkpoint, 'load it by hand and save its state_dict alone'):
        content = _load_checkpoint(str(checkpoint), map_location='cpu')
    state = content.get('state_dict', content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f'{checkpoint} holds no weights, by themselves or as state_dict: it is no checkpoint '
            'of a model'
        )
    return state


@contextmanager
def naming_unreadable(checkpoint: Union[str, Path], if_trusted: str) -> Iterator[None]:
    """Turn the errors of a file that is no checkpoint into a ValueError that names it.

    Args:
        checkpoint: File or address that is read.
        if_trusted: What to do with one that holds more than weights, if its source is trusted.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{checkpoint} is no checkpoint, or holds more than weights, which could run any code '
            f'when it is read ({_first_sentence(error)}). If you trust its source, {if_trusted}'
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise ValueError(
            f'{checkpoint} cannot be read as a checkpoint: it is truncated, or no file of '
            f'torch.save ({_first_sentence(error)}). Copy or download it again, or name another'
        ) from error


def checkpoint_of(state: Mapping[str, torch.Tensor], **meta: Any) -> dict[str, Any]:
    """The weights of a model, on the CPU, and what else is to be known, as mmengine has it."""
    return {'state_dict': {key: value.cpu() for key, value in state.items()}, 'meta': meta}


def save_model(model: torch.nn.Module, path: Union[str, Path], **meta: Any) -> None:
    """Write the weights of a model as a checkpoint, whole or not at all."""
    with written_whole(path) as file:
        torch.save(checkpoint_of(model.state_dict(), **meta), file)


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` accept mmengine's log history, and nothing that could run code.

    Of a file, and of an address that mmengine loads. PyTorch before 2.6 has no such allow-list:
    there, whatever a checkpoint asks for is run.
    """
    if Version(torch.__version__) < Version('2.6'):  # before, torch.load allowed everything
        return
    reconstruct, scalar = (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    # What numpy 1 wrote is read with numpy 2, and the other way round.
    arrays = [
        (function, f'numpy.{core}.multiarray.{function.__name__}')
        for core in ('core', '_core')
        for function in (reconstruct, scalar)
    ]
    # An address is read by torch.hub, which would still unpickle anything.
    mmengine_checkpoint.load_url = partial(load_url, weights_only=True)
    dtypes = {type(np.dtype(code)) for code in ('?', 'i4', 'i8', 'f2', 'f4', 'f8')}
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *arrays, (_statistic, 'builtins.getattr')]
    )


def _statistic(owner: type, name: str) -> Callable:
    """Stands for ``getattr`` in a checkpoint, where the history refers to its own methods."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'the checkpoint asks for {owner}.{name}')
    return getattr(owner, name)


def _first_sentence(error: Exception) -> str:
    """What PyTorch says before its advice, which may be to switch the safe loader off."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text.partition('. ')[0].rstrip('.')
