"""What command lines and their work share; it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

DEMO_TASKS = ('segmentation', 'instances')
# Defaults of calibrate.py for speed against quality, as benchmarks/README.md measures them.
# By plug-in. An image of a classifier is one sample; the others have many of a class.
IMAGES_PER_CLASS = {'segmentation': 48, 'detection': 64, 'classification': 400}
PASSES = 4
FIT_ON = ('train', 'val', 'both', 'best')  # what a calibration is fitted to, or the best of these


def prior_of(out: Path) -> Path:
    """Where the class prior of a checkpoint is written."""
    return out.with_name(f'{out.stem}_prior.json')


def written_beside(out: Path) -> list[Path]:
    """All that is written with a checkpoint."""
    methods = methods_of(out)
    return [out, out.with_suffix('.py'), prior_of(out), methods, methods.with_suffix('.html')]


def methods_of(out: Path) -> Path:
    """Where it is written what methods came to on validation images, beside a checkpoint."""
    return out.with_name(f'{out.stem}_methods.json')
