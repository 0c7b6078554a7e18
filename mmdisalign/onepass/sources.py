"""What is fitted to: samples of training images, of validation images that choose, or of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, Optional

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from .. import processes
from ..calibration import ClassPrior
from ..counting.counting import leaves_of, listed
from ..engine import iter_datasets, type_name
from ..engine.data_check import inner_datasets
from .collect import Collector, SeededDataset
from .fitting import Samples
from .image_choice import image_numbers
from .one_pass import OnePass
from .passing import ImagePass, fit_device
from .sample_cache import Joined, Layout

TRAINING_SHARE = {'train': 1.0, 'val': 0.0, 'both': 0.5}  # of the weights of training samples
LEAST_IMAGES = 4  # validation images of a class, below which it is fitted to training images
MIXES_IMAGES = ('MultiImageMixDataset', 'KFoldDataset')


class Collected(NamedTuple):
    """Samples by name of the calibration, and how many elements came, ignored ones included."""

    samples: Mapping[str, Samples]
    elements: Mapping[str, float]


def no_samples(layouts: Mapping[str, Layout]) -> Collected:
    """What is fitted to by methods that learn nothing.

    Args:
        layouts: Of each calibration, by its name.
    """
    of_samples = {field.name for field in fields(Samples)}
    samples = {}
    for name, own in layouts.items():
        arrays = {key: np.zeros(shape, kind) for key, (kind, shape) in own.arrays(0).items()}
        kept = {key: made for key, made in arrays.items() if key in of_samples}
        samples[name] = Samples(**kept, device=fit_device())
    return Collected(samples, dict.fromkeys(layouts, 0.0))


class FitOnValidation:
    """The validation images that choose, passed as training images are, to be fitted to.

    Args:
        cfg: Config of the model.
        passing: The pass over the training images.

    Raises:
        ValueError: If what the training pipeline makes of an image needs others.
    """

    def __init__(self, cfg: Config, passing: ImagePass) -> None:
        loader = Config(cfg.train_dataloader.to_dict())
        loader.dataset = _as_in_training(cfg)
        folder = passing.cache_dir / 'fitted'
        self.passing = replace(passing, loader=loader, cache_dir=folder, cache=None)
        self.dataset = DATASETS.build(copy.deepcopy(loader.dataset))
        for part in leaves_of(self.dataset):
            _stay(part)

    def collect(
        self,
        collector: Collector,
        prior: Sequence,
        per_class: object,
        passes: int,
        choosing: np.ndarray,
    ) -> Collected:
        """Their samples.

        Args:
            collector: Of the model, in training.
            prior: Of the training data.
            per_class: See :meth:`ImagePass.choice`.
            passes: How often an image is passed, at most.
            choosing: Numbers of the images, see :func:`image_numbers`.
        """
        numbers = image_numbers(self.dataset, np.arange(len(self.dataset)))
        among = np.flatnonzero(np.isin(numbers, choosing))
        choice = processes.of_first(
            lambda: self.passing.choice(self.dataset, prior, per_class, passes, among)
        )
        seeded = SeededDataset(self.dataset, self.passing.seed)
        return Collected(*self.passing.collect(collector, seeded, choice, len(prior)))

    def remove(self) -> None:
        """Delete the samples."""
        self.passing.remove()


def _stay(dataset: BaseDataset) -> None:
    """Let a data set augment the same image again where it would take any other in its place.

    That other may be one of those that report.
    """
    prepare, last = dataset.prepare_data, [0]

    def prepared(index: int) -> Any:
        last[0] = index
        return prepare(index)

    dataset.prepare_data, dataset._rand_another = prepared, lambda: last[0]


def _as_in_training(cfg: Config) -> Config:
    """The validation data set with the pipeline of the training data set."""
    for part in _wrappers(cfg.train_dataloader.dataset):
        if part in MIXES_IMAGES:
            raise ValueError(
                f'{part} makes one training image of several, so those that choose would be mixed '
                'with those that report: --fit-on train'
            )
    pipelines = [part.get('pipeline') for part in iter_datasets(cfg.train_dataloader.dataset)]
    dataset = copy.deepcopy(cfg.val_dataloader.dataset)
    for part in iter_datasets(dataset):
        part['pipeline'] = copy.deepcopy(pipelines[0])
        part['test_mode'] = False
    return dataset


def _wrappers(dataset: Mapping) -> list[str]:
    """Names of the types above the data sets of a config."""
    inner = inner_datasets(dataset)
    own = [type_name(dataset.get('type'))] if inner else []
    return own + [name for part in inner for name in _wrappers(part)]


def images_of_classes(samples: Samples, num_classes: int) -> np.ndarray:
    """In how many images each class was seen, shape (C,)."""
    pairs = np.unique(np.stack([samples.label, samples.image], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=num_classes)[:num_classes]


def mixed(training: Samples, validation: Samples, share: float, scarce: np.ndarray) -> Samples:
    """Samples of both, that stand for as many elements as those of the training images.

    Args:
        training: Samples.
        validation: Samples.
        share: Of the training samples, of the weight of each class; labels that are no class are
            shared alike.
        scarce: Classes whose validation samples are too few to count, shape (C,).
    """
    num_classes = len(scarce)
    shares = np.full(1 + max(num_classes, training.label.max(), validation.label.max()), share)
    shares[:num_classes][scarce] = 1.0
    as_many = training.weight.sum() / validation.weight.sum()
    weights = (
        training.weight * shares[training.label],
        validation.weight * (1 - shares[validation.label]) * as_many,
    )
    kept = [np.flatnonzero(weight) for weight in weights]
    parts = (training, validation)
    small = {
        name: np.concatenate([getattr(part, name)[own] for part, own in zip(parts, kept)])
        for name in ('label', 'quality')
    }
    # Of images without names, the numbers are those of their order, in both.
    images = -1 - training.image[kept[0]], validation.image[kept[1]]
    # An image as it was passed has its own number, though its samples be from elsewhere.
    later = training.view.max(initial=-1) + 1
    views = training.view[kept[0]], validation.view[kept[1]] + later
    length = len(training.features)
    rows = _rows(training)[kept[0]], _rows(validation)[kept[1]] + length
    return Samples(
        **{
            name: Joined([getattr(part, name) for part in parts])
            for name in ('features', 'logits', 'taps')
        },
        **small,
        weight=np.concatenate([weight[own] for weight, own in zip(weights, kept)]),
        rows=np.concatenate(rows),
        view=np.concatenate(views),
        image=np.concatenate(images),
        shared=training.shared,
        device=training.device,
    )


def one_passes_of(
    make: Callable[[Mapping[str, Samples], Mapping[str, float]], OnePass],
    fit_on: str,
    training: Collected,
    validation: Optional[Collected],
    prior: ClassPrior,
    learns: bool,
) -> dict[str, OnePass]:
    """What is fitted to, by its source.

    Args:
        make: Makes it of samples and elements.
        fit_on: See :data:`FIT_ON`.
        training: Samples.
        validation: Samples, of a model with one calibration; None where no source takes them.
        prior: Of the training data.
        learns: Whether training samples are needed.

    Raises:
        ValueError: If they are, and there is none of a class.
    """
    first = make(*training)
    if learns:
        first.check_classes()
    sources = list(TRAINING_SHARE) if fit_on == 'best' else [fit_on]
    if validation is not None:
        scarce = _scarce(validation, prior)
    return {
        source: make(*_mixture(training, validation, TRAINING_SHARE[source], scarce))
        if TRAINING_SHARE[source] < 1
        else first
        for source in sources
    }


def _scarce(validation: Collected, prior: ClassPrior) -> np.ndarray:
    """Classes that too few of the images have to be fitted to those alone, shape (C,), and say."""
    (samples,) = validation.samples.values()
    scarce = images_of_classes(samples, len(prior)) < LEAST_IMAGES
    if scarce.any():
        names = [prior.name_of(index) for index in np.flatnonzero(scarce)]
        print(
            f'Fewer than {LEAST_IMAGES} of the validation images that choose have '
            f'{listed(names, 8)}: these are fitted to training images.'
        )
    return scarce


def _mixture(
    training: Collected, validation: Collected, share: float, scarce: np.ndarray
) -> Collected:
    ((name, own),) = training.samples.items()
    samples = mixed(own, validation.samples[name], share, scarce)
    per_valid = [
        part.elements[name] / part.samples[name].weight.sum() for part in (training, validation)
    ]
    elements = np.dot([share, 1 - share], per_valid) * samples.weight.sum()
    return Collected({name: samples}, {name: float(elements)})


def _rows(samples: Samples) -> np.ndarray:
    return np.arange(len(samples)) if samples.rows is None else samples.rows
