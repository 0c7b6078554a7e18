"""The one place that says which versions of other packages mmdisalign accepts.

``setup.py`` runs this file by itself, in a build environment that holds setuptools alone, so
everything but the standard library is imported where it is used.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

RANGES = {
    'numpy': '',
    'packaging': '',
    'torch': '>=2.0',
    'mmengine': '>=0.10.4,<1',
    'mmcv': '>=2.0.0rc4,<2.2',
    'mmsegmentation': '>=1.2.2,<2',
    'mmdet': '>=3.3,<4',
    'mmpretrain': '>=1.2,<2',
    'setuptools': '<82',  # mmengine imports pkg_resources, which setuptools 82 no longer has
    'ftfy': '',  # mmsegmentation imports ftfy and regex without requiring them
    'regex': '',
    'faster-coco-eval': '>=1.8',  # LVIS's average precision
    'lvis': '',  # mmdet reads LVIS's annotations with it
    'jinja2': '',
    'matplotlib': '',
    'pillow': '',
    'pytest': '>=7',
    'pytest-xdist': '',
}
BASE = ('numpy', 'packaging', 'torch')
_OPENMMLAB = ('mmengine', 'mmcv', 'setuptools')
EXTRAS = {
    'seg': (*_OPENMMLAB, 'mmsegmentation', 'ftfy', 'regex'),
    'det': (*_OPENMMLAB, 'mmdet', 'faster-coco-eval', 'lvis'),
    'cls': (*_OPENMMLAB, 'mmpretrain'),
    # What tools/analyze.py needs; torch, mmengine and mmcv bring it, too.
    'report': ('jinja2', 'matplotlib', 'pillow'),
}
EXTRAS['tests'] = ('pytest', 'pytest-xdist', *EXTRAS['report'])
EXTRAS['all'] = tuple(dict.fromkeys(EXTRAS['seg'] + EXTRAS['det'] + EXTRAS['cls']))


def requirements(names: Sequence[str]) -> list[str]:
    """Write packages with their accepted ranges as pip does: ``['mmcv>=2.0.0rc4,<2.2', ...]``."""
    return [name + RANGES[name] for name in names]


def require(extra: str) -> None:
    """Check that the packages of one extra are installed, in versions that work.

    Only the packages' metadata is read, so a wrong version is named before it fails in its own way.

    Args:
        extra: ``'seg'``, ``'det'``, ``'cls'``, ``'report'``, ``'tests'`` or ``'all'``.

    Raises:
        ImportError: If any is missing or out of range. The message names each with its installed
            version and its accepted range, and the pip command that helps.
        ValueError: If there is no such extra.
    """
    if extra not in EXTRAS:
        raise ValueError(f'there is no extra {extra!r}; there are: {sorted(EXTRAS)}')
    found = {name: _installed_version(name) for name in (*BASE, *EXTRAS[extra])}
    wrong = tuple(name for name in found if found[name] is None)
    if found['packaging'] is not None:  # what compares versions can itself be missing
        wrong += tuple(name for name in found if found[name] and not _in_range(name, found[name]))
    if not wrong:
        return
    states = [
        f'{name} {"is not installed" if found[name] is None else f"{found[name]} is installed"}; '
        f'{RANGES[name] or "any version"} works'
        for name in wrong
    ]
    # mmcv is last, and not in isolation: a build of it that does not see torch leaves out the ops.
    others = [name for name in wrong if name != 'mmcv']
    commands = [_pip_install(others)] * bool(others)
    commands += [_pip_install(['mmcv'], '--no-build-isolation')] * ('mmcv' in wrong)
    message = (
        f'mmdisalign[{extra}] cannot be used with what is installed: {", ".join(states)}.\n'
        f'To install what works: {" && ".join(commands)}'
    )
    # mmengine takes an ImportError in a config's type for 'not registered' and hides its message.
    warnings.warn(message, stacklevel=2)
    raise ImportError(message)


def _pip_install(names: Sequence[str], *flags: str) -> str:
    quoted = (f'"{requirement}"' for requirement in requirements(names))
    return ' '.join((f'{sys.executable} -m pip install', *flags, *quoted))


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _in_range(name: str, installed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(RANGES[name]).contains(installed, prereleases=True)


if __name__ == '__main__':  # `make PYTHON=...` asks whether that environment will do
    try:
        for argument in sys.argv[1:]:
            require(argument)
    except ImportError as error:
        sys.exit(str(error))
