"""Breadcrumb: a second classifier, of features that the classes had in earlier epochs."""

from __future__ import annotations

from typing import Any, Optional

import torch
from mmengine.dist import all_gather, get_dist_info
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.models import heads
from mmpretrain.registry import HOOKS, MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import BackTrackedFeatures
from .class_hooks import head_of
from .hooks import StatefulHook, model_of
from .meta_sampler import drawn_batch, features_of, meta_seed
from .samplers import ClassSampler


@MODELS.register_module()
class BreadcrumbClsHead(heads.LinearClsHead):
    """A ``LinearClsHead`` that learns from balanced features, and ``fc_plain``, from the images.

    ``fc_plain`` trains the backbone; ``fc``, which predicts, sees constants that a
    :class:`BreadcrumbHook` gives. Source: Liu et al., ECCV 2022, see
    :class:`mmdisalign.calibration.BackTrackedFeatures`.

    Args:
        num_classes: Number of classes C.
        in_channels: Number of channels F.
        kwargs: Arguments of ``LinearClsHead``.

    Attributes:
        balanced: Features (N, F) and classes (N,) that ``fc`` learns from next.
        seen: Those of the images of the last batch.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc_plain = nn.Linear(in_channels, num_classes)
        self.balanced: Optional[tuple[Tensor, Tensor]] = None
        self.seen: Optional[tuple[Tensor, Tensor]] = None

    def loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Losses of both classifiers; arguments as of ``ClsHead``.

        Raises:
            RuntimeError: If no hook has given balanced features.
            ValueError: If images are mixed.
        """
        if self.balanced is None:
            raise RuntimeError(
                'BreadcrumbClsHead has no balanced features: set '
                "custom_hooks=[dict(type='BreadcrumbHook')]"
            )
        if 'gt_score' in data_samples[0]:
            raise ValueError('Breadcrumb keeps features by class: mixed images are of none')
        features = self.pre_logits(feats)
        label = torch.cat([sample.gt_label for sample in data_samples]).to(features.device)
        self.seen = features.detach(), label
        losses = self._get_loss(self.fc_plain(features), data_samples, **kwargs)
        given, classes = self.balanced
        scores = self.fc(given.to(features))
        losses['loss_balanced'] = self.loss_module(
            scores, classes.to(label), avg_factor=len(classes)
        )
        return losses


@HOOKS.register_module()
class BreadcrumbHook(StatefulHook):
    """Keeps the features of the last epochs, and gives a :class:`BreadcrumbClsHead` its batches.

    After each epoch, the features that the images of all processes had in it are kept; the next
    one has as many balanced batches of them as of images. Until the rarest class has enough, the
    batches are of images, of all classes equally often, through the backbone in eval mode and
    without a gradient (the release has it in train mode, which moves its statistics). The training
    process itself loads those images, so that an iteration takes about twice as long.

    What is kept is in the checkpoint: C times the images of an average class times F numbers, and
    what the rare classes had; of ImageNet-LT and 2,048 channels some 1.1 GB. Each process holds
    them on the CPU, and up to four times as much while it orders those of an epoch.

    Args:
        seed: Of the order of the features, and of the images that are drawn. Default: 0.
    """

    state = 'breadcrumb'

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def before_train(self, runner: Runner) -> None:
        """Begin without features, or with those that a training that is resumed had.

        Raises:
            TypeError: If the head is another one, or the loop has no epochs.
        """
        head = head_of(runner)
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise TypeError(
                'BreadcrumbHook counts in epochs: set train_cfg=dict(by_epoch=True, ...)'
            )
        if not isinstance(head, BreadcrumbClsHead):
            raise TypeError(
                f'BreadcrumbHook has no batches to give to {type(head).__name__}: set '
                "model.head.type='BreadcrumbClsHead'"
            )
        dataset = runner.train_dataloader.dataset
        self._sampler = ClassSampler(dataset, power=0, seed=meta_seed(self.seed))
        counts = self._sampler.counts.tolist()
        self._kept = BackTrackedFeatures(counts + [0] * (head.num_classes - len(counts)))
        state = self._resumed(runner)
        if state is not None:
            self._kept.load_state_dict(state['kept'])
        most = max(self._kept.epochs)
        if most >= runner.max_epochs:
            runner.logger.warning(
                f'Breadcrumb begins after {most} epochs, when the rarest class has '
                f'{self._kept.per_class} features, but training ends with {runner.max_epochs}: all '
                'balanced batches will be of images.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Order the balanced features of the epoch, the same way in all processes."""
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._features: Optional[tuple[Tensor, Tensor]] = None
        self._given = 0
        if self._kept.is_full:
            self._features = self._kept.balanced()
            own = torch.Generator().manual_seed(meta_seed(self.seed) + runner.epoch)
            self._order = torch.randperm(len(self._features[1]), generator=own)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Give the head its balanced batch."""
        size = len(data_batch['data_samples'])
        if self._features is None:
            batch = drawn_batch(runner.train_dataloader, self._sampler, runner.iter, size)
            head_of(runner).balanced = features_of(model_of(runner), batch)
            return
        rank, world_size = get_dist_info()
        rows = torch.arange(self._given + rank, self._given + size * world_size, world_size)
        order = self._order[rows % len(self._order)]
        head_of(runner).balanced = tuple(own[order] for own in self._features)
        self._given += size * world_size

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Keep what the head saw."""
        features, label = head_of(runner).seen
        self._seen.append((features.float().cpu(), label.cpu()))

    def after_train_epoch(self, runner: Runner) -> None:
        """Take in the features of all processes, in the order that one would have seen them.

        Raises:
            ValueError: If processes have other numbers of images.
        """
        features, label = (torch.cat(own) for own in zip(*self._seen))
        self._seen.clear()
        found = {int(number) for number in all_gather(torch.tensor([len(label)]))}
        if len(found) > 1:
            raise ValueError(
                f'Breadcrumb needs as many images in each process, but they have {sorted(found)}: '
                'set round_up=True in train_dataloader.sampler'
            )
        self._kept.add(_of_all(features), _of_all(label))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what is kept."""
        checkpoint[self.state] = {'kept': self._kept.state_dict()}


def _of_all(own: Tensor) -> Tensor:
    """Rows of all processes, in turns, as the sampler dealt them."""
    return torch.stack(all_gather(own), dim=1).flatten(0, 1)
