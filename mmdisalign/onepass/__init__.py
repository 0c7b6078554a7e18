"""Stage 2 in one pass: which images are passed, what is kept of them, and what is fitted to it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Imported when they are asked for: a command line is read before what takes seconds to import.
_PUBLIC = {
    'Fitted': 'plain',
    'Problem': 'methods',
    'Result': 'options',
    'calibrate': 'calibrator',
    'fit': 'plain',
    'method_named': 'methods',
    'method_names': 'methods',
}
__all__ = ['Fitted', 'Problem', 'Result', 'calibrate', 'fit', 'method_named', 'method_names']


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_PUBLIC[name]}'), name)
