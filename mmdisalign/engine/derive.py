"""How each plug-in makes calibrated classes of its library's, and checks their losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from mmengine.registry import Registry
from torch import nn

from ..calibration.paths import layers_at


def derive(base: type, mixin: type, registry: Registry, name: Optional[str] = None) -> type:
    """A class with ``mixin`` before ``base``, registered as ``DisAlign<base>``.

    Where the registry has that name already, for a class of the user's that shares its name with
    one of the library's, the new class is made and not registered.

    Args:
        base: The library's class.
        mixin: What calibrates it.
        registry: The library's registry of models.
        name: Default: None, ``DisAlign`` and the name of ``base``.
    """
    name = name or f'DisAlign{base.__name__}'
    doc = f'``{base.__name__}``, calibrated; see :class:`{mixin.__name__}`.'
    # A name of the package, if any, is one that a pickled model finds again.
    module = mixin.__module__
    if name.startswith('Calibrated'):
        module = module.rpartition('.')[0]
    cls = type(name, (mixin, base), {'__doc__': doc, '__module__': module})
    if name not in registry.module_dict:
        registry.register_module(name=name, module=cls)
    return cls


def refusal(kind: type, reason: str) -> TypeError:
    """The error that says why a class cannot be calibrated."""
    return TypeError(f'{kind.__name__.removeprefix("DisAlign")} cannot be calibrated: {reason}')


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


def _refused(name: str, error: TypeError) -> type:
    """A class that says why it cannot be, once it is to be built.

    A registry hides what is raised while it looks for a type.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError(str(error))

    return type(name, (), {'__init__': refuse})


def calibrated_by_name(name: str, registry: Registry, make: Callable[[type], type]) -> type:
    """The class that a module's ``Calibrated<kind>`` stands for, made when a config names it.

    Args:
        name: Attribute of the module.
        registry: The library's registry of models, which has ``kind``.
        make: From a class to its calibrated class.

    Returns:
        That class; of one that cannot be calibrated, a class that says why, see :func:`refusal`.

    Raises:
        AttributeError: If the registry has no such class.
    """
    kind = registry.get(name.removeprefix('Calibrated')) if name.startswith('Calibrated') else None
    if kind is None:
        module = make.__module__.rpartition('.')[0]
        raise AttributeError(f'module {module!r} has no attribute {name!r}')
    try:
        return make(kind)
    except TypeError as error:
        return _refused(name, error)


def unknown_arguments(kind: type, options: Mapping[str, Any]) -> list[str]:
    """Which options no constructor of a class or of its bases has, sorted."""
    known = {name for own in kind.__mro__ for name in inspect.signature(own.__init__).parameters}
    return sorted(set(options) - known)


def registered_class(kind: Any, registry: Registry) -> type:
    """The class that the ``type`` of a config names, or is.

    Raises:
        KeyError: If it is not registered.
    """
    cls = registry.get(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(cls):
        raise KeyError(f'type {kind!r} is not registered in {registry.scope}')
    return cls


def type_name(kind: Any) -> str:
    """Name of a config's ``type``, a class or a string, without scope and module."""
    return kind.rpartition('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')


def check_kept(kind: type, ours: type) -> None:
    """Raise TypeError if a class does what a calibrated class in its place would not do.

    Args:
        kind: The class of stage 1.
        ours: Another than its calibrated class, written over it. What both construct differently,
            and properties, may differ.
    """
    for cls in kind.__mro__:
        changed = [name for name, own in vars(cls).items() if callable(own) and name != '__init__']
        if changed and not issubclass(ours, cls):
            plugin = '.'.join(ours.__module__.split('.')[:2])
            raise TypeError(
                f'{kind.__name__} has its own {", ".join(changed)}, which {ours.__name__} in its '
                f"place would not have: write type=f'{plugin}.Calibrated{{_base_.model.type}}', "
                'which keeps it or says why not'
            )


def check_prior(loss: nn.Module, num_classes: int, head: str) -> None:
    """Raise ValueError if a loss was built from the prior of another number of classes.

    Args:
        loss: A loss; one without a prior passes.
        num_classes: Of the head.
        head: What the message calls it.
    """
    own = getattr(loss, 'num_classes', num_classes)
    if own != num_classes:
        raise ValueError(
            f'the class prior of {type(loss).__name__} has {own} classes, but the {head} has '
            f'num_classes={num_classes}'
        )
