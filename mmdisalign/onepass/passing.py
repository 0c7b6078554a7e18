"""Pass the images of a data set through a frozen network, and keep samples of what it sees."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device

from .. import __version__, processes
from ..counting import classes_of_images
from ..counting.cache import file_identity
from ..defaults import IMAGES_PER_CLASS
from ..engine import iter_datasets
from ..engine.configs import model_config
from .collect import Collector, SeededDataset, collect
from .fitting import Samples
from .image_choice import ImageChoice, enough_images, every_image, identity_of_images
from .sample_cache import SampleCache


def fit_device() -> str:
    """Where samples are computed with: a GPU, or the CPU beside one without double precision."""
    return get_device() if get_device() == 'cuda' else 'cpu'


@dataclass
class ImagePass:
    """One pass over the images of a loader, which a later run can go on from.

    Attributes:
        cfg: Config of the model.
        loader: Config of the loader.
        plugin: Such as ``'segmentation'``.
        checkpoint: Of the model.
        seed: Of augmentation and sampling.
        cache_dir: Where the samples go.
        cache_size: Bytes of them, at most.
        keep: Whether other samples there stay.
        cache: The samples, once there are any.
    """

    cfg: Config
    loader: Mapping[str, Any]
    plugin: str
    checkpoint: str
    seed: int
    cache_dir: Path
    cache_size: float
    keep: bool
    cache: Optional[SampleCache] = None

    def choice(
        self,
        dataset: BaseDataset,
        prior: Any,
        per_class: Any,
        passes: int,
        among: Optional[np.ndarray] = None,
    ) -> ImageChoice:
        """Which images of the data set are passed.

        Args:
            dataset: Built.
            prior: Class frequencies of it.
            per_class: Images of each class, ``'all'``, or None, as many as is usual.
            passes: How often one is passed, at most.
            among: Positions of those that may be. Default: None, all.

        Raises:
            ValueError: If there are none.
        """
        among = np.arange(len(dataset)) if among is None else among
        if not len(among):
            raise ValueError('the training data set of the config has no images')
        per_class = per_class or IMAGES_PER_CLASS[self.plugin]
        # Also where all are passed: it is here that a faulty annotation is found.
        tells = per_class != 'all' or hasattr(dataset, 'get_data_info')
        classes = classes_of_images(self.plugin, dataset, len(prior)) if tells else []
        if per_class == 'all':
            found = every_image(len(among), passes, prior)
        else:
            own = [classes[i] for i in among.tolist()]
            found = enough_images(own, len(prior), per_class, passes, self.seed)
        return found.within(among, len(dataset))

    def collect(
        self,
        collector: Collector,
        dataset: SeededDataset,
        choice: ImageChoice,
        num_classes: int,
    ) -> tuple[dict[str, Samples], dict[str, float]]:
        """Keep samples of the chosen images.

        Returns:
            Samples by calibration, and how many elements came, ignored ones included.

        Raises:
            ValueError: If there is no room for a sample of each class.
        """
        capacities = collector.capacities(choice, self.cache_size)
        if any((own[:num_classes] < 1).any() for own in capacities.values()):
            least = num_classes * sum(layout.bytes for layout in collector.layouts.values())
            raise ValueError(
                f'there is no room for a sample of each class, which alone take {least / 1e6:.1f} '
                'MB: raise --cache-size'
            )
        # Of the first: the times of change of files differ on disks of their own.
        identity = processes.of_first(lambda: self.identity(choice, capacities, dataset.dataset))
        cache = SampleCache(self.cache_dir, identity, collector.layouts, capacities)
        self.cache = cache
        size = sum(collector.layouts[name].bytes * own.sum() for name, own in capacities.items())
        size *= processes.number()  # each has all slots: a class's samples may all come to one
        slots = sum(int(own.sum()) for own in capacities.values())
        print(
            f'{choice.how(len(dataset.dataset))}, and {collector.how}. Up to {slots:,} '
            f'samples, {size / 1e6:,.0f} MB in {self.cache_dir}, and then up to 2 GB of memory. Of '
            'a class with more samples than slots, each is kept with the same probability.'
        )
        batch_size = self.loader.batch_size
        done = sum(processes.gathered(cache.done))
        if done:
            print(f'Going on after {min(done * batch_size, len(choice)):,} images.')
        self.remove_others(cache.folder)
        workers = self.loader.get('num_workers', 0)
        collect(collector, cache, dataset, choice, batch_size=batch_size, num_workers=workers)
        return cache.merged(fit_device())

    def remove(self) -> None:
        """Delete the samples, if there are any."""
        if self.cache is not None:
            self.cache.remove()

    def remove_others(self, folder: Path) -> None:
        """Delete what other arguments left beside a folder of samples, unless that is to stay."""
        if not self.keep and processes.rank() == 0:
            for other in set(self.cache_dir.glob('samples_*')) - {folder}:
                shutil.rmtree(other)

    def identity(
        self, choice: ImageChoice, capacities: Mapping[str, np.ndarray], dataset: BaseDataset
    ) -> dict[str, Any]:
        """What decides the samples; those of anything else are not gone on from."""
        files = [self.checkpoint]
        for part in iter_datasets(self.loader.dataset):
            files.append(str(Path(part.get('data_root') or '', part.get('ann_file') or '')))
        slots = {name: own.tolist() for name, own in capacities.items()}
        # Of the loader, the batch size decides what is drawn together. Classes become their names.
        named = Config(dict(model=model_config(self.cfg), data=self.loader.dataset)).to_dict()
        parts = (named, self.loader.batch_size, slots, __version__)
        config = repr((*parts, import_module(self.cfg.default_scope).__version__))
        return {
            'config': hashlib.sha256(config.encode()).hexdigest(),
            'files': [[path, Path(path).is_file() and file_identity(path)] for path in files],
            'images': identity_of_images(dataset),
            'options': [self.seed, choice.identity],
        }
