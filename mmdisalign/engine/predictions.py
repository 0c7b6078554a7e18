"""What ``test.py --out`` saved."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from mmengine.fileio import load


def read_predictions(path: Union[str, Path], num_images: int) -> list[dict]:
    """Predictions that mmdet's or mmpretrain's ``test.py --out`` pickled.

    Args:
        path: Pickle file, which must come from a trusted source.
        num_images: How many images the test data has.

    Raises:
        ValueError: If the file has not one prediction an image.
    """
    predictions = load(path)
    if not isinstance(predictions, list) or len(predictions) != num_images:
        found = len(predictions) if isinstance(predictions, list) else type(predictions).__name__
        raise ValueError(
            f'{path} should hold what test.py --out saved for the {num_images} images of the test '
            f'data, but it has {found}'
        )
    return predictions
