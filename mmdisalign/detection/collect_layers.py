"""Elements of any detector, for fitting its calibrations: those that its own head labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Optional

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from torch import Tensor, nn

from ..calibration import ScoreLayout
from ..engine.confidence import calibrations_of
from ..onepass.collect import Collected, checked_logits, in_half
from ..onepass.fitting import Samples
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .detectors import CalibratedDetectorMixin
from .fitted_losses import Call, HardNegativesLoss, LayerLoss, Pass, fitted_loss, watched
from .layers import ScoringHead

# Negatives of an image, drawn from all of its levels, queries and decoder layers; and how many
# positives an image has of a class, at most, to share the slots of the samples by.
NEGATIVES, POSITIVES = 256, 64
# Where a loss chooses the hardest negatives, those that the fit may choose: so many times as many.
HARD = 2
BASE = 1024  # numbers of elements are pulled in two digits, each exact in float32
Elements = dict[str, Tensor]


class LayerCollector:
    """Keeps what the classification layers saw of the elements that their head labels.

    The head runs as in training, image by image, and its loss is watched. Which position of which
    layer a score comes from is told by derivatives: a head reshapes and gathers what its layers
    make, and at most changes each number by itself, see :class:`View`; so the derivative of the
    scores of an element is positive there, and 0 elsewhere.

    All positive elements are kept, and of the negative ones of an image so many, drawn with equal
    probability, each standing for as many as there were for each that is kept. Where the loss
    chooses the hardest negatives, twice as many as it takes are kept besides, each of which stands
    for itself.

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
            loss = fitted_loss(found, model)
            for layer in found.layers.values():
                name = names[layer.calibration]
                self.losses[name] = loss
                self.layouts[name] = Layout(1, layer.calibration.in_channels, loss.width)
        self.names = names

    @property
    def how(self) -> str:
        hard = ''
        if any(isinstance(loss, HardNegativesLoss) for loss in self.losses.values()):
            hard = f', {HARD} times as many hard negative ones as its loss takes,'
        return (
            f'all positive elements of each that its head labels{hard} and {NEGATIVES} negative '
            'ones'
        )

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class, and of the negatives."""
        share, found = num_bytes / len(self.layouts), {}
        for name, layout in self.layouts.items():
            loss, negatives = self.losses[name], NEGATIVES
            if isinstance(loss, HardNegativesLoss):
                negatives += HARD * loss.ratio * POSITIVES
            expected = np.append(POSITIVES * choice.images, negatives * len(choice))
            found[name] = fair_capacities(expected, int(share // layout.bytes))
        return found

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, True)
        for image, sample in enumerate(data['data_samples']):
            # One by one, for the losses do not say which image an element is of.
            yield from self._of_image(data['inputs'][image : image + 1], sample, image, rng)

    def _of_image(
        self, inputs: Tensor, sample: DetDataSample, image: int, rng: np.random.Generator
    ) -> Iterator[Collected]:
        with torch.enable_grad(), ExitStack() as stack:
            heads = [_Watched(head, self._loss_of(head), stack) for head in self.model._heads]
            # As a Runner tells heads: TOOD's assigns by it, here as at the end of stage 1.
            MessageHub.get_current_instance().update_info('epoch', 0)
            self.model.loss(inputs, [sample])
            found = [(head.loss, self._by_calibration(head)) for head in heads]
        for loss, parts in found:
            for name, number in self._numbers(loss, parts).items():
                samples = self._samples(loss, parts[name], number, image, rng)
                yield name, samples, {image: float(len(parts[name]['label']))}

    def _by_calibration(self, head: _Watched) -> dict[str, Elements]:
        found: dict[str, list[Elements]] = {}
        for layer, elements in head.elements():
            found.setdefault(self.names[layer.calibration], []).append(elements)
        return {
            name: {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            for name, parts in found.items()
        }

    def _loss_of(self, head: ScoringHead) -> LayerLoss:
        return self.losses[self.names[next(iter(head.layers.values())).calibration]]

    def _numbers(self, loss: LayerLoss, found: dict[str, Elements]) -> dict[str, Optional[int]]:
        """By calibration, how many negatives count by the scores of stage 1; None if all do."""
        if not isinstance(loss, HardNegativesLoss):
            return dict.fromkeys(found)
        hardness = [own['hardness'][own['label'] == loss.num_classes] for own in found.values()]
        positives = sum(len(own['label']) for own in found.values()) - sum(map(len, hardness))
        every = torch.cat(hardness)
        chosen = every.new_zeros(len(every))
        chosen[every.topk(loss.number(positives, len(every))).indices] = 1
        parts = chosen.split([len(own) for own in hardness])
        return {name: int(part.sum()) for name, part in zip(found, parts)}

    def _samples(
        self,
        loss: LayerLoss,
        elements: Elements,
        number: Optional[int],
        image: int,
        rng: np.random.Generator,
    ) -> Samples:
        label = elements['label'].cpu().numpy()
        weight = elements['weight'].double().cpu().numpy()
        others = negative = np.flatnonzero(label == loss.num_classes)
        hard, share = negative[:0], 1.0
        if number is not None:
            order = elements['hardness'].cpu().numpy()[negative].argsort()[::-1]
            hard, others = np.split(negative[order], [min(HARD * number, len(negative))])
            share = number / max(len(negative), 1)
        kept = rng.choice(others, min(NEGATIVES, len(others)), replace=False, shuffle=False)
        weight[kept] *= len(others) / max(len(kept), 1)
        positive = np.flatnonzero(label < loss.num_classes)
        chosen = np.sort(np.concatenate([positive, hard, kept]))
        at = torch.from_numpy(chosen).to(elements['features'].device)
        logits = elements['logits'][at]
        if number is not None:
            shares = np.where(label[chosen] < loss.num_classes, 1.0, share)
            logits = torch.cat([logits, torch.from_numpy(shares).to(logits)[:, None]], dim=1)
        return Samples(
            features=in_half(elements['features'][at][:, None]),
            logits=checked_logits(logits[:, None]),
            taps=np.ones((len(chosen), 1), np.float32),
            label=label[chosen],
            weight=weight[chosen],
            image=np.full(len(chosen), image, np.int32),
            quality=elements['quality'][at].float().cpu().numpy(),
        )


class _Watched:
    """A head whose layers and loss are watched while the stack is open."""

    def __init__(self, head: ScoringHead, loss: LayerLoss, stack: ExitStack) -> None:
        self.head, self.loss = head, loss
        self.layers = [stack.enter_context(watched(layer)) for layer in head.layers.values()]
        self.calls = stack.enter_context(loss.watched())
        self.beside: Optional[list[Pass]] = None
        if loss.view is not None and loss.view.beside is not None:
            module = head.head.get_submodule(loss.view.beside)
            self.beside = stack.enter_context(watched(module))

    def elements(self) -> Iterator[tuple[nn.Module, Elements]]:
        """The elements of each pass of each layer that the loss has seen.

        Raises:
            ValueError: If the loss sees something else than is known.
        """
        for call in map(self.loss.call_of, self.calls):
            if not call.scores.requires_grad:  # of an assignment, or of a layer that is not trained
                continue
            for layer, passes in zip(self.head.layers.values(), self.layers):
                for number, ((features, *_), _, outputs) in enumerate(passes):
                    place = _places(call, outputs, layer, self.head.layout)
                    if place is not None:
                        yield layer, self._of_pass(call, place, layer, features, outputs, number)

    def _of_pass(
        self,
        call: Call,
        place: Tensor,
        layer: nn.Module,
        features: Tensor,
        outputs: Tensor,
        number: int,
    ) -> Elements:
        rows, logits = _rows(features, outputs.detach(), layer, self.head.layout)
        if self.beside is not None:
            beside = self.beside[number][2].detach().unflatten(1, (-1, 1)).movedim(2, -1)
            logits = torch.cat([logits, beside.expand(*logits.shape[:-1], 1)], dim=-1)
        chosen = place >= 0
        chosen[chosen.clone()] = call.weight[place[chosen]] > 0
        at, logits = place[chosen], logits[chosen]
        seen = call.scores.detach()[at]
        # 1e-4: the same numbers, but for rounding where they are computed.
        viewed = self.loss.viewed(logits)
        if not torch.allclose(viewed, seen, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(
                'what the loss sees is not what the classification layer makes, but something '
                'computed from it, which one pass does not know: use tools/train.py'
            )
        elements = {
            'features': rows.expand(*place.shape, -1)[chosen],
            'logits': torch.cat([logits, call.targets[at]], dim=1),
            'label': call.label[at],
            'quality': call.quality[at],
            'weight': call.weight[at],
        }
        if isinstance(self.loss, HardNegativesLoss):
            elements['hardness'] = self.loss.element_losses(
                logits, call.label[at], call.quality[at], self.loss.class_weight.to(logits)
            )
        return elements


def _places(call: Call, outputs: Tensor, layer: nn.Module, layout: ScoreLayout) -> Optional[Tensor]:
    """Which element of a call a layer's outputs are, (N, A, *); -1 if none, or None if none is."""
    index = torch.arange(len(call.scores), device=call.scores.device)
    pulled = []
    for value in (torch.ones_like(index), index % BASE, index // BASE):
        (gradient,) = torch.autograd.grad(
            call.scores,
            outputs,
            value.to(call.scores)[:, None].expand_as(call.scores),
            retain_graph=True,
            allow_unused=True,
        )
        if gradient is None:
            return None
        by_anchor = _by_anchor(gradient, layer, layout)
        pulled.append(by_anchor[:, :, layout.before : layout.before + layout.num_classes].sum(2))
    seen, low, high = pulled
    place = (high / seen).round() * BASE + (low / seen).round()
    return place.where(seen > 0, -1).long()


def _by_anchor(outputs: Tensor, layer: nn.Module, layout: ScoreLayout) -> Tensor:
    """Outputs of a layer by anchor, (N, A, size, *)."""
    outputs = outputs if isinstance(layer, nn.Conv2d) else outputs.movedim(-1, 1)
    return outputs.unflatten(1, (-1, layout.size))


def _rows(
    features: Tensor, outputs: Tensor, layer: nn.Module, layout: ScoreLayout
) -> tuple[Tensor, Tensor]:
    """Features (N, 1, *, F) and scores (N, A, *, C or more) of a pass of a layer."""
    features = features if isinstance(layer, nn.Conv2d) else features.movedim(-1, 1)
    scores = _by_anchor(outputs, layer, layout)[:, :, layout.before :]
    return features[:, None].movedim(2, -1), scores.movedim(2, -1)
