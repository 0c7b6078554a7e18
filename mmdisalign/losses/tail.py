"""Which classes are rare, as EQL and DropLoss have it."""

from __future__ import annotations

from typing import Optional

import numpy as np
import torch
from torch import Tensor

from ..calibration import ClassPrior


def tail_classes(prior: ClassPrior, share: float, num_images: Optional[float] = None) -> Tensor:
    """Which classes are in less than a share of the images, strictly, bool, shape (C,).

    Args:
        prior: With image counts, see ``unit`` of :meth:`ClassPrior.build`; else its counts are
            taken for them.
        share: λ, in [0, 1].
        num_images: Of the training data. Default: None, the sum of the counts: each image has one
            class.

    Raises:
        ValueError: If a class is in more images than there are, or the share is none.
    """
    if not 0 <= share <= 1:
        raise ValueError(f'a share of images is in [0, 1], got {share}')
    return torch.from_numpy(image_shares(prior, num_images) < share)


def image_shares(prior: ClassPrior, num_images: Optional[float] = None) -> np.ndarray:
    """n_c / N of each class, float64, shape (C,); arguments as of :func:`tail_classes`."""
    counts = prior.numbers
    total = counts.sum() if num_images is None else num_images
    if counts.max() > total:
        name = prior.name_of(int(counts.argmax()))
        raise ValueError(
            f'{name} is in {counts.max():g} of {total:g} images: give num_images of the training '
            "data, and a class_prior with unit='images'"
        )
    return counts / total
