"""Images of a classifier, for fitting its calibrations: all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.confidence import calibrations_of
from ..losses import GRWCrossEntropyLoss
from ..onepass.collect import Collected, captured, checked_logits, in_half
from ..onepass.fitted_loss import FittedLoss
from ..onepass.fitting import Samples
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .classifiers import CalibratedImageClassifier


class SampleCollector:
    """Keeps what the classification layers saw of every image.

    Of two layers, whose scores the head adds or averages, each is fitted by itself: to its part of
    the loss of a Conformer, which has one of each; of a mean of scores, to a loss that bounds the
    one of the mean from above, since cross-entropy is convex in the scores.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If it has no calibration with a confidence, or another loss.
    """

    how = 'the scores of each'
    training = True  # or the images are as they are evaluated

    def __init__(self, model: CalibratedImageClassifier) -> None:
        self.calibrations, loss = calibrations_of(model), model.head.loss_module
        if not self.calibrations or not isinstance(loss, GRWCrossEntropyLoss):
            raise ValueError(
                'DisAlign with GRWCrossEntropyLoss can be fitted in one pass; the model has '
                f'{type(model.head).__name__} with {type(loss).__name__}: use train.py'
            )
        self.model = model
        self.layouts = {
            name: Layout(1, own.in_channels, own.num_classes)
            for name, own in self.calibrations.items()
        }
        self.losses = dict.fromkeys(self.calibrations, FittedLoss.of(loss))

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class."""
        slots = int(num_bytes // sum(layout.bytes for layout in self.layouts.values()))
        return {name: fair_capacities(choice.images, slots) for name in self.layouts}

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, self.training)
        label = torch.cat([sample.gt_label for sample in data['data_samples']]).cpu().numpy()
        with ExitStack() as stack:
            passes = {
                name: stack.enter_context(captured(own)) for name, own in self.calibrations.items()
            }
            self.model.head(self.model.extract_feat(data['inputs']))
        for name, own in passes.items():
            ((logits, features), _) = own[-1]
            samples = Samples(
                features=in_half(_of_image(features, len(label))),
                logits=checked_logits(_of_image(logits, len(label))),
                taps=np.ones((len(label), 1), np.float32),
                label=label,
                weight=np.ones(len(label)),
                image=np.arange(len(label), dtype=np.int32),
            )
            yield name, samples, dict.fromkeys(range(len(label)), 1.0)


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
