"""Which images of a data set are enough to fit a calibration to."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from ..calibration import ClassPrior
from ..counting.cache import file_identity
from ..counting.counting import leaves_of


@dataclass(frozen=True)
class ImageChoice:
    """The images that are passed, in this order, one perhaps some times.

    Attributes:
        index: Image i of a data set of n, when it is passed for the p-th time, is number
            (p - 1) * n + i, shape (M,).
        weight: How many images each stands for, shape (M,).
        images: How many of them have each class, at most, shape (C,).
    """

    index: np.ndarray
    weight: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def how(self, length: int) -> str:
        """How many images are passed how often, in words.

        Args:
            length: Of the data set.
        """
        times = np.bincount(self.index % length)
        least, most = times[times > 0].min(), times.max()
        often = f', {"up to " * int(least < most)}{most} times, {len(self):,} in all'
        return f'{(times > 0).sum():,} of {length:,} images{often * int(most > 1)}'

    def within(self, images: np.ndarray, length: int) -> ImageChoice:
        """The same choice, where the data set was but some images of another.

        Args:
            images: Their positions in the other, shape (n,).
            length: Of the other.
        """
        number, image = np.divmod(self.index, len(images))
        return replace(self, index=number * length + images[image])

    @property
    def identity(self) -> str:
        """What tells it from others."""
        return hashlib.sha256(self.index.tobytes() + self.weight.tobytes()).hexdigest()


def image_numbers(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """A number for each image, the same whenever it is passed, or where it is repeated.

    Args:
        dataset: The data set, or a wrapper.
        index: As in :class:`ImageChoice`.
    """
    tells = hasattr(dataset, 'get_data_info')
    names = [
        str((tells and dataset.get_data_info(i).get('img_path')) or i)
        for i in (index % len(dataset)).tolist()
    ]
    return np.array([zlib.crc32(name.encode()) >> 1 for name in names], dtype=np.int32)


def identity_of_images(dataset: Dataset) -> str:
    """What tells the images and label maps of a data set from others of the same names.

    Of files, their sizes and times of change; of images in memory, their pixels.

    Args:
        dataset: The data set, or a wrapper.
    """
    digest = hashlib.sha256(str(len(dataset)).encode())
    if not hasattr(dataset, 'get_data_info'):  # it does not tell
        return digest.hexdigest()
    for part in leaves_of(dataset):
        for index in range(len(part)):
            info = part.get_data_info(index)
            for key in ('img_path', 'seg_map_path'):
                path = info.get(key)
                digest.update(f'{path} {path and file_identity(path)}\n'.encode())
            if 'img' in info:
                digest.update(np.ascontiguousarray(info['img']))
    return digest.hexdigest()


def every_image(length: int, passes: int, prior: ClassPrior) -> ImageChoice:
    """All images of a data set, as often as it is passed.

    Args:
        length: Of the data set.
        passes: How often.
        prior: Of the data set; it may know how many images have a class.
    """
    images = prior.images
    if images is None and prior.counts.sum() == length:  # these images were counted
        images = prior.counts
    # A prior may be of other images, or in other units: then all classes are alike.
    most = np.full(len(prior), float(length)) if images is None else np.minimum(images, length)
    number = passes * length
    return ImageChoice(np.arange(number), np.ones(number), passes * np.maximum(most, 1))


def enough_images(
    classes: Sequence[np.ndarray], num_classes: int, per_class: int, passes: int, seed: int
) -> ImageChoice:
    """Draw so few images that each class is in about ``per_class`` of them.

    Systematic sampling with unequal sizes (Madow 1949): how often an image is to be passed is what
    the rarest of its classes asks, ``per_class`` over the number of that class's images. It is
    passed that often, rounded up or down at random, and each time stands for 1 / that many of its
    kind, so that sums over the images are estimated without bias (Hansen and Hurwitz 1943). Thus
    of a frequent class some images are passed, spread over the data set, and those of a rare class
    again and again, each time with other augmentation.

    Args:
        classes: Which classes each image has; of images without any, as many are drawn as of a
            class.
        num_classes: C.
        per_class: Images of each class.
        passes: How often an image is passed at most.
        seed: Of what is drawn.
    """
    rows = [np.unique(own) if len(own) else np.array([num_classes]) for own in classes]
    images = np.bincount(np.concatenate(rows), minlength=num_classes + 1)
    asked = np.minimum(passes, per_class / np.maximum(images, 1))
    often = np.array([asked[own].max() for own in rows])
    ends = np.random.default_rng(seed).random() + np.cumsum(often)
    times = np.diff(np.floor(ends), prepend=0).astype(int)
    # First all that are passed once, in the order of the data set, then those that are again.
    passed = [np.flatnonzero(times >= number) for number in range(1, times.max() + 1)]
    image = np.concatenate(passed)
    index = np.concatenate([number * len(rows) + own for number, own in enumerate(passed)])
    found = np.bincount(np.concatenate([rows[i] for i in image]), minlength=num_classes + 1)
    return ImageChoice(index, 1 / often[image], np.maximum(found[:num_classes], 1.0))
