"""What command lines and their work share; it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Optional

DEMO_TASKS = ('segmentation', 'instances')
# Defaults of calibrate.py for speed against quality, as benchmarks/README.md measures them.
# By plug-in. An image of a classifier is one sample; the others have many of a class.
IMAGES_PER_CLASS = {'segmentation': 48, 'detection': 64, 'classification': 400}
PASSES = 4
FIT_ON = ('train', 'val', 'both', 'best')  # what a calibration is fitted to, or the best of these


def prior_of(out: Path) -> Path:
    """Where the class prior of a checkpoint is written."""
    return out.with_name(f'{out.stem}_prior.json')


def check_asked(
    *,
    out: Path,
    given: Iterable[object],
    method: str,
    value: object,
    exp_scale: object,
    passes: Optional[int],
) -> None:
    """Raise ValueError if what a calibration is asked for does not go together.

    Args:
        out: Checkpoint to write.
        given: Paths that are read, and are to stay.
        method: Or ``'best'``.
        value: Of its number, or None.
        exp_scale: Of DisAlign, or None.
        passes: Or None, as many as is usual.
    """
    if out.suffix != '.pth':
        raise ValueError(f'--out is a checkpoint, *.pth, got {out}')
    if exp_scale is not None and method != 'disalign':
        raise ValueError(f'--exp-scale is of disalign; of {method}, name --value')
    if value is not None and method == 'best':
        raise ValueError('--method best chooses the numbers: leave --value out')
    if value is not None and exp_scale is not None:
        raise ValueError('--value is --exp-scale for disalign: give one of them')
    if passes is not None and passes < 1:
        raise ValueError(f'--passes is at least 1, got {passes}')
    written = {own.resolve() for own in written_beside(out)}
    for path in given:
        if isinstance(path, (str, Path)) and Path(path).resolve() in written:
            raise ValueError(f'--out {out} would overwrite {path}: name another')


def written_beside(out: Path) -> list[Path]:
    """All that is written with a checkpoint."""
    methods = methods_of(out)
    return [out, out.with_suffix('.py'), prior_of(out), methods, methods.with_suffix('.html')]


def methods_of(out: Path) -> Path:
    """Where it is written what methods came to on validation images, beside a checkpoint."""
    return out.with_name(f'{out.stem}_methods.json')
