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
    module.__class__ = _mixed(type(module), mixin, prefix)


@cache
def _mixed(kind: type, mixin: type, prefix: str) -> type:
    doc = f'``{kind.__name__}``, changed by :class:`{mixin.__name__}`.'
    body = {'__doc__': doc, '__module__': mixin.__module__}
    return type(f'{prefix}{kind.__name__}', (mixin, kind), body)
