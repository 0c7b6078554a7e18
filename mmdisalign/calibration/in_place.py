"""Change what a module does where it stands, so that whatever refers to it sees the change."""

from __future__ import annotations

from functools import cache

from torch import nn


def mix_in(module: nn.Module, mixin: type, prefix: str) -> None:
    """Put a mixin before the class of a module, whose parameters keep their names.

    Args:
        module: Changed in place.
        mixin: What it does otherwise.
        prefix: Of the name of its new class, before that of its own.
    """
    module.__class__ = mixed(type(module), mixin, prefix)


def _reduced(module: nn.Module, _: int) -> tuple:
    """How to pickle a module whose class has no name to import it by."""
    mixin, kind = type(module).__bases__
    prefix = type(module).__name__.removesuffix(kind.__name__)
    return _empty, (kind, mixin, prefix), module.__dict__


def _empty(kind: type, mixin: type, prefix: str) -> nn.Module:
    return object.__new__(mixed(kind, mixin, prefix))


@cache
def mixed(kind: type, mixin: type, prefix: str) -> type:
    """The class of a module of a kind with a mixin before it, see :func:`mix_in`."""
    doc = f'``{kind.__name__}``, changed by :class:`{mixin.__name__}`.'
    body = {'__doc__': doc, '__module__': mixin.__module__, '__reduce_ex__': _reduced}
    return type(f'{prefix}{kind.__name__}', (mixin, kind), body)
