"""A classifier that begins with the mean features of each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader, Dataset

from .heads import classifier_of
from .hooks import model_of
from .meta_sampler import features_of


@HOOKS.register_module()
class ClassMeansHook(Hook):
    """Start the head's classifier with the mean features of each class, of length 1.

    LIFT (Shi et al., "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML
    2024) begins with those of the pretrained backbone. They take one pass over the training images,
    in eval mode, prepared as those of validation where these are one data set. A training that is
    resumed goes on with the classifier it had.

    Raises:
        ValueError: If a class has no training image.
    """

    priority = 'VERY_HIGH'

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        """Set the weights, after the checkpoint was loaded; a bias becomes 0."""
        if runner.iter > 0:
            return
        runner.logger.info('The classifier begins with the mean features of each class.')
        model = model_of(runner)
        classifier = classifier_of(model.head)
        sums = torch.zeros_like(classifier.weight, dtype=torch.float64)
        for batch in _batches(runner):
            features, label = features_of(model, batch)
            sums.index_add_(0, label.to(sums.device), features.to(sums))
        all_reduce(sums)
        absent = (~sums.any(dim=1)).nonzero().flatten().tolist()
        if absent:
            raise ValueError(
                f'no training image, so no mean feature, of class {absent[0]}: leave '
                'ClassMeansHook out'
            )
        classifier.weight.copy_(F.normalize(sums, dim=1))
        if classifier.bias is not None:
            classifier.bias.zero_()


class _Prepared(Dataset):
    """The images of a data set, by another pipeline."""

    def __init__(self, images: Any, pipeline: Callable[[dict], Any]) -> None:
        self.images, self.pipeline = images, pipeline

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.pipeline(self.images.get_data_info(index))


def _batches(runner: Runner) -> DataLoader:
    """The training images of this process, each once."""
    loader, val = runner.train_dataloader, runner.val_loop
    images = loader.dataset
    pipeline = None if val is None else getattr(val.dataloader.dataset, 'pipeline', None)
    if pipeline is not None:
        images = _Prepared(images, pipeline)
    rank, world_size = get_dist_info()
    return DataLoader(
        images,
        batch_size=loader.batch_size or 1,
        sampler=range(rank, len(images), world_size),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
