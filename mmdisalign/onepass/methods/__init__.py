"""Second-stage methods, each a module of this package that its name finds.

A module has ``PARAMETER``, what the method's one number is called, or None; ``LEARNS``, whether
there is something to be fitted to samples; ``VALUES``, what is tried of its number, the first where
nothing is chosen; and ``fit(problem, value)``, which makes an ``nn.Module`` of samples: scores
(N, C, *) of the scores and features of a classifier. A dash in a method's name is a line in the
module's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Optional, Protocol

from torch import nn

from .problem import Problem


class Method(Protocol):
    """What a module of a method has."""

    PARAMETER: Optional[str]
    LEARNS: bool
    VALUES: tuple[float, ...]
    fit: Callable[[Problem, float], nn.Module]


def method_names() -> list[str]:
    """The names of all methods, sorted."""
    found = (module.name.replace('_', '-') for module in iter_modules(__path__))
    return sorted(set(found) - {'problem'})


def method_named(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in method_names():
        raise ValueError(f'no method {name!r}; there are {", ".join(method_names())}')
    return import_module(f'{__name__}.{name.replace("-", "_")}')
