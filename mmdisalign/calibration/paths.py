"""Find layers of a model by their paths."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def layers_at(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The submodules at a path, with their names.

    Args:
        module: Where the path begins.
        path: Names with dots between; ``*`` is each child of a list, ``-1`` its last, ``-2`` the
            one before.

    Raises:
        TypeError: If there is none.
    """
    name, _, rest = path.partition('.')
    children = dict(module.named_children())
    if name == '*':
        chosen = list(children)
    elif name.startswith('-') and name[1:].isdecimal():
        # A list may hold one layer under several names, of which named_children has the first.
        number = len(module) + int(name)
        chosen, children = [str(number)], {str(number): module[number]}
    else:
        chosen = [name] if name in children else []
    if not chosen:
        raise TypeError(f'{type(module).__name__} has no layer {path}')
    for each in chosen:
        found = layers_at(children[each], rest) if rest else [('', children[each])]
        yield from ((f'{each}.{own}'.rstrip('.'), layer) for own, layer in found)
