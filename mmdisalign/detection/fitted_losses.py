"""The losses of mmdet's heads as one pass fits to them, and what of a call tells an element."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
from mmdet.models.dense_heads import SSDHead, YOLACTHead
from mmdet.models.losses import (
    CrossEntropyLoss,
    FocalCustomLoss,
    FocalLoss,
    GaussianFocalLoss,
    QualityFocalLoss,
    SeesawLoss,
)
from mmdet.models.utils import sigmoid_geometric_mean
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..losses.reweighted import ReweightedPositivesMixin, ReweightedRowsMixin
from ..onepass.fitted_loss import FittedLoss
from ..onepass.fitting import Chunk, hardest
from .detectors import CalibratedDetectorMixin
from .layers import ScoringHead

# Arguments, options and output of a forward pass.
Pass = tuple[tuple[Any, ...], dict[str, Any], Any]
MOST_EXPONENTIAL = 1e8  # YOLOF's own limit
BELOW_ONE = 1 - 2.0**-24  # what is next to 1 in float32


@dataclass(frozen=True)
class View:
    """What the loss of a head sees of the scores that its layer makes, if that is not they.

    Attributes:
        combine: Makes it of the head, scores (n, C), and what is beside them (n, 1).
        beside: Path in the head of the module that makes that, one number a position or an anchor.
            Default: None, there is nothing.
    """

    combine: Callable[[nn.Module, Tensor, Optional[Tensor]], Tensor]
    beside: Optional[str] = None


def _with_objectness(_: nn.Module, scores: Tensor, objectness: Tensor) -> Tensor:
    """As of mmdet's ``YOLOFHead.forward_single``."""
    both = sum(each.exp().clamp(max=MOST_EXPONENTIAL) for each in (scores, objectness))
    return scores + objectness - (1 + both).log()


def _clamped(head: nn.Module, scores: Tensor, _: Optional[Tensor]) -> Tensor:
    """As of ``CenterNetUpdateHead``; where all scores are at a limit, none has a gradient."""
    return scores.sigmoid().clamp(min=head.sigmoid_clamp, max=1 - head.sigmoid_clamp)


# By the name of the head's class; of a head that is not here, that of its nearest base.
VIEWS = {
    'CenterNetHead': View(lambda _, scores, __: scores.sigmoid()),
    'CenterNetUpdateHead': View(_clamped),
    'CornerHead': View(lambda _, scores, __: scores.sigmoid()),
    'TOODHead': View(lambda _, *both: sigmoid_geometric_mean(*both), 'cls_prob_module'),
    'YOLOFHead': View(_with_objectness, 'object_pred'),
}
# Heads whose loss is divided by the sum of the qualities of its positives, not by their number.
BY_QUALITY = ('RTMDetHead', 'TOODHead')


@dataclass
class Call:
    """What a loss was called with, element by element.

    Attributes:
        scores: What it sees, shape (n, C), or more with a background.
        label: Shape (n,); C is of no class.
        weight: Shape (n,); what has 0 is no element.
        quality: Target of the score of the label, shape (n,).
        targets: Those of all scores where more than the label's are not 0, shape (n, C), else
            (n, 0).
    """

    scores: Tensor
    label: Tensor
    weight: Tensor
    quality: Tensor
    targets: Tensor


@dataclass
class LayerLoss(FittedLoss):
    """The loss of a head whose layers are watched: cross-entropy on a softmax (DETR).

    A sample of a layer has its scores, what its view has beside them, the targets of a call where
    it has them, and the share of the negatives that count where the loss chooses the hardest.

    Attributes:
        head: The head.
        module: Its loss, with the weights of GRW.
        size: Scores of an element, the background or objectness included.
    """

    head: nn.Module
    module: Optional[nn.Module]
    size: int

    @property
    def view(self) -> Optional[View]:
        """Of the head."""
        return next((VIEWS[kind] for kind in _kinds(self.head) if kind in VIEWS), None)

    @property
    def width(self) -> int:
        """Numbers of a sample: the scores, and what is behind them."""
        return self.size + (self.view is not None and self.view.beside is not None)

    def viewed(self, scores: Tensor) -> Tensor:
        """What the loss sees of samples' scores (n, width): (n, size)."""
        if self.view is None:
            return scores[:, : self.size]
        beside = None if self.view.beside is None else scores[:, self.size : self.size + 1]
        return self.view.combine(self.head, scores[:, : self.size], beside)

    @contextmanager
    def watched(self) -> Iterator[list[Pass]]:
        """A list that gets the calls of the loss."""
        with watched(self.module) as passes:
            yield passes

    def call_of(self, called: Pass) -> Call:
        """What a call was of."""
        (scores, target, *others), options, _ = called
        weight = others[0] if others else options.get('weight')
        if isinstance(target, tuple):
            label, quality = target
        elif target.dim() < scores.dim():
            label, quality = target, torch.ones_like(target, dtype=scores.dtype)
        else:
            quality, label = target.max(dim=-1)
            label = label.where(quality > 0, self.num_classes)
        scores, label, quality = scores.flatten(0, -2), label.flatten(), quality.flatten()
        if weight is None:
            weight = scores.new_ones(len(scores))
        weight = weight.detach().reshape(len(scores), -1)[:, 0]
        return Call(scores, label, weight, quality, scores.new_zeros(len(scores), 0))


@dataclass
class HardNegativesLoss(LayerLoss):
    """That of SSD and YOLACT, where of the negatives of each image the hardest count.

    They are as many as ``neg_pos_ratio`` times its positives, and are chosen by calibrated scores,
    anew in each step of the fit. How many of them are of which calibration, where levels have their
    own, stays as it is with the scores of stage 1.
    """

    @property
    def width(self) -> int:
        """Numbers of a sample."""
        return super().width + 1

    @property
    def ratio(self) -> float:
        """Negatives that count for each positive."""
        return self.head.train_cfg['neg_pos_ratio']

    def number(self, positives: int, negatives: int) -> int:
        """How many negatives of an image count."""
        if not positives and isinstance(self.head, YOLACTHead):
            return negatives
        return min(int(self.ratio * positives), negatives)

    def counted(self, scores: Tensor, losses: Tensor, chunk: Chunk) -> Tensor:
        """Weights of the elements, (n,), see :class:`Counted`."""
        return hardest(losses, scores[:, -1], chunk.weight, chunk.view)

    @contextmanager
    def watched(self) -> Iterator[list[Pass]]:
        """A list that gets the calls of the loss; SSD's is none of a module."""
        if self.module is not None:
            with super().watched() as passes:
                yield passes
            return
        passes, own = [], self.head.loss_by_feat_single

        def loss(scores: Tensor, boxes: Tensor, anchors: Tensor, *args: Any, **kwargs: Any) -> Any:
            passes.append(((scores, *args[:2]), {}, None))
            return own(scores, boxes, anchors, *args, **kwargs)

        self.head.loss_by_feat_single = loss
        try:
            yield passes
        finally:
            del self.head.loss_by_feat_single


@dataclass
class FittedSeesawLoss(LayerLoss):
    """Seesaw: of the classes, for an element of one, and of objectness, which is no calibration's.

    A score of another class than the label's is changed by two factors. That which favours the
    rare has the numbers of samples of each class that stage 1 has counted. That which makes up for
    scores above the label's follows the calibrated scores, without a gradient, as in training.
    """

    follows = True

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each element, (n,), see :class:`ElementLosses`."""
        classes, objectness = scores[:, : self.size].split([self.num_classes, 2], dim=1)
        followed = scores[:, self.width :] if scores.shape[1] > self.width else scores
        no_object = label.eq(self.num_classes).long()
        own = label.where(label < self.num_classes, 0)
        offset = self._log_factors(followed[:, : self.num_classes].detach(), own)
        losses = cross_entropy(classes + offset, own, reduction='none') * (1 - no_object)
        losses = losses + cross_entropy(objectness, no_object, reduction='none')
        return self.module.loss_weight * class_weight.to(losses)[label] * losses

    def _log_factors(self, scores: Tensor, label: Tensor) -> Tensor:
        """As of mmdet's ``seesaw_ce_loss``, (n, C)."""
        counts = self.module.cum_samples[: self.num_classes].clamp(min=1).log().to(scores)
        mitigation = (counts - counts[label, None]).clamp(max=0) * self.module.p
        probabilities = scores.softmax(dim=1)
        least = self.module.eps
        ratio = probabilities / probabilities.gather(1, label[:, None]).clamp(min=least)
        factors = mitigation + ratio.clamp(min=1).log() * self.module.q
        return factors.scatter(1, label[:, None], 0.0)

    def class_scores(self, scores: Tensor) -> Tensor:
        """Probabilities of the classes and the background, (n, C + 1)."""
        return self.module.get_activation(scores[:, : self.size])


@dataclass
class SigmoidLoss(LayerLoss):
    """One on sigmoids: focal, quality focal, varifocal, binary cross-entropy."""

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each element, (n,), see :class:`ElementLosses`."""
        self.module.grw_weight = class_weight.to(scores)
        with torch.enable_grad():  # without, the loss is that of an assignment
            target = self._target(label, quality)
            losses = self.module(self.viewed(scores), target, reduction_override='none')
        return losses.flatten(1).sum(1) if losses.dim() > 1 else losses

    def _target(self, label: Tensor, quality: Tensor) -> Any:
        if isinstance(self.module, (FocalLoss, FocalCustomLoss)):
            return label
        quality = quality * (label < self.num_classes)
        if isinstance(self.module, QualityFocalLoss):
            return label, quality
        return one_hot(label, self.num_classes + 1)[:, :-1] * quality[:, None]


@dataclass
class HeatMapLoss(LayerLoss):
    """Gaussian focal loss of a map of each class (CenterNet, CornerNet).

    All scores of a position have a target t: the term of class c is -(1 - t)^γ p^α log(1 - p), and
    for each object that is there, -w_c (1 - p)^α log p. The targets of a sample are t, and 2 more
    for each object.
    """

    @property
    def width(self) -> int:
        """Numbers of a sample."""
        return super().width + self.num_classes

    def element_losses(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """The loss of each element, (n,), see :class:`ElementLosses`."""
        self.module.grw_weight = class_weight.to(scores)
        targets = scores[:, -self.num_classes :]
        objects = (targets / 2).floor()
        with torch.enable_grad():
            seen = self.viewed(scores)
            # Of a target of 1, the loss is that of an object alone; of one below, that of none.
            targets = (targets - 2 * objects).clamp(max=BELOW_ONE)
            losses = self.module(seen, targets, reduction_override='none')
            at = objects.nonzero(as_tuple=True)
            ones = torch.ones_like(seen)
            of_objects = self.module(seen, ones, reduction_override='none')[at]
            return losses.index_put(at, objects[at] * of_objects, accumulate=True).sum(1)

    def call_of(self, called: Pass) -> Call:
        """What a call was of."""
        (scores, targets, *_), options, _ = called
        scores, targets = (_last(each, self.num_classes) for each in (scores, targets))
        if options.get('pos_inds') is None:
            objects = targets.eq(1).to(targets)
        else:
            at = (options['pos_inds'], options['pos_labels'])
            one = targets.new_ones(len(at[0]))
            objects = torch.zeros_like(targets).index_put(at, one, accumulate=True)
        # Of several classes, a position counts as of the rarest.
        weight, label = (self.class_weight.to(objects) * (objects > 0)).max(dim=1)
        ones = scores.new_ones(len(scores))
        return Call(
            scores, label.where(weight > 0, self.num_classes), ones, ones, targets + 2 * objects
        )


def _kinds(head: nn.Module) -> list[str]:
    return [kind.__name__ for kind in type(head).__mro__]


def _last(values: Tensor, num_classes: int) -> Tensor:
    """Maps (N, C, H, W), or what is (n, C) already, as (n, C)."""
    return (values.movedim(1, -1) if values.dim() > 2 else values).reshape(-1, num_classes)


def fitted_loss(found: ScoringHead, model: CalibratedDetectorMixin) -> LayerLoss:
    """The loss of a head, as one pass fits to it.

    Raises:
        ValueError: If it is not one of elements.
    """
    head, module, size = found.head, found.loss, found.layout.size - found.layout.before
    kind, normalizer = None, 'positives'
    weight = getattr(head if module is None else module, 'grw_weight', None)
    if isinstance(module, ReweightedPositivesMixin):
        if isinstance(module, GaussianFocalLoss):
            kind = HeatMapLoss
        elif hasattr(module, 'use_sigmoid'):
            kind = SigmoidLoss
            normalizer = 'qualities' if set(BY_QUALITY) & set(_kinds(head)) else normalizer
    elif weight is not None:
        weight = torch.cat([weight, weight.new_ones(1)])
        if isinstance(head, SSDHead) or getattr(head, 'use_ohem', False):
            kind = HardNegativesLoss
        elif isinstance(module, SeesawLoss):
            kind, normalizer = FittedSeesawLoss, 'valid'
        elif isinstance(module, ReweightedRowsMixin) and isinstance(module, CrossEntropyLoss):
            kind, normalizer = LayerLoss, 'class_weight'
        given = getattr(module, 'class_weight', None)
        weight = weight if given is None else weight * torch.as_tensor(given).to(weight)
    if kind is None:
        name = type(head).__name__.removeprefix('Reweighted').removeprefix('Calibrated')
        raise ValueError(
            f'{name} cannot be fitted in one pass: its loss is not one of elements with a label; '
            'use tools/train.py'
        )
    return kind(model.class_prior, model.exp_scale, weight.float(), normalizer, head, module, size)


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Pass]]:
    """A list that gets arguments, options and output of each forward pass of a module."""
    passes: list[Pass] = []
    handle = module.register_forward_hook(
        lambda _, inputs, options, output: passes.append((inputs, options, output)),
        with_kwargs=True,
    )
    try:
        yield passes
    finally:
        handle.remove()
