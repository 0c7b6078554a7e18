"""Find layers of a model by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from .derive import refusal


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


def layers_of_base(
    head: nn.Module, module: nn.Module, paths: Sequence[str], example: str
) -> dict[str, nn.Module]:
    """The layers of a head where those of its base class are, by their names.

    Args:
        head: What the message calls them by.
        module: Where the paths begin.
        paths: See :func:`layers_at`.
        example: Of the path of a layer in a model.

    Raises:
        TypeError: If it has none there.
    """
    try:
        return dict(own for path in paths for own in layers_at(module, path))
    except TypeError as error:
        raise refusal(
            type(head),
            f'it has no {", ".join(paths)}, where its base has its classification layers; name its '
            f'own, such as calibrated_layers=[{example!r}]',
        ) from error
