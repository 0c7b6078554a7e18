"""Proposals of a detector, for fitting its calibrations: those that training would sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from mmdet.structures import DetDataSample
from torch import Tensor

from ..engine.confidence import calibrations_of
from ..onepass.collect import Collected, captured, checked_logits, in_half
from ..onepass.fitted_loss import FittedLoss
from ..onepass.fitting import Samples
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .collect_layers import LayerCollector
from .detectors import CalibratedDetectorMixin
from .losses import GRWCrossEntropyLoss, GRWIIFLoss
from .validation import Validation

__all__ = ['RoICollector', 'SampleCollector', 'Validation']


class RoICollector:
    """Keeps what each bbox head saw of the proposals that its sampler drew.

    Args:
        model: In the stage ``'calibration'``.
    """

    def __init__(self, model: CalibratedDetectorMixin) -> None:
        self.model = model
        names = {module: name for name, module in calibrations_of(model).items()}
        self.heads = {
            names[layer.calibration]: (layer, found.head)
            for found in model._heads
            for layer in found.layers.values()
        }
        self.layouts = {
            name: Layout(1, layer.calibration.in_channels, head.num_classes + 1)
            for name, (layer, head) in self.heads.items()
        }
        self.losses = {name: fitted_of(head.loss_cls) for name, (_, head) in self.heads.items()}

    @property
    def how(self) -> str:
        return f'the {self._per_image()} proposals of each that training samples'

    def _samplers(self) -> list[Any]:
        stages = self.model.train_cfg.rcnn
        stages = stages if isinstance(stages, (list, tuple)) else [stages]
        return [stage.sampler for stage in stages]

    def _per_image(self) -> int:
        return max(sampler.num for sampler in self._samplers())

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class, and of the background."""
        share = max(sampler.get('pos_fraction', 1.0) for sampler in self._samplers())
        # Of panoptic data, these are of things alone.
        classes = next(iter(self.losses.values())).num_classes
        expected = self._per_image() * np.append(share * choice.images[:classes], len(choice))
        return {
            name: fair_capacities(expected, int(num_bytes / len(self.heads) // layout.bytes))
            for name, layout in self.layouts.items()
        }

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, True)
        for image, sample in enumerate(data['data_samples']):
            # One by one, for the heads do not say which image a proposal is of.
            yield from self._of_image(data['inputs'][image : image + 1], sample, image)

    def _of_image(
        self, inputs: Tensor, data_sample: DetDataSample, image: int
    ) -> Iterator[Collected]:
        with ExitStack() as stack:
            seen = {
                name: [stack.enter_context(captured(part)) for part in (layer, head.loss_cls)]
                for name, (layer, head) in self.heads.items()
            }
            self.model.loss(inputs, [data_sample])
        for name, (scored, judged) in seen.items():
            if not scored or not judged:  # a cascade ran out of proposals
                continue
            # An untouched calibration is the identity, so these are the scores before it.
            ((features,), logits), ((_, labels, weights, *_), _) = scored[-1], judged[-1]
            chosen = (weights > 0).nonzero().flatten()
            samples = Samples(
                features=in_half(features[chosen][:, None]),
                logits=checked_logits(logits[chosen][:, None]),
                taps=np.ones((len(chosen), 1), np.float32),
                label=labels[chosen].cpu().numpy(),
                weight=weights[chosen].double().cpu().numpy(),
                image=np.full(len(chosen), image, np.int32),
            )
            yield name, samples, {image: float(len(labels))}


@dataclass
class FittedIIFLoss(FittedLoss):
    """GRW cross-entropy of scores that are multiplied by ``factors``, of shape (C + 1,)."""

    factors: Tensor

    def class_scores(self, scores: Tensor) -> Tensor:
        """The scores that are compared, (n, C + 1)."""
        return super().class_scores(scores) * self.factors.to(scores)


def fitted_of(loss: GRWCrossEntropyLoss) -> FittedLoss:
    """The loss of a bbox head, as one pass fits to it."""
    own = FittedLoss.of(loss)
    if not isinstance(loss, GRWIIFLoss):
        return own
    return FittedIIFLoss(**vars(own), factors=loss.factors)


class SampleCollector:
    """The collector of a detector: of RoIs with GRW cross-entropy, or of what its layers see.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If its loss cannot be fitted in one pass.
    """

    def __new__(cls, model: CalibratedDetectorMixin) -> Union[RoICollector, LayerCollector]:
        heads = model._calibrated_heads()
        if all(isinstance(getattr(h, 'loss_cls', None), GRWCrossEntropyLoss) for h in heads):
            return RoICollector(model)
        return LayerCollector(model)
