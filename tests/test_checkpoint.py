"""mmengine's checkpoints under PyTorch's safe loader."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdisalign.engine import read_state, save_model
from mmdisalign.files import WriteError, is_full


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


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server of the files in ``tmp_path``."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_checkpoint_from_an_address_runs_nothing_either(tmp_path: Path, address: str) -> None:
    torch.save(Exploit(Path.mkdir, tmp_path / 'ran'), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match=r'bad\.pth is no checkpoint, or holds more than weights'):
        read_state(f'{address}/bad.pth')
    assert not (tmp_path / 'ran').exists()
    history = HistoryBuffer([1.0], [1])
    content = dict(state_dict={'weight': torch.ones(2)}, history=history)
    torch.save(content, tmp_path / 'good.pth')
    assert read_state(f'{address}/good.pth')['weight'].tolist() == [1, 1]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[int]:
    """Bytes that a file of this process may have, as if the disk had no more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, room: int) -> None:
    path = tmp_path / 'model.pth'
    path.write_text('the last one')
    with pytest.raises(
        WriteError, match=r'model\.pth cannot be written .*MB are free\): make room'
    ):
        save_model(torch.nn.Linear(1, room), path)
    assert path.read_text() == 'the last one'
    assert list(tmp_path.iterdir()) == [path]


def test_what_says_that_a_disk_is_full(tmp_path: Path, room: int) -> None:
    for write in (
        lambda: torch.save(torch.zeros(room), tmp_path / 'a'),
        lambda: (tmp_path / 'a').write_bytes(bytes(2 * room)),
    ):
        with pytest.raises((OSError, RuntimeError)) as error:
            write()
        assert is_full(error.value)
    assert not is_full(RuntimeError('anything else')) and not is_full(FileNotFoundError(2, 'none'))
