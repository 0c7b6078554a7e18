"""The validation images, by which methods and their numbers are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from torch import nn

from ..calibration import ClassPrior
from ..counting import classes_of_images
from ..engine import check_data
from .collect import Collector, SeededDataset
from .image_choice import ImageChoice, image_numbers
from .judging import Judge, SampleJudge, metric_names
from .one_pass import SCORES
from .passing import ImagePass

LABELS = {'segmentation': 'gt_sem_seg', 'classification': 'gt_label'}


class Validation:
    """The labelled images of a config's ``val_dataloader``, which are passed once.

    Args:
        cfg: The config.
        prior: Of the training data.
        training: The training images.
        passing: The pass over these.

    Raises:
        ValueError: If there are none that could choose; the message says why.
    """

    def __init__(
        self,
        cfg: Config,
        prior: ClassPrior,
        training: BaseDataset,
        passing: ImagePass,
    ) -> None:
        if cfg.get('val_dataloader') is None:
            raise ValueError('the config has no val_dataloader')
        check_data(cfg, 'val')
        self.prior, loader = prior, Config(cfg.val_dataloader.to_dict())
        if passing.plugin == 'segmentation':  # whose images are as large as they are
            loader.batch_size = 1
        self.dataset = DATASETS.build(cfg.val_dataloader.dataset)
        folder = passing.cache_dir / 'validation'
        self.passing = replace(passing, loader=loader, cache_dir=folder, cache=None)
        self._check(training)

    @property
    def names(self) -> Sequence[str]:
        """Of the judge's values, see :class:`Judge`."""
        return metric_names(self.prior, SCORES[self.passing.plugin])

    def _check(self, training: BaseDataset) -> None:
        if not len(self.dataset):
            raise ValueError('the validation data set of the config has no images')
        classes = self.dataset.metainfo.get('classes')
        if classes is not None:
            try:
                self.prior.check_classes(classes)
            except ValueError as error:
                raise ValueError(f'the validation data set: {error}') from error
        own, theirs = (
            set(image_numbers(data, np.arange(len(data))).tolist())
            for data in (self.dataset, training)
        )
        # Of images without names, the numbers are but those of their order.
        if self._are_named() and own <= theirs:
            raise ValueError('the validation images are among those of training')
        if self._are_named() and own & theirs:
            number = f'{len(own & theirs):,} of {len(own):,}'
            print(f'{number} validation images are among those of training, and flatter what is.')
        self._check_labels()

    def _check_labels(self) -> None:
        label = LABELS[self.passing.plugin]
        if label not in self.dataset[0]['data_samples']:
            raise ValueError(f'the validation images have no labels ({label})')

    def _are_named(self) -> bool:
        tells = hasattr(self.dataset, 'get_data_info')
        return bool(tells and self.dataset.get_data_info(0).get('img_path'))

    def check(self, kind: type, model: nn.Module) -> None:
        """Raise ValueError if images cannot judge the model.

        Args:
            kind: Of its collector.
            model: With calibrations.
        """
        collector: Collector = kind(model)
        if not hasattr(collector, 'training') or len(collector.layouts) > 1:
            raise ValueError('what the model scores in training is not what it predicts by')

    def judge(self, kind: type, model: nn.Module) -> Judge:
        """Run the images through the network; what judges by what it made of them.

        Args:
            kind: Of the model's collector.
            model: With one calibration, untouched.

        Raises:
            ValueError: If its samples are not what it predicts.
        """
        collector: Collector = kind(model)
        collector.training = False
        choice = self._every_image()
        seeded = SeededDataset(self.dataset, self.passing.seed)
        found, _ = self.passing.collect(collector, seeded, choice, len(self.prior))
        (samples,) = found.values()
        return SampleJudge(samples, self.prior, SCORES[self.passing.plugin])

    def _every_image(self) -> ImageChoice:
        """All images: how many have a class is theirs, and not that of training."""
        number = len(self.dataset)
        images = np.full(len(self.prior), number)
        if hasattr(self.dataset, 'get_data_info'):
            classes = classes_of_images(self.passing.plugin, self.dataset, len(self.prior))
            found = np.concatenate([np.unique(own) for own in classes]).astype(int)
            images = np.maximum(np.bincount(found, minlength=len(self.prior)), 1)
        return ImageChoice(np.arange(number), np.ones(number), images[: len(self.prior)])

    def remove(self) -> None:
        """Delete what is kept of the images."""
        self.passing.remove()
