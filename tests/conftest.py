"""Paths and small models that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


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
