"""Run a frozen network over the training data once, and keep what its calibrations need."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .. import processes
from ..progress import progress_bar
from .fitted_loss import FittedLoss
from .fitting import Samples
from .image_choice import ImageChoice, image_numbers
from .sample_cache import Layout, SampleCache

SECONDS_BETWEEN_SAVES = 2.0
Collected = tuple[str, Samples, Mapping[int, float]]


class Collector(Protocol):
    """What a plug-in knows of its library's models.

    Attributes:
        layouts: Size of a sample of each calibration, by name.
        losses: The loss whose optimum the calibration is to be, by name.
        how: How samples are drawn from an image, in words.
    """

    layouts: Mapping[str, Layout]
    losses: Mapping[str, FittedLoss]
    how: str

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots for samples of each class, by calibration, that fit into so many bytes.

        Args:
            choice: The images that are passed.
            num_bytes: For all calibrations.
        """

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        """Samples of a batch by calibration, and how many elements its images had.

        ``Samples.image`` is the position of the image in the batch, as are the keys of the last;
        ignored elements are included.
        """


@runtime_checkable
class FullCollector(Collector, Protocol):
    """One whose samples are few of the elements of an image, and which can have all of them.

    Attributes:
        name: Of its one calibration.
        unit: What to call the elements.
    """

    name: str
    unit: str

    def full_losses(self, data: Any, class_weight: Tensor) -> tuple[int, float, float]:
        """How many valid elements a batch has, and the sum of their loss before and after the fit.

        Args:
            data: The batch.
            class_weight: Shape (C,).
        """


class SeededDataset(Dataset):
    """A data set whose augmentation depends on the seed and the index alone.

    So a run that goes on from the middle sees what an unbroken one sees. An index beyond its end is
    an image that is passed again, with other augmentation.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, index: int) -> Any:
        seed_everything(self.seed, index)
        return self.dataset[index % len(self.dataset)]


def seed_everything(*seed: int) -> None:
    """Seed the global generators, of which OpenMMLab's transforms and samplers draw."""
    (number,) = np.random.SeedSequence(seed).generate_state(1)
    random.seed(int(number))
    np.random.seed(number)
    torch.manual_seed(int(number))


@contextmanager
def captured(module: nn.Module) -> Iterator[list[tuple[tuple[Tensor, ...], Tensor]]]:
    """A list that gets the inputs and the output of each forward pass of a module."""
    passes: list[tuple[tuple[Tensor, ...], Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: passes.append((inputs, output)))
    try:
        yield passes
    finally:
        handle.remove()


def in_half(features: Tensor) -> np.ndarray:
    """Features in half precision.

    Raises:
        FloatingPointError: If they are not finite there.
    """
    half = features.half()
    _check_finite(half, 'features')
    return half.cpu().numpy()


def checked_logits(logits: Tensor) -> np.ndarray:
    """Scores in single precision; FloatingPointError if they are not finite."""
    _check_finite(logits, 'scores')
    return logits.float().cpu().numpy()


def _check_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        bad = values[~values.isfinite()]
        raise FloatingPointError(
            f'the network makes {what} of {bad[0].item()} ({len(bad)} of {values.numel()}): look '
            'at the checkpoint and the image'
        )


def collect(
    collector: Collector,
    cache: SampleCache,
    dataset: SeededDataset,
    choice: ImageChoice,
    *,
    batch_size: int,
    num_workers: int,
) -> None:
    """Fill the cache with samples of a data set, from where it stopped.

    Batches are numbered, and processes take them in turn. What is drawn of a batch depends on its
    number, not on which process has it.

    Args:
        collector: Of the model.
        cache: Gets the samples.
        dataset: Its seed is also that of what is drawn from an image.
        choice: Which images are passed.
        batch_size: Images at a time.
        num_workers: Processes that load them.
    """
    every = range(-(-len(choice) // batch_size))
    numbers = every[processes.rank() :: processes.number()][cache.done :]
    batches = [slice(number * batch_size, (number + 1) * batch_size) for number in numbers]
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=[index for batch in batches for index in choice.index[batch].tolist()],
        num_workers=num_workers,
        collate_fn=pseudo_collate,
    )
    images = image_numbers(dataset.dataset, choice.index)
    saved = time.monotonic()
    with progress_bar() as bar, torch.no_grad():
        task = bar.add_task('Collecting', total=len(choice))
        for number, batch, data in zip(numbers, batches, loaded(loader)):
            rng = np.random.default_rng([dataset.seed, number])
            seed_everything(dataset.seed, number)
            try:
                for name, samples, elements in collector(data, rng):
                    weight = choice.weight[batch]
                    samples.weight = samples.weight * weight[samples.image]
                    samples.view = batch.start + samples.image
                    samples.image = images[batch][samples.image]
                    cache.reservoirs[name].offer(samples, rng)
                    cache.elements[name] += sum(weight[i] * n for i, n in elements.items())
            except FloatingPointError as error:
                raise FloatingPointError(f'{error} ({", ".join(paths_of(data))})') from None
            cache.done += 1
            bar.update(task, completed=min(batch.stop, len(choice)))
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                cache.save()
                saved = time.monotonic()
    cache.save()


def loaded(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader; a worker's error is said in a line."""
    batches = iter(loader)
    while True:
        try:
            data = next(batches)
        except StopIteration:
            return
        except Exception as error:
            # PyTorch puts the traceback of a worker into the message, and what went wrong last.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            raise ValueError(f'the training pipeline cannot load an image: {reason}') from error
        yield data


def paths_of(data: Any) -> list[str]:
    """The files of the images of a batch."""
    samples = data['data_samples'] if isinstance(data, Mapping) else data
    return [str(getattr(sample, 'img_path', None) or '') for sample in samples]
