"""DisAlign's distribution alignment for long-tailed recognition, as plug-ins for OpenMMLab.

Importing this package imports no heavy library. A config names the plug-in it needs:
``custom_imports = dict(imports=['mmdisalign.segmentation'])``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdisalign.version import __version__

__all__ = ['__version__', 'calibrate', 'config_path', 'shipped']


def __getattr__(name: str) -> Any:
    """``calibrate``, which needs what takes seconds to import."""
    if name != 'calibrate':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmdisalign.onepass import calibrate

    return calibrate


def config_path(name: str) -> str:
    """Return the absolute path of a config that ships with mmdisalign.

    A config outside this repository inherits with it, wherever mmdisalign is installed::

        _base_ = [__import__('mmdisalign').config_path('_base_/disalign_seg.py')]

    Args:
        name: Path below ``configs/``, e.g. ``'_base_/disalign_seg.py'``.

    Raises:
        FileNotFoundError: If there is no such config; the message lists those with a similar name.
    """
    root = shipped('configs')
    path = root / name
    if path.is_file():
        return str(path)

    from difflib import get_close_matches

    names = sorted(file.relative_to(root).as_posix() for file in root.rglob('*.py'))
    # The likeliest mistake is a wrong folder, whose letters can make a right name look far off.
    same = [other for other in names if Path(other).stem == Path(name).stem]
    close = dict.fromkeys(same + get_close_matches(name, names, n=5, cutoff=0.5))
    hint = f'did you mean {" or ".join(close)}?' if close else f'none of its {len(names)} is close'
    raise FileNotFoundError(f'no config {name!r} in {root}; {hint}')


def shipped(folder: str) -> Path:
    """Return ``configs`` or ``tools``: a checkout's live folder, else the installed copy."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / 'setup.py').is_file() and (checkout / folder).is_dir():
        return checkout / folder
    return package / '.mim' / folder
