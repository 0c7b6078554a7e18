"""Images of a classifier, for fitting its calibration: all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..engine.collect import Collected, captured, checked_logits, in_half
from ..engine.confidence import calibrations_of
from ..engine.fit import Samples
from ..engine.image_choice import ImageChoice
from ..engine.sample_cache import Layout, fair_capacities
from ..losses import GRWCrossEntropyLoss
from .classifiers import CalibratedImageClassifier


class SampleCollector:
    """Keeps what the classifier saw of every image.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If it has no calibration with a confidence, or another loss.
    """

    how = 'the scores of each'

    def __init__(self, model: CalibratedImageClassifier) -> None:
        found, loss = calibrations_of(model), model.head.loss_module
        if not found or not isinstance(loss, GRWCrossEntropyLoss):
            raise ValueError(
                'DisAlign with GRWCrossEntropyLoss can be fitted; the model has '
                f'{type(model.head).__name__} with {type(loss).__name__}'
            )
        ((self.name, calibration),) = found.items()
        self.model = model
        self.layouts = {self.name: Layout(1, calibration.in_channels, calibration.num_classes)}
        self.losses = {self.name: loss}

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class."""
        slots = int(num_bytes // self.layouts[self.name].bytes)
        return {self.name: fair_capacities(choice.images, slots)}

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, True)
        with captured(self.model.head.calibration) as passes:
            self.model.head(self.model.extract_feat(data['inputs']))
        ((logits, features), _) = passes[-1]
        label = torch.cat([sample.gt_label for sample in data['data_samples']]).cpu().numpy()
        samples = Samples(
            features=in_half(features[:, None]),
            logits=checked_logits(logits[:, None]),
            taps=np.ones((len(label), 1), np.float32),
            label=label,
            weight=np.ones(len(label)),
            image=np.arange(len(label), dtype=np.int32),
        )
        yield self.name, samples, dict.fromkeys(range(len(label)), 1.0)
