"""Read a config of either style, and tell which library it is for."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config, DictAction
from mmengine.utils import get_object_from_string

from .data_check import iter_datasets
from .derive import check_kept, registered_class
from .stage import CalibrationStageMixin

# The folder of each library's plug-in.
PLUGINS = {'mmseg': 'segmentation', 'mmdet': 'detection', 'mmpretrain': 'classification'}


def read_config(path: Union[str, Path], options: Optional[Sequence[str]] = None) -> Config:
    """Read a config whose types are strings, or one with ``read_base`` whose types are classes.

    A config of the latter kind may have no ``default_scope``: then it gets that of its model, for
    what OpenMMLab, or we, add to it by name.

    Args:
        path: File.
        options: ``KEY=VALUE``, as of the command line, which override it. Default: None.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If its model is calibrated, and does not do what that of its base does.
        ValueError: If it cannot be read, or an option does not fit; the message says why.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path} (seen from {Path.cwd()})')
    try:
        with _recorded_models() as kinds:
            cfg = Config.fromfile(path)
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a config: {type(error).__name__}: {error}'
        ) from error
    if options:
        try:
            cfg.merge_from_dict(parse_options(options))
        except Exception as error:
            raise ValueError(
                f'--cfg-options {" ".join(options)} cannot override {path}: '
                f'{type(error).__name__}: {error}'
            ) from error
    if cfg.get('default_scope') not in PLUGINS:
        found = filter(None, (_library_of(kind) for kind in _kinds(cfg)))
        cfg.default_scope = next(found, cfg.get('default_scope'))
    _check_model_is_kept(cfg, kinds)
    return cfg


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """The values of ``KEY=VALUE``, as OpenMMLab reads them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--options', *options] if options else []).options


def is_new_style(path: Union[str, Path]) -> bool:
    """Whether a config file has ``read_base``, or types that are classes."""
    return Config._is_lazy_import(str(path))


def named(value: Any) -> Any:
    """A config's value with names for its classes and functions, as a text config has them.

    mmengine writes a class as the path of its module, which its registries cannot follow where a
    package has a function of the module's name, such as ``mmdet.models.losses.smooth_l1_loss``.
    """
    if isinstance(value, Mapping):
        return {key: named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(named(item) for item in value)
    return _name(value) if inspect.isclass(value) or inspect.isroutine(value) else value


def _name(kind: Any) -> str:
    path = f'{kind.__module__}.{kind.__qualname__}'
    with suppress(Exception):
        if get_object_from_string(path) is kind:
            return path
    library = kind.__module__.partition('.')[0]
    return f'{library}.{kind.__name__}' if library in PLUGINS else kind.__name__


def check_keys(cfg: Config, *keys: str) -> None:
    """Raise ValueError if a config has not what will be used of it.

    Args:
        cfg: The config.
        keys: Such as ``'train_dataloader'``.
    """
    missing = [key for key in keys if not cfg.get(key)]
    if missing:
        raise ValueError(f'{cfg.filename} has no {", ".join(missing)}')


def plugin_of(cfg: Config) -> str:
    """Name of the plug-in for a config's library, such as ``'segmentation'``.

    Raises:
        ValueError: If it is a config of another library.
    """
    scope = cfg.get('default_scope')
    if scope not in PLUGINS:
        raise ValueError(
            f'{cfg.filename} is not a config of {", ".join(PLUGINS)}: its default_scope is {scope}'
        )
    return PLUGINS[scope]


def prepare(cfg: Config, *splits: str) -> None:
    """Let the plug-in check what it knows of a config, and replace what cannot work.

    Args:
        cfg: Changed in place.
        splits: Which of its data loaders and evaluators will be used: ``'train'``, ``'val'``,
            ``'test'``.

    Raises:
        ValueError: If it would fail later.
    """
    plugin = import_module(f'mmdisalign.{plugin_of(cfg)}')
    if hasattr(plugin, 'prepare'):
        plugin.prepare(cfg, *splits)


@contextmanager
def _recorded_models() -> Iterator[list[Any]]:
    """While the context lasts, the ``model.type`` of each file that mmengine reads, bases first.

    A config has but the last of them.
    """
    read, kinds = Config._file2dict, []

    def file2dict(*args: Any, **kwargs: Any) -> Any:
        content, *others = read(*args, **kwargs)
        model = content.get('model')
        kinds.append(model.get('type') if isinstance(model, Mapping) else None)
        return content, *others

    Config._file2dict = staticmethod(file2dict)
    try:
        yield kinds
    finally:
        Config._file2dict = staticmethod(read)


def _check_model_is_kept(cfg: Config, kinds: Sequence[Any]) -> None:
    """Raise TypeError if a calibrated type was written over one that does something else."""
    given = (cfg.get('model') or {}).get('type')
    before = [kind for kind in kinds if kind not in (None, given)]
    if not before or cfg.get('default_scope') not in PLUGINS:
        return
    models = import_module(f'{cfg.default_scope}.registry').MODELS
    with suppress(KeyError):  # of a type that is not registered, the build tells
        ours, *others = (registered_class(kind, models) for kind in (given, *reversed(before)))
        stage1 = next((o for o in others if not issubclass(o, CalibrationStageMixin)), None)
        if stage1 is not None and issubclass(ours, CalibrationStageMixin):
            check_kept(stage1, ours)


def _kinds(cfg: Config) -> Iterator[Any]:
    """What a config is made of that is of one library: its model, and data sets."""
    yield (cfg.get('model') or {}).get('type')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in iter_datasets(loader.get('dataset')):
            yield dataset.get('type')


def _library_of(kind: Any) -> Optional[str]:
    """The library that a ``type`` is of, or is derived from."""
    if isinstance(kind, str) and '.' in kind:
        scope = kind.partition('.')[0]
        kind = scope if scope in PLUGINS else get_object_from_string(kind)
    if not inspect.isclass(kind):
        return kind if kind in PLUGINS else None
    packages = (base.__module__.partition('.')[0] for base in kind.__mro__)
    return next((package for package in packages if package in PLUGINS), None)


def model_config(cfg: Config) -> dict[str, Any]:
    """The model of a config as mmengine's Runner builds it: with the config's preprocessor."""
    common = cfg.get('data_preprocessor')
    return dict(cfg.model) if common is None else {'data_preprocessor': common, **cfg.model}
