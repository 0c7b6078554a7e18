"""Predict boxes again from the classification layer on: what a head makes of other scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..calibration import calibrated_outputs
from ..engine.confidence import calibrations_of
from ..onepass.collect import captured, checked_logits, in_half
from .detectors import CalibratedDetectorMixin
from .matching import have_area

# What makes boxes of scores, of a batch, or within that of an image.
OF_BATCH, OF_IMAGE = 'predict_by_feat', '_predict_by_feat_single'
KEYS = ('bboxes', 'scores', 'labels')


@dataclass(frozen=True)
class Place:
    """Stands in the arguments of a head for what a pass of its layer made.

    Attributes:
        number: Of the pass among those that are kept.
        shape: Of what was there.
    """

    number: int
    shape: tuple[int, ...]


@dataclass
class Replay:
    """What the prediction of an image needs from the classification layer on.

    Attributes:
        image: Its id in the annotation file.
        method: Of the head, which is called again; None if it was not, for nothing was proposed.
        arguments: Its positional ones and those with names; a :class:`Place` where scores were.
        passes: Features, in half precision, and uncalibrated outputs of each pass of the layer that
            made them.
        scale: By what boxes are divided thereafter, (w, h), where a mask head does that.
    """

    image: Any
    method: Optional[str] = None
    arguments: tuple[tuple, dict[str, Any]] = ((), {})
    passes: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    scale: Optional[tuple[float, float]] = None


class Replayer:
    """Runs a detector on images up to its classification layer, and from there as often as asked.

    The head is called again with what it was given, but for the scores. So what lies between
    scores and boxes (softmax or sigmoid, thresholds, NMS) is mmdet's own, whatever the head. That
    nothing follows which is not done again is checked on the first image with a detection.

    Args:
        model: With one calibration, untouched, in eval mode.

    Raises:
        ValueError: If its scores are those of several classifiers.
    """

    def __init__(self, model: CalibratedDetectorMixin) -> None:
        if len(calibrations_of(model)) > 1 or len(model._heads) > 1:
            raise ValueError('its boxes are scored by several classifiers, each with a calibration')
        (self.found,) = model._heads
        self.model, self.head = model, self.found.head
        self._layers = list(self.found.layers.values())
        self._is_checked = False

    @torch.no_grad()
    def record(self, data: Any) -> Replay:
        """Keep what an image's prediction needs.

        Args:
            data: A batch of one image, as a loader of the test pipeline makes it.

        Raises:
            FloatingPointError: If features or scores are not finite.
            ValueError: If its boxes do not follow from the layer's scores alone.
        """
        kept: list[Replay] = []
        was_called = False
        with ExitStack() as stack:
            passes = [stack.enter_context(captured(layer)) for layer in self._layers]

            def keep(method: str, args: tuple, kwargs: dict[str, Any], rescale: bool) -> None:
                nonlocal was_called
                was_called = True
                found = [(features, made) for own in passes for (features, *_), made in own]
                made = None if kept else _replay(sample, method, (args, kwargs), rescale, found)
                if made is not None:
                    kept.append(made)
                    if self._is_checked:
                        raise _SeenEnough

            for method in (OF_BATCH, OF_IMAGE):
                if hasattr(self.head, method):
                    stack.enter_context(_heard(self.head, method, keep))
            (sample,) = data['data_samples']
            try:
                (predicted,) = self.model.test_step(data)
            except _SeenEnough:
                return kept[0]
        if not kept:
            if was_called or not self.found.name.startswith('roi_head'):
                raise self._refusal('its scores are changed before boxes are predicted by them')
            return Replay(sample.img_id)
        self._check(predicted.pred_instances, kept[0])
        return kept[0]

    @torch.no_grad()
    def predict(self, made: Replay, scores: Optional[nn.Module] = None) -> InstanceData:
        """Boxes (N, 4) as x1, y1, x2, y2, scores and labels of an image, in its own size.

        Args:
            made: What was kept of it.
            scores: What a method has fitted. Default: None, the classifier's own scores.
        """
        if made.method is None:
            labels = torch.zeros(0, dtype=torch.long)
            return InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=labels)
        device = next(self.model.parameters()).device
        outputs = [
            own if scores is None else self._scored(scores.to(device), own, features.to(own))
            for features, own in ((f, own.to(device)) for f, own in made.passes)
        ]
        args, kwargs = _mapped(made.arguments, lambda value: _filled(value, outputs, device))
        predicted = getattr(self.head, made.method)(*args, **kwargs)
        if made.method == OF_BATCH:
            (predicted,) = predicted
        boxes = get_box_tensor(predicted.bboxes)
        if made.scale is not None:
            boxes = boxes / boxes.new_tensor(made.scale).repeat((1, 2))
        return InstanceData(bboxes=boxes, scores=predicted.scores, labels=predicted.labels)

    def _scored(self, scores: nn.Module, outputs: Tensor, features: Tensor) -> Tensor:
        layout = self.found.layout
        # A classifier in the place of the old one scores the background, too.
        after = layout.after + layout.num_classes - scores.num_classes
        layout = replace(layout, num_classes=scores.num_classes, after=after)
        is_map = isinstance(self._layers[0], nn.Conv2d)
        return calibrated_outputs(scores, outputs, features, layout, is_map=is_map)

    def _check(self, predicted: InstanceData, made: Replay) -> None:
        if not len(predicted):
            return
        again = self.predict(made)
        if not all(torch.equal(get_box_tensor(predicted[key]), again[key]) for key in KEYS):
            raise self._refusal('its boxes are changed after they are predicted by scores')
        if not have_area(again.bboxes).any():
            raise self._refusal('it predicts masks alone, and no boxes')
        self._is_checked = True

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f'{type(self.model).__name__} with {type(self.head).__name__}: {reason}')


class _SeenEnough(BaseException):
    """Ends the pass of an image: what comes thereafter, such as masks, is not looked at."""


def _replay(
    sample: DetDataSample,
    method: str,
    arguments: tuple[tuple, dict[str, Any]],
    rescale: bool,
    passes: list[tuple[Tensor, Tensor]],
) -> Optional[Replay]:
    """What a call of a head's method needs; None if it is not given what its layers made."""
    used: list[int] = []
    kept = _mapped(arguments, lambda value: _place(value, passes, used))
    if not used:
        return None
    own = [
        (torch.from_numpy(in_half(features)), torch.from_numpy(checked_logits(outputs)).clone())
        for features, outputs in (passes[number] for number in used)
    ]
    scale = None if rescale else tuple(sample.scale_factor)
    return Replay(sample.img_id, method, kept, own, scale)


def _place(value: Tensor, passes: list[tuple[Tensor, Tensor]], used: list[int]) -> Any:
    """The place of what a pass made, whose number is added to those used; else the value."""
    for number, (_, outputs) in enumerate(passes):
        shapes = [outputs.shape] + [outputs.shape[1:]] * (outputs.shape[0] == 1)
        if value.shape in shapes and torch.equal(value, outputs.view_as(value)):
            if number not in used:
                used.append(number)
            return Place(used.index(number), tuple(value.shape))
    return value.to('cpu', copy=True)


def _filled(value: Any, outputs: list[Tensor], device: torch.device) -> Tensor:
    if isinstance(value, Place):
        value = outputs[value.number].reshape(value.shape)
    return value.to(device, copy=True)  # a head may change what it is given


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments with each tensor, or what stands for it, changed."""
    if isinstance(value, (Tensor, Place)):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, change) for each in value)
    if type(value) is dict:
        return {key: _mapped(each, change) for key, each in value.items()}
    return value


@contextmanager
def _heard(head: nn.Module, method: str, hear: Callable[..., None]) -> Iterator[None]:
    """While the context lasts, tell of each call of a method: name, arguments, and if it rescales.

    The arguments are told before the head may change them.
    """
    original = getattr(head, method)
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        hear(method, args, kwargs, bound.arguments.get('rescale', True))
        return original(*args, **kwargs)

    setattr(head, method, call)
    try:
        yield
    finally:
        delattr(head, method)
