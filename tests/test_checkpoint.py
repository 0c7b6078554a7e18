"""mmengine's checkpoints under PyTorch's safe loader."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

import mmdisalign.engine  # noqa: F401


class Exploit:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_the_log_history_of_a_checkpoint_loads(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 2])
    torch.save(dict(history=history, weight=torch.ones(2)), tmp_path / 'c.pth')
    loaded = torch.load(tmp_path / 'c.pth', weights_only=True)['history']
    assert loaded.mean() == history.mean()
    assert [array.tolist() for array in loaded.data] == [array.tolist() for array in history.data]


@pytest.mark.parametrize('arguments', [(HistoryBuffer.mean, '__globals__'), (dict, 'get')])
def test_getattr_reaches_nothing_else(tmp_path: Path, arguments: tuple) -> None:
    torch.save(Exploit(getattr, *arguments), tmp_path / 'c.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'c.pth', weights_only=True)


def test_other_code_is_refused_as_before(tmp_path: Path) -> None:
    torch.save(Exploit(print, 'code ran'), tmp_path / 'c.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'c.pth', weights_only=True)
