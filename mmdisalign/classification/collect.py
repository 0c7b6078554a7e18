"""Images of a classifier, for fitting its calibrations: all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from mmpretrain.models.heads import CSRAClsHead, MultiLabelClsHead
from mmpretrain.structures import DataSample, label_to_onehot
from torch import Tensor, nn

from ..engine.confidence import calibrations_of
from ..losses import GRWCrossEntropyLoss
from ..onepass.collect import Collected, captured, checked_logits, in_half
from ..onepass.fitted_loss import FittedLoss
from ..onepass.fitting import Samples
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .classifiers import CalibratedImageClassifier
from .losses import ReweightedSigmoidsMixin


@dataclass
class SigmoidsLoss(FittedLoss):
    """One on sigmoids; behind the scores of a sample are the labels of its image, (n, C).

    Attributes:
        head: The head.
    """

    head: nn.Module

    on_sigmoids: ClassVar[bool] = True

    @property
    def several(self) -> bool:
        """Whether an image may be of several classes."""
        return isinstance(self.head, MultiLabelClsHead)

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each image, (n,), see :class:`ElementLosses`."""
        scores, labels = scores.split(self.num_classes, dim=1)
        module = self.head.loss_module
        module.grw_weight = class_weight.to(scores)
        return module(scores, labels, reduction_override='none').sum(dim=1)

    def seen(self, samples: Samples) -> np.ndarray:
        """How many samples are of each class, (C,)."""
        rows = slice(None) if samples.rows is None else samples.rows
        return (samples.logits[rows][:, 0, self.num_classes :] > 0).sum(axis=0)


class SampleCollector:
    """Keeps what the classification layers saw of every image.

    Of two layers, whose scores the head adds or averages, each is fitted by itself: to its part of
    the loss of a Conformer, which has one of each; of a mean of scores, to a loss that bounds the
    one of the mean from above, since cross-entropy is convex in the scores (focal and asymmetric
    losses are not).

    On sigmoids, an image of several classes is among the samples of the rarest of them.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If it has no calibration with a confidence, another loss, or a head whose scores
            are of several positions.
    """

    how = 'the scores of each'
    training = True  # or the images are as they are evaluated

    def __init__(self, model: CalibratedImageClassifier) -> None:
        self.model, self.calibrations = model, calibrations_of(model)
        self.loss = self._fitted_loss()
        self.losses = dict.fromkeys(self.calibrations, self.loss)
        self.on_sigmoids = isinstance(self.loss, SigmoidsLoss)
        self.layouts = {
            name: Layout(1, own.in_channels, own.num_classes * (1 + self.on_sigmoids))
            for name, own in self.calibrations.items()
        }

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class, and on sigmoids of images of none."""
        slots = int(num_bytes // sum(layout.bytes for layout in self.layouts.values()))
        expected = np.append(choice.images, len(choice)) if self.on_sigmoids else choice.images
        return {name: fair_capacities(expected, slots) for name in self.layouts}

    def _fitted_loss(self) -> FittedLoss:
        head, loss, model = self.model.head, self.model.head.loss_module, self.model
        if isinstance(head, CSRAClsHead):
            raise ValueError(
                f'{type(head).__name__} calibrates each position, and its attention makes one '
                'score of them, which cannot be fitted in one pass: use train.py'
            )
        if self.calibrations and isinstance(loss, GRWCrossEntropyLoss):
            return FittedLoss.of(loss)
        if self.calibrations and isinstance(loss, ReweightedSigmoidsMixin):
            prior, weight = model.class_prior, loss.grw_weight
            return SigmoidsLoss(prior, model.exp_scale, weight, 'valid', head)
        raise ValueError(
            'DisAlign with GRWCrossEntropyLoss, or a loss on sigmoids with its weights, can be '
            f'fitted in one pass; the model has {type(head).__name__} with {type(loss).__name__}: '
            'use train.py'
        )

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, self.training)
        label, labels = self._labels(data['data_samples'])
        with ExitStack() as stack:
            passes = {
                name: stack.enter_context(captured(own)) for name, own in self.calibrations.items()
            }
            self.model.head(self.model.extract_feat(data['inputs']))
        for name, own in passes.items():
            ((logits, features), _) = own[-1]
            scores = torch.cat([_of_image(logits, len(label)), labels.to(logits)[:, None]], dim=2)
            samples = Samples(
                features=in_half(_of_image(features, len(label))),
                logits=checked_logits(scores),
                taps=np.ones((len(label), 1), np.float32),
                label=label,
                weight=np.ones(len(label)),
                image=np.arange(len(label), dtype=np.int32),
            )
            yield name, samples, dict.fromkeys(range(len(label)), 1.0)

    def _labels(self, data_samples: list[DataSample]) -> tuple[np.ndarray, Tensor]:
        """The label that images count by, (n,), and what of their labels passes, (n, C or 0)."""
        if not self.on_sigmoids:
            label = torch.cat([sample.gt_label for sample in data_samples])
            return label.cpu().numpy(), label.new_zeros(len(label), 0)
        number = self.loss.num_classes
        labels = torch.stack(
            [
                sample.gt_score
                if 'gt_score' in sample
                else label_to_onehot(sample.gt_label, number)
                for sample in data_samples
            ]
        )
        weight, rarest = (self.loss.class_weight.to(labels.device) * (labels > 0)).max(dim=1)
        return rarest.where(weight > 0, number).cpu().numpy(), labels


def _of_image(values: Tensor, images: int) -> Tensor:
    """What a calibration sees of each image, (N, C) or (N, C, *) with one position, as (N, 1, C).

    Raises:
        ValueError: If it is of several positions, or images have several labels.
    """
    values = values.unsqueeze(-1).flatten(2)
    if values.shape[::2] != (images, 1):
        raise ValueError(
            f'{len(values)} scores at {values.shape[2]} positions are not one of each of {images} '
            'labels: use train.py'
        )
    return values.transpose(1, 2)
