"""What ``test.py --out`` saved."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Union

import numpy as np

from .unpickle import load_plain


def read_predictions(path: Union[str, Path], num_images: int, fields: Sequence[str]) -> list[dict]:
    """Predictions that mmdet's or mmpretrain's ``test.py --out`` pickled.

    Args:
        path: Pickle file; code in it is refused, see :func:`load_plain`.
        num_images: How many images the test data has.
        fields: What each prediction has.

    Raises:
        ValueError: If it is no pickle of predictions, or has not one an image.
    """
    if Path(path).suffix not in ('.pkl', '.pickle') or not Path(path).is_file():
        raise ValueError(f'{path} is no pickle file, *.pkl, as test.py --out saves predictions in')
    predictions = load_plain(path)
    if not isinstance(predictions, list) or len(predictions) != num_images:
        found = len(predictions) if isinstance(predictions, list) else type(predictions).__name__
        raise ValueError(
            f'{path} should hold what test.py --out saved for the {num_images} images of the test '
            f'data, but it has {found}'
        )
    for number, own in enumerate(predictions):
        missing = [name for name in fields if not isinstance(own, Mapping) or name not in own]
        if missing:
            raise ValueError(
                f'{path}: prediction {number} has no {", ".join(missing)}: it is of another '
                'library, or of another task, than the config'
            )
    return predictions


def most_changed(
    images: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    members: Sequence[int],
    count: int,
    unit: str,
) -> list[tuple[int, str]]:
    """Where predictions changed most from or to some classes, or of what is of them.

    Args:
        images: True class, prediction before and prediction after of the elements of each image,
            three arrays of one shape.
        members: Indices of the classes.
        count: How many images, at most.
        unit: What to call the elements.

    Returns:
        Index of each image that changed, most first, and what changed in words.
    """
    changes = []
    for index, (truth, before, after) in enumerate(images):
        involved = np.isin(truth, members) | np.isin(before, members) | np.isin(after, members)
        changed = involved & (before != after)
        right, wrong = (int((changed & (own == truth)).sum()) for own in (after, before))
        changes.append((int(changed.sum()), index, right, wrong))
    return [
        (index, f'{total:,} {unit} changed, {right:,} to the right class, {wrong:,} from it')
        for total, index, right, wrong in heapq.nlargest(count, changes)
        if total
    ]
