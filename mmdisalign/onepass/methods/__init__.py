"""Second-stage methods, each a module of this package that its name finds.

A module has ``PARAMETER``, what the method's one value is called, or None; ``LEARNS``, whether
there is something to be fitted to samples; ``VALUES``, numbers that are tried, or all names that
there are, the first where nothing is chosen; and ``fit(problem, value)``, which makes an
``nn.Module`` of samples: scores (N, C, *) of the scores and features of a classifier. A dash in a
method's name is a line in the module's. Of a method for one kind of classifier alone, the module
has this as ``LAYER``, and its scores have ``folded_into(layer)``, what changes in the state of one.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Optional, Protocol, Union

from torch import nn

from .problem import Problem

Value = Union[float, str]


class Method(Protocol):
    """What a module of a method has."""

    PARAMETER: Optional[str]
    LEARNS: bool
    VALUES: tuple[Value, ...]
    fit: Callable[[Problem, Value], nn.Module]


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


def layer_of_method(name: str) -> Optional[type[nn.Module]]:
    """The one kind of classifier that a method is for, or None, for any."""
    return getattr(method_named(name), 'LAYER', None)


def foldable(scores: nn.Module) -> bool:
    """Whether the weights of a classifier can make scores: a linear one's, or its own kind's."""
    return hasattr(scores, 'folded') or hasattr(scores, 'folded_into')


def checked_value(method: str, value: Optional[Value]) -> Value:
    """The value of a method, or the first that it tries.

    Raises:
        ValueError: If it is not one of the method's, or there is no such method.
    """
    module = method_named(method)
    if value is None:
        return module.VALUES[0]
    if module.PARAMETER is None:
        raise ValueError(f'{method} has no number, got value={value!r}')
    if isinstance(module.VALUES[0], str):
        if value not in module.VALUES:
            names = ', '.join(map(str, module.VALUES))
            raise ValueError(f'{module.PARAMETER} of {method} is one of {names}, got {value!r}')
        return value
    # Real has numpy's numbers, too.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f'{module.PARAMETER} of {method} is a number of at least 0, got {value!r}')
    return float(value)
