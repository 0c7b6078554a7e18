"""Samplers that decide how often each class is seen, by a rule or by learned rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Optional, Union

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmpretrain.registry import DATA_SAMPLERS
from torch import Tensor
from torch.utils.data import Sampler


class ClassProbabilitySampler(Sampler):
    """Draws a class by its probability, then an image that has it uniformly, with replacement.

    An epoch has ``len(dataset)`` draws, each of which belongs to one process. They depend on the
    seed, the epoch and the probabilities alone, and are made one at a time: a change of the
    probabilities is in the next one.

    Args:
        dataset: A data set of mmpretrain, or a wrapper of one, with one label an image, or several.
        seed: The same on all processes. Default: None, drawn at random.
        round_up: Whether all processes draw the same number, so that an epoch may exceed the
            data set by a few draws. Default: True.

    Attributes:
        counts: Number of images of each class, shape (C,), up to the last class with one.
        probabilities: Of each class, shape (C,), float64.

    Raises:
        TypeError: If the data set has no labels.
        ValueError: If none of its images has one.
    """

    counts: np.ndarray
    probabilities: np.ndarray

    def __init__(
        self, dataset: Sized, *, seed: Optional[int] = None, round_up: bool = True
    ) -> None:
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        rest = 0 if round_up else self.rank
        self.num_samples = math.ceil((len(dataset) - rest) / self.world_size)
        labels, images = _labels(dataset)
        self.counts = np.bincount(labels)
        # The images of class c are _images[_starts[c]:][:counts[c]].
        self._images = images[np.argsort(labels, kind='stable')]
        self._starts = np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        """Number of draws of this process in an epoch."""
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        """Indices of the images of this process in the epoch that was set."""
        return islice(self.draws(), len(self))

    def draws(self) -> Iterator[int]:
        """What :meth:`__iter__` begins with, without an end."""
        random = np.random.default_rng([self.seed, self.epoch])
        while True:
            # All processes draw for all, so their draws are never the same ones.
            u_class, u_image = random.random((self.world_size, 2))[self.rank]
            c = np.searchsorted(self._cumulative, u_class, side='right')
            yield int(self._images[self._starts[c] + int(u_image * self.counts[c])])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the draws of the next iteration."""
        self.epoch = epoch

    def _set_probabilities(self, weights: np.ndarray) -> None:
        """Take probabilities in proportion to weights (C,), 0 where there is no image."""
        weights = np.where(self.counts > 0, weights, 0.0)
        cumulative = np.cumsum(weights)
        # Ends with 1 exactly, so that no draw below 1 falls behind the last class.
        self._cumulative = cumulative / cumulative[-1]
        self.probabilities = weights / cumulative[-1]


@DATA_SAMPLERS.register_module()
class ClassSampler(ClassProbabilitySampler):
    r"""Samples classes by a power of their frequency.

    .. math:: p_j = \frac{n_j^q}{\sum_i n_i^q}

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
    ICLR 2020, section 4.1, equations 1 and 2.

    Args:
        dataset: A data set of mmpretrain, or a wrapper of one, with one label an image, or several.
        power: q: 1 is instance-balanced, 0.5 square-root and 0 class-balanced sampling.
            Default: 0.
        progressive_epochs: T: progressively balanced sampling instead, which goes from
            instance-balanced in epoch 0 to class-balanced in epoch T and after. Default: None.
        seed: The same on all processes. Default: None, drawn at random.
        round_up: Whether all processes draw the same number. Default: True.

    Raises:
        TypeError: If the data set has no labels.
        ValueError: If ``progressive_epochs`` is not positive, or comes with a ``power``.
    """

    def __init__(
        self,
        dataset: Sized,
        power: float = 0.0,
        progressive_epochs: Optional[int] = None,
        seed: Optional[int] = None,
        round_up: bool = True,
    ) -> None:
        if progressive_epochs is not None and progressive_epochs <= 0:
            raise ValueError(f'progressive_epochs must be positive, got {progressive_epochs}')
        if progressive_epochs is not None and power != 0:
            raise ValueError(
                f'progressive_epochs={progressive_epochs} goes from power 1 to 0 by itself: leave '
                f'out power={power}'
            )
        super().__init__(dataset, seed=seed, round_up=round_up)
        self.power = power
        self.progressive_epochs = progressive_epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the draws and the progress of balancing."""
        super().set_epoch(epoch)
        if self.progressive_epochs is None:
            self._set_probabilities(self._shares(self.power))
            return
        progress = min(epoch / self.progressive_epochs, 1.0)
        self._set_probabilities((1 - progress) * self._shares(1) + progress * self._shares(0))

    def _shares(self, power: float) -> np.ndarray:
        """Probabilities of equation 1."""
        seen = self.counts > 0
        # Relative to the largest, so that no power of a count overflows.
        relative = np.where(seen, self.counts, 1) / self.counts.max()
        weights = np.where(seen, relative**power, 0.0)
        return weights / weights.sum()


@DATA_SAMPLERS.register_module()
class LearnedClassSampler(ClassProbabilitySampler):
    """Samples classes by rates that a hook sets while training runs, see ``MetaSamplerHook``.

    The classes are balanced until then. New rates are in the next draw; the batches that the
    workers of the data loader have fetched ahead were drawn with the old ones.

    Args:
        dataset: A data set of mmpretrain, or a wrapper of one, with one label an image, or several.
        seed: The same on all processes. Default: None, drawn at random.
        round_up: Whether all processes draw the same number. Default: True.

    Raises:
        TypeError: If the data set has no labels.
    """

    def __init__(self, dataset: Sized, seed: Optional[int] = None, round_up: bool = True) -> None:
        super().__init__(dataset, seed=seed, round_up=round_up)
        self._set_probabilities(np.ones(len(self.counts)))

    @property
    def rates(self) -> np.ndarray:
        """Probability of each class, shape (C,), float64: 0 for a class without an image."""
        return self.probabilities

    def set_rates(self, rates: Union[np.ndarray, Tensor]) -> None:
        """Draw from now on by these rates; the same ones must be set on all processes.

        Args:
            rates: One of each class, shape (C,), not negative. Their sum does not matter; those of
                classes without an image are left out.

        Raises:
            ValueError: If they are not rates of the classes of the data set.
        """
        if isinstance(rates, Tensor):
            rates = rates.detach().cpu()
        rates = np.asarray(rates, dtype=np.float64)
        num_classes = len(self.counts)
        if rates.ndim != 1 or len(rates) < num_classes:
            raise ValueError(
                f'rates must be one of each class, but the data set has {num_classes} classes and '
                f'the rates are of shape {rates.shape}'
            )
        rates = rates[:num_classes]
        total = rates[self.counts > 0].sum()
        if not (np.all(rates >= 0) and 0 < total < math.inf):
            raise ValueError(
                f'rates must be finite, not negative, and positive somewhere, got {rates}'
            )
        self._set_probabilities(rates)


def _labels(dataset: Sized) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the image that each is of, both (L,): an image may have several, or none."""
    name = type(dataset).__name__
    try:
        labels = [np.atleast_1d(own) for own in _of_images(dataset)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TypeError(
            f'{name} cannot be sampled by class: it has no label of each image '
            "(get_gt_labels() or get_data_info(i)['gt_label'])"
        ) from error
    images = np.repeat(np.arange(len(labels)), [len(own) for own in labels])
    if not len(images):
        raise ValueError(f'{name} cannot be sampled by class: none of its images has a label')
    labels = np.concatenate([own for own in labels if len(own)])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f'{name} cannot be sampled by class: its labels must be class indices, got shape '
            f'{labels.shape} of {labels.dtype}'
        )
    return labels, images


def _of_images(dataset: Sized) -> Sequence[Any]:
    """The label of each image, or its labels.

    Each data set of mmengine has infos, and so do its wrappers, which have no ``get_gt_labels``;
    but one's own may have its labels elsewhere.
    """
    try:
        return [dataset.get_data_info(index)['gt_label'] for index in range(len(dataset))]
    except (AttributeError, KeyError):
        found = dataset.get_gt_labels()
        if len(found) != len(dataset):
            raise ValueError(f'{len(found)} labels of {len(dataset)} images') from None
        return found
