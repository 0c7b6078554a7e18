"""Paths and small models that the tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import once  # noqa: F401
import pytest
from mmengine.registry import DefaultScope

REPO = Path(__file__).resolve().parent.parent


# Files that take long, the longest first; each is one process's.
LONG = (
    'demo_instances',
    'demo',
    'calibrate',
    'tools',
    'cls_tools',
    'families',
    'new_style',
    'detector_tools',
    'calibrate_methods',
    'coverage',
    'one_pass',
    'calibrate_others',
    'lvis_metric',
    'report',
    'predictions',
    'gpu',
    'panoptic',
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With two processes, begin with the long files, or one process waits for the last of them."""
    if 'PYTEST_XDIST_WORKER' in os.environ:
        rank = {f'test_{name}.py': place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


def pytest_collection_finish() -> None:
    """What was imported stays; mmengine collects garbage for each data set that it makes."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_default_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts without a default scope, as a new process does.

    mmengine keeps the scope of the last Runner for the rest of the process, so a test that left
    mmdet's behind decided which library's classes an mmseg test after it got.
    """
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Counts are cached, but not among those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session')
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope='session')
def shared() -> Path:
    """The project's data and stage-1 models, which a user's clone has not."""
    path = REPO.parent / 'shared'
    if not path.is_dir():
        pytest.skip(f'needs the project data in {path}')
    return path


@pytest.fixture
def examine(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the examination of a stock config of mmdet, see benchmarks/coverage.py."""
    monkeypatch.syspath_prepend(str(repo / 'benchmarks'))
    import coverage

    folder = os.getcwd()
    yield lambda name: coverage.Examination('det', name, 'mmdet', tmp_path)
    os.chdir(folder)
    sys.modules.pop('coverage')
