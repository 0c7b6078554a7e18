"""Elements of any detector, for fitting its calibrations: those that its own head labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from mmdet.models.dense_heads import SSDHead, YOLACTHead
from mmdet.models.losses import CrossEntropyLoss
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from ..calibration import ClassPrior, ScoreLayout
from ..engine.confidence import calibrations_of
from ..losses.reweighted import ReweightedPositivesMixin, ReweightedRowsMixin
from ..onepass.collect import Collected, checked_logits, in_half
from ..onepass.fitting import Samples, softmax_losses
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .any_detector import CalibratedDetectorMixin
from .layers import ScoringHead

# Negatives of an image, drawn from all of its levels, queries and decoder layers; and how many
# positives an image has of a class, at most, to share the slots of the samples by.
NEGATIVES, POSITIVES = 256, 64


@dataclass
class FittedLoss:
    """The loss of a head, as one pass fits to it.

    Attributes:
        module: The head's own, with the weights of GRW.
        class_prior: Of the classes.
        exp_scale: ρ.
        class_weight: w of the classes, and of no object if it has a score.
    """

    module: nn.Module
    class_prior: ClassPrior
    exp_scale: float
    class_weight: Tensor
    normalizer: str
    target: str = ''

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_prior)

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each element, (n,), see :class:`ElementLosses`."""
        if isinstance(self.module, ReweightedRowsMixin):
            return softmax_losses(scores, label, quality, class_weight)
        self.module.grw_weight = class_weight.to(scores)
        with torch.enable_grad():  # without, the loss is that of an assignment
            losses = self.module(
                scores, self._target(scores, label, quality), reduction_override='none'
            )
        return losses.flatten(1).sum(1) if losses.dim() > 1 else losses

    def _target(self, scores: Tensor, label: Tensor, quality: Tensor) -> Any:
        """As the head gives it to its loss."""
        if self.target == 'labels':
            return label
        if self.target == 'labels and qualities':
            return label, quality * (label < scores.shape[1])
        wide = scores.new_zeros(len(scores), scores.shape[1] + 1)
        return wide.scatter(1, label[:, None], quality[:, None].to(wide))[:, :-1]


@dataclass
class _Call:
    """What a head's loss was called with, by element: scores (*, C), and the rest (*)."""

    scores: Tensor
    label: Tensor
    quality: Tensor
    weight: Tensor
    kind: str


class LayerCollector:
    """Keeps what the classification layers saw of the elements that their head labels.

    The head runs as in training, image by image, and its loss is watched. Which position of which
    layer a score comes from is told by derivatives: a head only reshapes and gathers what its
    layers make, so the derivative of a score of an element is 1 there, and 0 elsewhere.

    All positive elements are kept, and of the negative ones of an image so many, drawn with equal
    probability, each standing for as many as there were for each that is kept.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If the loss of a head is not one of elements.
    """

    def __init__(self, model: CalibratedDetectorMixin) -> None:
        self.model = model
        names = {module: name for name, module in calibrations_of(model).items()}
        self.layouts, self.losses = {}, {}
        for found in model._heads:
            loss = _fitted_loss(found, model)
            for layer in found.layers.values():
                name, own = names[layer.calibration], found.layout
                self.losses[name] = loss
                self.layouts[name] = Layout(
                    1, layer.calibration.in_channels, own.num_classes + own.after
                )
        self.names = names

    @property
    def how(self) -> str:
        return f'all positive elements of each that its head labels and {NEGATIVES} negative ones'

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class, and of the negatives."""
        expected = np.append(POSITIVES * choice.images, NEGATIVES * len(choice))
        share = num_bytes / len(self.layouts)
        return {
            name: fair_capacities(expected, int(share // layout.bytes))
            for name, layout in self.layouts.items()
        }

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, True)
        for image, sample in enumerate(data['data_samples']):
            # One by one, for the losses do not say which image an element is of.
            yield from self._of_image(data['inputs'][image : image + 1], sample, image, rng)

    def _of_image(
        self, inputs: Tensor, sample: DetDataSample, image: int, rng: np.random.Generator
    ) -> Iterator[Collected]:
        found: dict[str, list[dict[str, Tensor]]] = {}
        with torch.enable_grad(), ExitStack() as stack:
            heads = [
                (
                    head,
                    [stack.enter_context(_watched(layer)) for layer in head.layers.values()],
                    stack.enter_context(_watched(self._loss_of(head).module)),
                )
                for head in self.model._heads
            ]
            self.model.loss(inputs, [sample])
            for head, layers, calls in heads:
                for name, elements in self._elements(head, layers, calls):
                    found.setdefault(name, []).append(elements)
        for name, parts in found.items():
            elements = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            yield (
                name,
                self._samples(name, elements, image, rng),
                {image: float(len(elements['label']))},
            )

    def _loss_of(self, head: ScoringHead) -> FittedLoss:
        return self.losses[self.names[next(iter(head.layers.values())).calibration]]

    def _elements(
        self, head: ScoringHead, layers: list[list[Any]], calls: list[Any]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The elements of each pass of each layer that the loss has seen."""
        loss, layout = self._loss_of(head), head.layout
        for call in (_call_of(*each, layout.num_classes) for each in calls):
            if not call.scores.requires_grad:  # of an assignment, or of a layer that is not trained
                continue
            loss.target = call.kind
            for layer, passes in zip(head.layers.values(), layers):
                for (features, *_), _, outputs in passes:
                    told = _told(call, outputs, layer, layout)
                    if told is None:
                        continue
                    label, quality, weight = told
                    rows, logits = _rows(features, outputs, layer, layout)
                    chosen = weight > 0
                    yield (
                        self.names[layer.calibration],
                        {
                            'features': rows.expand(*weight.shape, -1)[chosen],
                            'logits': logits[chosen].detach(),
                            'label': label[chosen],
                            'quality': quality[chosen],
                            'weight': weight[chosen],
                        },
                    )

    def _samples(
        self, name: str, elements: dict[str, Tensor], image: int, rng: np.random.Generator
    ) -> Samples:
        label = elements['label'].cpu().numpy()
        negative = np.flatnonzero(label == self.losses[name].num_classes)
        kept = rng.choice(negative, min(NEGATIVES, len(negative)), replace=False, shuffle=False)
        weight = elements['weight'].double().cpu().numpy()
        weight[kept] *= len(negative) / max(len(kept), 1)
        chosen = np.sort(
            np.concatenate([np.flatnonzero(label < self.losses[name].num_classes), kept])
        )
        at = torch.from_numpy(chosen).to(elements['features'].device)
        return Samples(
            features=in_half(elements['features'][at][:, None]),
            logits=checked_logits(elements['logits'][at][:, None]),
            taps=np.ones((len(chosen), 1), np.float32),
            label=label[chosen],
            weight=weight[chosen],
            image=np.full(len(chosen), image, np.int32),
            quality=elements['quality'][at].float().cpu().numpy(),
        )


def _fitted_loss(found: ScoringHead, model: CalibratedDetectorMixin) -> FittedLoss:
    module, head = found.loss, found.head
    weight = getattr(module, 'grw_weight', None)
    if isinstance(module, ReweightedRowsMixin):
        # SSD and YOLACT choose the hardest negatives; Seesaw's terms see each other.
        plain = isinstance(module, CrossEntropyLoss) and not isinstance(head, YOLACTHead)
        given = getattr(module, 'class_weight', None)
        own = torch.ones(found.layout.size) if given is None else torch.as_tensor(given)
        weight = torch.cat([weight, weight.new_ones(1)]) * own if plain else None
    elif not isinstance(module, ReweightedPositivesMixin) or not hasattr(module, 'use_sigmoid'):
        weight = None  # a heat map's negatives have targets of their own
    if weight is None or isinstance(head, SSDHead):
        name = type(head).__name__.removeprefix('Reweighted').removeprefix('Calibrated')
        raise ValueError(
            f'{name} cannot be fitted in one pass: its loss is not one of elements with a label; '
            'use tools/train.py'
        )
    normalizer = 'class_weight' if isinstance(module, ReweightedRowsMixin) else 'positives'
    return FittedLoss(module, model.class_prior, model.exp_scale, weight.float(), normalizer)


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any], Any]]]:
    """A list that gets arguments, options and output of each forward pass of a module."""
    passes: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    handle = module.register_forward_hook(
        lambda _, inputs, options, output: passes.append((inputs, options, output)),
        with_kwargs=True,
    )
    try:
        yield passes
    finally:
        handle.remove()


def _call_of(inputs: tuple[Any, ...], options: dict[str, Any], _: Any, num_classes: int) -> _Call:
    scores, target, weight, *_ = (*inputs, options.get('weight'))
    if isinstance(target, tuple):
        kind, (label, quality) = 'labels and qualities', target
    elif target.dim() < scores.dim():
        kind, label, quality = 'labels', target, torch.ones_like(target, dtype=scores.dtype)
    else:
        kind, (quality, label) = 'a map', target.max(dim=-1)
        label = label.where(quality > 0, num_classes)
    rows = scores.shape[:-1]
    weight = scores.new_ones(rows) if weight is None else weight.detach()
    weight = weight if weight.shape == rows else weight[..., 0]
    return _Call(scores, label, quality, weight, kind)


def _told(
    call: _Call, outputs: Tensor, layer: nn.Module, layout: ScoreLayout
) -> Optional[tuple[Tensor, Tensor, Tensor]]:
    """Label, quality and weight of each element of a layer's outputs, (N, A, *); weight 0 if none.

    Raises:
        ValueError: If the loss sees something else than what the layer makes.
    """
    pulled = []
    for value in (torch.ones_like(call.weight), call.label, call.quality, call.weight):
        # The first score of each element stands for it.
        marked = torch.zeros_like(call.scores)
        marked[..., 0] = value.to(marked)
        (gradient,) = torch.autograd.grad(
            call.scores, outputs, marked, retain_graph=True, allow_unused=True
        )
        if gradient is None:
            return None
        pulled.append(_by_anchor(gradient, layer, layout)[:, :, layout.before])
    seen, label, quality, weight = pulled
    if not ((seen == 0) | (seen == 1)).all():
        raise ValueError(
            'what the loss sees is not what the classification layer makes, but something computed '
            'from it, which one pass does not know: use tools/train.py'
        )
    return label.round().long(), quality, weight * seen


def _by_anchor(outputs: Tensor, layer: nn.Module, layout: ScoreLayout) -> Tensor:
    """Outputs of a layer by anchor, (N, A, size, *)."""
    outputs = outputs if isinstance(layer, nn.Conv2d) else outputs.movedim(-1, 1)
    return outputs.unflatten(1, (-1, layout.size))


def _rows(
    features: Tensor, outputs: Tensor, layer: nn.Module, layout: ScoreLayout
) -> tuple[Tensor, Tensor]:
    """Features (N, 1, *, F) and scores (N, A, *, C or C + 1) of a pass of a layer."""
    features = features if isinstance(layer, nn.Conv2d) else features.movedim(-1, 1)
    scores = _by_anchor(outputs, layer, layout)[:, :, layout.before :]
    return features[:, None].movedim(2, -1), scores.movedim(2, -1)
