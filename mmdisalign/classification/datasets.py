"""CIFAR-10 and CIFAR-100, made long-tailed."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpretrain.datasets import CIFAR10, CIFAR100
from mmpretrain.registry import DATASETS


def long_tailed_counts(num_classes: int, imbalance: float, most: int) -> list[int]:
    """Images of each class in the exponential profile: ``int(most · imbalance^(−c / (C − 1)))``.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples" (arXiv:1901.05555).

    Args:
        num_classes: C; class c = 0 is the most frequent.
        imbalance: Images of the first class over images of the last, at least 1.
        most: Images of the first class.

    Raises:
        ValueError: If there are fewer than 2 classes, or the imbalance is below 1, or so high that
            the last class has no image.
    """
    if num_classes < 2:
        raise ValueError(f'a profile needs at least 2 classes, got {num_classes}')
    if imbalance < 1:
        raise ValueError(f'imbalance is the most over the fewest images, at least 1: {imbalance}')
    counts = [int(most * imbalance ** (-c / (num_classes - 1))) for c in range(num_classes)]
    if not counts[-1]:
        raise ValueError(f'{imbalance=} leaves the last class none of {most} images')
    return counts


class LongTailedMixin:
    """Cuts the training split of a balanced data set to :func:`long_tailed_counts`.

    The images of a class are the first of a permutation, so that those of a higher imbalance are
    among those of a lower one. Other splits stay whole. Mixed in before the data set's class.

    Args:
        imbalance: Images of class 0 over images of the last class. Default: 100.
        seed: Seed of the permutations. Default: 0.
        hold_out: Images of each class that are kept from training, for choosing by: methods that
            watch validation images must not watch those of the test. Default: 0.
        held_out: Whether the data set has those, and no others. Default: False.
        kwargs: Arguments of the data set.

    Raises:
        ValueError: If images that were not held out are wanted.
    """

    def __init__(
        self,
        *args: Any,
        imbalance: float = 100,
        seed: int = 0,
        hold_out: int = 0,
        held_out: bool = False,
        **kwargs: Any,
    ) -> None:
        if held_out and hold_out < 1:
            raise ValueError('held_out=True needs hold_out, the number of images of each class')
        self.imbalance, self.seed = imbalance, seed
        self.hold_out, self.held_out = hold_out, held_out
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load images and labels, of the training split a part."""
        images = super().load_data_list()
        return self._cut(images) if self.split == 'train' else images

    def _cut(self, images: list[dict]) -> list[dict]:
        labels = np.array([image['gt_label'] for image in images])
        sizes = np.bincount(labels, minlength=len(self.CLASSES))
        most = int(sizes.min()) - self.hold_out
        counts = long_tailed_counts(len(sizes), self.imbalance, most)
        # Unlike that of a Generator, the stream of a RandomState never changes with numpy.
        random = np.random.RandomState(self.seed)
        kept = []
        for c, count in enumerate(counts):
            order = random.permutation(np.flatnonzero(labels == c))
            # The last ones are in no training split, whatever its imbalance.
            kept.append(order[len(order) - self.hold_out :] if self.held_out else order[:count])
        return [images[index] for index in np.sort(np.concatenate(kept))]


@DATASETS.register_module()
class CIFAR10LT(LongTailedMixin, CIFAR10):
    """CIFAR-10 with 5,000 to ``5000 / imbalance`` training images a class.

    Args:
        imbalance: Images of class 0 over images of class 9. Default: 100.
        seed: Which images. Default: 0.
        kwargs: Arguments of mmpretrain's ``CIFAR10``.
    """


@DATASETS.register_module()
class CIFAR100LT(LongTailedMixin, CIFAR100):
    """CIFAR-100 with 500 to ``500 / imbalance`` training images a class.

    Args:
        imbalance: Images of class 0 over images of class 99. Default: 100.
        seed: Which images. Default: 0.
        kwargs: Arguments of mmpretrain's ``CIFAR100``.
    """
