"""Is a label map read as it was meant? Asked of its file, where mmseg's loader would not say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

import mmseg.datasets.transforms as transforms
import numpy as np
from mmcv.transforms import LoadAnnotations as LoadAnyAnnotations
from mmseg.registry import TRANSFORMS
from PIL import ExifTags, Image

STRETCHED = ('L;2', 'L;4')  # Pillow's names of grey levels of 2 and 4 bits in a file
WAY_OUT = 'save one label a pixel, in grey levels of 8 bits or as a palette PNG'


@TRANSFORMS.register_module()
class CheckedLoadAnnotations(transforms.LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which refuses a map that it would read wrong.

    ``tools/train.py`` and ``tools/test.py`` put it in the place of mmseg's.
    """

    def transform(self, results: dict) -> dict:
        """As mmseg's, after :func:`check_map`."""
        check_map(results, self)
        return super().transform(results)


def map_fault(info: Mapping[str, Any], load: LoadAnyAnnotations) -> Optional[str]:
    """Why a label map would be read wrong, without a word, or None.

    mmseg's loader keeps the lower 8 bits of what it reads, and takes a map for that of its image
    whatever their sizes. Of what is not on this disk, or loaded by a transform of the user's own,
    nothing is said.

    Args:
        info: What a data set says of an image: ``seg_map_path`` and, if known, ``img_path``.
        load: What loads the map.
    """
    path = info['seg_map_path']
    if stock_loader(load) is not transforms.LoadAnnotations or not os.path.isfile(path):
        return None
    try:
        with Image.open(path) as labels:
            return _value_fault(labels, load) or _size_fault(labels.size, info.get('img_path'))
    # What Pillow cannot read, the loader may, or says so.
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None


def stock_loader(load: LoadAnyAnnotations) -> type:
    """The class of a loading transform; of the checked one, mmseg's, of which it reads the same."""
    return transforms.LoadAnnotations if type(load) is CheckedLoadAnnotations else type(load)


def check_map(info: Mapping[str, Any], load: LoadAnyAnnotations) -> None:
    """Raise ValueError, with the file, where :func:`map_fault` finds one."""
    fault = map_fault(info, load)
    if fault:
        raise ValueError(f'{info["seg_map_path"]} {fault}')


def _value_fault(labels: Image.Image, load: LoadAnyAnnotations) -> Optional[str]:
    raw = str(labels.tile[0][3]) if labels.tile else ''
    if raw.startswith(STRETCHED) or (labels.mode == '1' and load.imdecode_backend != 'pillow'):
        return f'has fewer than 8 bits in grey, which readers stretch to 0 ... 255: {WAY_OUT}'
    if labels.mode == 'P' and load.imdecode_backend != 'pillow':
        return (
            f'is a palette PNG, which {load.imdecode_backend} reads as colours: leave '
            'imdecode_backend out of LoadAnnotations'
        )
    if labels.mode not in ('1', 'L', 'P') and labels.mode[0] not in 'IF':
        return f'has colours ({labels.mode}), which are no labels: {WAY_OUT}'
    if labels.mode[0] in 'IF':  # 16 or 32 bits
        values = np.asarray(labels)
        most = values.max()
        if values.min() < 0:
            return f'has negative labels, of which mmseg reads 8 bits: {WAY_OUT}'
        if most > 255:
            return (
                f'has labels up to {most:.0f}, of which mmseg reads 8 bits, so {int(most) % 256}: '
                'number the classes below 255, with 255 for what is ignored, or load them with a '
                'transform of your own'
            )
    return None


def _size_fault(size: tuple[int, int], img_path: Optional[str]) -> Optional[str]:
    if not img_path or not os.path.isfile(img_path):
        return None
    with Image.open(img_path) as image:
        own = image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) > 4:
            own = own[::-1]  # OpenCV turns it
    if own == size:
        return None
    return (
        f'is {size[0]} x {size[1]} pixels, its image {img_path} is {own[0]} x {own[1]}: a map has '
        'one label for each pixel of its image'
    )
