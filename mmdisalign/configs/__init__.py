"""Parts of configs for ``read_base``; ``configs/_base_`` has them for those with ``_base_``."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

# Of a schedule, what takes the place of stage 1's, where the rest changes some of it.
NUM_REPLACED = 2  # train_cfg, optim_wrapper


def over_base(name: str) -> dict[str, Any]:
    """A part for a config with ``_base_``, in which ``_delete_`` tells mmengine not to merge.

    A config with ``read_base`` replaces what it assigns, and has no such key.

    Args:
        name: Name of the file, such as ``'disalign_seg'``.
    """
    path = Path(__file__).with_name(f'{name}.py')
    part = runpy.run_path(str(path))['disalign']
    for schedule in (part['schedule'], part['short_schedule']):
        schedule[:NUM_REPLACED] = [{'_delete_': True, **own} for own in schedule[:NUM_REPLACED]]
    if name == 'disalign_cls':  # mmpretrain's Accuracy has arguments that ours has not
        part['evaluator'] = {'_delete_': True, **part['evaluator']}
    return part
