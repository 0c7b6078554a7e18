"""A classifier whose features also tell the images of different classes apart."""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from mmengine.model import ExponentialMovingAverage
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.utils import ClsDataPreprocessor, batch_shuffle_ddp, batch_unshuffle_ddp
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..losses import labelled_contrastive_loss


@MODELS.register_module()
class MultiViewDataPreprocessor(ClsDataPreprocessor):
    """A ``ClsDataPreprocessor`` that also takes several views of an image, from ``MultiView``."""

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Of views, ``inputs`` is a list of batches; else as of ``ClsDataPreprocessor``."""
        inputs = data['inputs']
        if isinstance(inputs, Tensor) or (isinstance(inputs[0], Tensor) and inputs[0].dim() == 3):
            return super().forward(data, training)
        views = [
            super(MultiViewDataPreprocessor, self).forward({**data, 'inputs': view}, training)
            for view in inputs
        ]
        return {**views[0], 'inputs': [view['inputs'] for view in views]}


class MomentumContrast(nn.Module):
    """The parts of mmpretrain's ``MoCo`` beside a backbone, and the classes of the keys.

    Args:
        backbone: What keys are of; it stays its model's.
        projector: Makes a key of the backbone's maps.
        queue_len: Keys that are kept.
        momentum: Share of the backbone in that of the keys, per iteration.
        temperature: T of the loss.

    Attributes:
        queue: Keys, shape (K, D), at first at random and of no class.
        queue_label: Their classes, shape (K,).
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: dict,
        queue_len: int,
        momentum: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.projector = MODELS.build(projector)
        self.encoder_k = ExponentialMovingAverage(self._encoder(backbone), momentum)
        keys = torch.randn(queue_len, projector['out_channels'])
        self.register_buffer('queue', F.normalize(keys, dim=1))
        self.register_buffer('queue_label', torch.full((queue_len,), -1))
        self.register_buffer('queue_ptr', torch.zeros((), dtype=torch.long))

    def forward(
        self, maps: tuple[Tensor, ...], images: Tensor, label: Tensor, backbone: nn.Module
    ) -> Tensor:
        """The loss of a batch, whose keys are then kept.

        Args:
            maps: What the backbone made of one view.
            images: The other view, shape (N, 3, H, W).
            label: Classes, shape (N,).
            backbone: The one that ``maps`` are of.
        """
        query = F.normalize(self.projector(maps)[0], dim=1)
        key = self._keys(images, backbone)
        queue = self.queue.clone()  # for the backward pass, after the new keys are in it
        loss = labelled_contrastive_loss(
            query, key, queue, label, self.queue_label, self.temperature
        )
        self._enqueue(key, label)
        return loss

    def _encoder(self, backbone: nn.Module) -> nn.Module:
        return nn.Sequential(backbone, self.projector)

    @torch.no_grad()
    def _keys(self, images: Tensor, backbone: nn.Module) -> Tensor:
        self.encoder_k.update_parameters(self._encoder(backbone))
        # Shuffled over processes, so that no batch statistics tell which images are one's own.
        images, back = batch_shuffle_ddp(images)
        return batch_unshuffle_ddp(F.normalize(self.encoder_k(images)[0], dim=1), back)

    @torch.no_grad()
    def _enqueue(self, key: Tensor, label: Tensor) -> None:
        """Let the keys of all processes take the place of the oldest."""
        size = len(self.queue)
        key, label = (torch.cat(all_gather(own))[-size:] for own in (key, label))
        rows = (self.queue_ptr + torch.arange(len(label), device=label.device)) % size
        self.queue[rows], self.queue_label[rows] = key.to(self.queue), label
        self.queue_ptr.copy_((self.queue_ptr + len(label)) % size)


@MODELS.register_module()
class MoCoImageClassifier(ImageClassifier):
    """An ``ImageClassifier`` with the loss of momentum contrast beside its own.

    SSD's stage I (Li et al., ICCV 2021, section 3.1): cross-entropy of the first view of an image,
    and :func:`labelled_contrastive_loss` of both. It needs two views an image, ``MultiView``; it is
    tested as an ``ImageClassifier`` is. What its checkpoint has besides is ``contrast.*``, which a
    second stage leaves out.

    Args:
        projector: Makes a key of the backbone's maps, such as ``dict(type='MoCoV2Neck', ...)``.
        queue_len: Keys that are kept. Default: 115712, as released.
        momentum: Share of the backbone in that of the keys, per iteration. Default: 0.001.
        temperature: T. Default: 0.2, as released.
        data_preprocessor: Of :class:`MultiViewDataPreprocessor`, which is its type.
        train_cfg: As of ``ImageClassifier``, without ``augments``.
        kwargs: Arguments of ``ImageClassifier``.

    Raises:
        ValueError: If images are mixed.
    """

    def __init__(
        self,
        *,
        projector: dict,
        queue_len: int = 115712,
        momentum: float = 0.001,
        temperature: float = 0.2,
        data_preprocessor: Optional[dict] = None,
        train_cfg: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        preprocessor = {'type': 'MultiViewDataPreprocessor', **(data_preprocessor or {})}
        if (train_cfg or {}).get('augments') or preprocessor.get('batch_augments'):
            raise ValueError(
                'mixed images are of no one class: take train_cfg.augments and '
                'data_preprocessor.batch_augments out'
            )
        super().__init__(data_preprocessor=preprocessor, **kwargs)
        if not isinstance(self.data_preprocessor, MultiViewDataPreprocessor):
            raise ValueError(
                'views are prepared by a MultiViewDataPreprocessor: take data_preprocessor.type out'
            )
        self.contrast = MomentumContrast(self.backbone, projector, queue_len, momentum, temperature)

    def loss(self, inputs: list[Tensor], data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Two views of the images, each of shape (N, 3, H, W).
            data_samples: Ground truth of each image.

        Raises:
            TypeError: If there are not two views of each image.
        """
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise TypeError(
                f'{type(self).__name__} needs two views of an image: set '
                "dict(type='MultiView', num_views=[1, 1], transforms=[...]) in the pipeline"
            )
        maps = self.backbone(inputs[0])
        losses = self.head.loss(self.neck(maps) if self.with_neck else maps, data_samples)
        label = torch.cat([sample.gt_label for sample in data_samples]).to(inputs[0].device)
        losses['loss_contrast'] = self.contrast(maps, inputs[1], label, self.backbone)
        return losses
