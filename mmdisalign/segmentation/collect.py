"""Pixels, points or queries of a segmentor, for fitting its calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.point_head import PointHead
from mmseg.structures import OHEMPixelSampler
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ..engine.confidence import calibrations_of
from ..losses import GRWCrossEntropyLoss, tiled_cross_entropy, weighted_cross_entropy
from ..onepass.collect import Collected, captured, checked_logits, in_half
from ..onepass.fitted_loss import FittedLoss
from ..onepass.fitting import Chunk, Samples, hardest
from ..onepass.image_choice import ImageChoice
from ..onepass.sample_cache import Layout, fair_capacities
from .layers import num_outputs, pixel_losses
from .segmentors import CalibratedEncoderDecoder

MOST_OF_A_CLASS = 64  # pixels in an image: its neighbours tell little that is new


class SampleCollector:
    """The collector of a segmentor: of its points or queries, where it classifies those.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If its head or its losses are one's own, or its loss cannot be fitted.
    """

    def __new__(cls, model: CalibratedEncoderDecoder) -> Union[PixelCollector, RowCollector]:
        if getattr(model, 'calibrated_layers', ()):
            raise ValueError(
                'calibrated_layers is of a head of your own, whose samples are not known: use '
                'train.py'
            )
        if model.has_own_loss:
            raise ValueError(
                f'{type(model).__name__} has its own losses, whose samples are not known: use '
                'train.py'
            )
        head = model._calibrated_head
        kind = RowCollector if isinstance(head, PointHead) or _has_queries(head) else PixelCollector
        return kind(model)


@dataclass
class HardPixelLoss(FittedLoss):
    """That of a head with mmseg's ``OHEMPixelSampler``: the hardest pixels of each image count.

    These are chosen by calibrated scores, anew in each step of the fit. Behind the scores of a
    sample is the share of the pixels of its image that ``min_kept`` comes to. mmseg chooses them
    of a batch; of a batch of one image, it is the same.

    Attributes:
        thresh: Pixels whose label is less probable than this count all.
    """

    thresh: Optional[float]

    def counted(self, scores: Tensor, losses: Tensor, chunk: Chunk) -> Tensor:
        """Weights of the pixels, (n,), see :class:`Counted`."""
        share, scores = scores[:, self.num_classes], self.class_scores(scores)
        if self.thresh is None:
            return hardest(losses, share, chunk.weight, chunk.view)
        probability = scores.softmax(dim=1).gather(1, chunk.label[:, None])[:, 0]
        kept = hardest(-probability, share, chunk.weight, chunk.view)
        return torch.where(probability < self.thresh, chunk.weight, kept)


class PixelCollector:
    """Draws pixels of each class in an image, so that the rare ones are not lost.

    Of the n pixels of a class in an image, m are drawn without replacement, and each stands for
    n / m. A pixel's score is interpolated, as in training, between four positions of the head.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If its loss is not GRW cross-entropy, or not of the pixels that are there, or
            of those that OHEM chooses.
    """

    unit = 'pixels'
    training = True  # or the images are as they are evaluated, whole

    def __init__(self, model: CalibratedEncoderDecoder) -> None:
        self.model, self.head = model, model._calibrated_head
        ((self.name, calibration),) = calibrations_of(model).items()
        self.calibration = calibration
        classifies_by_cls_seg = hasattr(self.head, '_losses')
        losses = self.head._losses() if classifies_by_cls_seg else pixel_losses(self.head)
        self.sampler = getattr(self.head, 'kernel_generate_head', self.head).sampler
        self.losses = {self.name: _pixel_loss(losses[0], self.sampler)}
        scores = calibration.num_classes + (self.sampler is not None)
        self.layouts = {self.name: Layout(4, calibration.in_channels, scores)}
        self.most = np.full(calibration.num_classes, MOST_OF_A_CLASS)

    @property
    def how(self) -> str:
        least, most = self.most.min(), self.most.max()
        number = f'{most}' if least == most else f'{least} to {most}'
        return f'at most {number} pixels of each class in each'

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class; where they are few, fewer pixels are drawn in an image."""
        slots = int(num_bytes // self.layouts[self.name].bytes)
        capacity = fair_capacities(choice.images * MOST_OF_A_CLASS, slots)
        # A crop shows no class that its image has not; of a mosaic, more may come than are kept.
        self.most = np.ceil(capacity / choice.images).clip(1, MOST_OF_A_CLASS).astype(int)
        return {self.name: capacity}

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        (logits, features), _, labels = self._forward(data)
        for image, label in enumerate(labels):
            pixels, weight = self._draw(label.flatten().cpu().numpy(), rng)
            positions, taps = neighbours(
                torch.from_numpy(pixels), label.shape, logits.shape[2:], self.head.align_corners
            )
            positions = positions.to(logits.device)
            scores = logits[image].flatten(1)[:, positions].permute(1, 2, 0)
            samples = Samples(
                features=in_half(features[image].flatten(1)[:, positions].permute(1, 2, 0)),
                logits=checked_logits(self._with_share(scores, label)),
                taps=taps.numpy(),
                label=label.flatten()[torch.from_numpy(pixels).to(label.device)].cpu().numpy(),
                weight=weight,
                image=np.full(len(pixels), image, np.int32),
            )
            yield self.name, samples, {image: float(label.numel())}

    def full_losses(self, data: Any, class_weight: Tensor) -> tuple[int, float, float]:
        """Valid pixels, and the sum of their loss before and after the calibration."""
        (logits, _), calibrated, labels = self._forward(data)
        loss_of = self._loss_of_all if self.sampler is None else self._loss_of_hardest
        before, after = (
            float(loss_of(scores, labels, class_weight.to(scores.device)))
            for scores in (logits, calibrated)
        )
        return int((labels != self.head.ignore_index).sum()), before, after

    def _loss_of_all(self, scores: Tensor, labels: Tensor, class_weight: Tensor) -> Tensor:
        return tiled_cross_entropy(
            scores,
            labels,
            class_weight,
            align_corners=self.head.align_corners,
            ignore_index=self.head.ignore_index,
            reduction='sum',
        )[0]

    def _loss_of_hardest(self, scores: Tensor, labels: Tensor, class_weight: Tensor) -> Tensor:
        scores = interpolate(
            scores, labels.shape[1:], mode='bilinear', align_corners=self.head.align_corners
        )
        total = scores.new_zeros(())
        for own, label in zip(scores, labels):
            rows = own[:, label != self.head.ignore_index].T
            ones, valid = rows.new_ones(len(rows)), label[label != self.head.ignore_index]
            losses = weighted_cross_entropy(rows, valid, class_weight, reduction='none')
            chunk = Chunk(rows, rows, ones, valid, ones, ones, torch.zeros_like(valid))
            counted = self.losses[self.name].counted(self._with_share(rows, label), losses, chunk)
            total += (counted * losses).sum()
        return total

    def _with_share(self, scores: Tensor, label: Tensor) -> Tensor:
        """Scores (*, C) and, where the hardest pixels count, the share of them that is kept."""
        if self.sampler is None:
            return scores
        valid = int((label != self.head.ignore_index).sum())
        share = scores.new_full((*scores.shape[:-1], 1), self.sampler.min_kept / max(valid, 1))
        return torch.cat([scores, share.clamp(max=1)], dim=-1)

    def _forward(self, data: Any) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """What the calibration of a batch gets and gives, and the labels, shape (N, H, W)."""
        data = self.model.data_preprocessor(data, self.training)
        with captured(self.calibration) as passes:
            features = self.model.extract_feat(data['inputs'])
            outputs = self.head.forward(*self.model._head_inputs(features))
        labels = BaseDecodeHead._stack_batch_gt(self.head, data['data_samples'])[:, 0]
        if not self.training:
            labels = padded_labels(labels, data, self.head.ignore_index)
        (logits, features), calibrated = passes[-1]
        if logits.dim() == 3:  # patches of a transformer, row by row
            size = outputs.shape[2:]
            logits, features, calibrated = (
                each.unflatten(2, size) for each in (logits, features, calibrated)
            )
        return (logits, features), calibrated, labels

    def _draw(self, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the drawn pixels, and what each stands for, both (S,)."""
        pixels, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
        order = np.argsort(label, kind='stable')
        classes, first, number = np.unique(label[order], return_index=True, return_counts=True)
        for each, start, size in zip(classes, first, number):
            if each == self.head.ignore_index:
                continue
            if each >= len(self.most):
                raise ValueError(
                    f'the training pipeline gives the label {each}, which is none of the '
                    f'{len(self.most)} classes and not ignore_index={self.head.ignore_index} of '
                    'decode_head: set ignore_index, or reduce_zero_label of the data set'
                )
            most = min(self.most[each], size)
            pixels.append(order[start + rng.choice(size, most, replace=False, shuffle=False)])
            weights.append(np.full(most, size / most))
        return np.concatenate(pixels), np.concatenate(weights)


def _pixel_loss(loss: nn.Module, sampler: Any) -> FittedLoss:
    """The loss of pixels that is fitted; ValueError if it is not one of them."""
    if not isinstance(loss, GRWCrossEntropyLoss):
        raise ValueError(
            f'GRWCrossEntropyLoss can be fitted; the decode head has {type(loss).__name__}'
        )
    if sampler is None:
        return FittedLoss.of(loss)
    if not isinstance(sampler, OHEMPixelSampler):
        raise ValueError(
            'of pixel samplers, OHEMPixelSampler can be fitted; the decode head has '
            f'{type(sampler).__name__}: use train.py'
        )
    if loss.normalizer == 'class_weight':
        raise ValueError(
            f'with {type(sampler).__name__}, the pixels that are chosen decide what the normalizer '
            "'class_weight' divides by, which cannot be fitted: use train.py, or another normalizer"
        )
    return HardPixelLoss(**vars(FittedLoss.of(loss)), thresh=sampler.thresh)


class RowCollector:
    """Keeps what the classification layer saw of what the head's own loss labels.

    Of PointRend, these are the points that training draws, the uncertain ones more often. Of a head
    that classifies masks, these are all queries of the last decoder layer, which predicts: those
    that are matched to a class of the image, and those that are of no object. The weight of a query
    is that of its label in ``loss_cls``, whose mean divides by the sum of these weights.

    Args:
        model: In the stage ``'calibration'``.

    Raises:
        ValueError: If the loss is not cross-entropy on a softmax.
    """

    def __init__(self, model: CalibratedEncoderDecoder) -> None:
        self.model, self.head = model, model._calibrated_head
        ((self.name, calibration),) = calibrations_of(model).items()
        ((_, self.layer),) = model._layers.items()
        self.has_queries = _has_queries(self.head)
        self.loss = self.head.loss_cls if self.has_queries else pixel_losses(self.head)[0]
        self._check_loss()
        outputs = num_outputs(self.layer)
        self.layouts = {self.name: Layout(1, calibration.in_channels, outputs)}
        own = self._fitted_loss() if self.has_queries else self.loss
        self.losses = {self.name: FittedLoss.of(own)}
        # Of classes and of no object, beside GRW.
        own = self.loss.class_weight if self.has_queries else None
        self.own_weight = torch.ones(outputs) if own is None else torch.tensor(own)

    @property
    def how(self) -> str:
        if self.has_queries:
            return f'the {self._per_image} queries of each, as training matches them'
        return f'the {self._per_image} points of each that training draws'

    @property
    def _per_image(self) -> int:
        return self.head.num_queries if self.has_queries else self.model.train_cfg['num_points']

    def capacities(self, choice: ImageChoice, num_bytes: float) -> dict[str, np.ndarray]:
        """Slots of each class, and of no object: in an image, one query is matched to a class."""
        expected = choice.images * (1 if self.has_queries else self._per_image)
        if self.has_queries:
            expected = np.append(expected, self._per_image * len(choice))
        slots = int(num_bytes // self.layouts[self.name].bytes)
        return {self.name: fair_capacities(expected, slots)}

    def __call__(self, data: Any, rng: np.random.Generator) -> Iterator[Collected]:
        data = self.model.data_preprocessor(data, True)
        with captured(self.layer) as scored, captured(self.loss) as judged:
            inputs = self.model._head_inputs(self.model.extract_feat(data['inputs']))
            self.head.loss(*inputs, data['data_samples'], self.model.train_cfg)
        # An untouched calibration is the identity, so these are the scores before it.
        ((features, *_), scores), ((_, labels, *_), _) = scored[-1], judged[-1]
        images = len(data['data_samples'])
        labels = labels.reshape(images, -1).cpu()
        # A query has a class or no object, whatever number the labels of pixels ignore.
        ignored = -1 if self.has_queries else self.head.ignore_index
        image, column = (labels != ignored).nonzero(as_tuple=True)
        label = labels[image, column]
        chosen = image * labels.shape[1] + column
        samples = Samples(
            features=in_half(self._rows(features)[chosen]),
            logits=checked_logits(self._rows(scores)[chosen]),
            taps=np.ones((len(label), 1), np.float32),
            label=label.numpy(),
            weight=self.own_weight[label].double().numpy(),
            image=image.int().numpy(),
        )
        yield self.name, samples, dict(enumerate(self._elements(labels)))

    def _elements(self, labels: Tensor) -> list[float]:
        """What the loss divides by, of each image: all points, or the weights of its queries."""
        if not self.has_queries:
            return [float(labels.shape[1])] * len(labels)
        return self.own_weight[labels].sum(dim=1).tolist()

    def _rows(self, values: Tensor) -> Tensor:
        """Of the last decoder layer, or of all points: (S, 1, F)."""
        values = values.movedim(1, -1) if isinstance(self.layer, nn.Conv1d) else values
        values = values[-1] if values.dim() == 4 else values  # MaskFormer scores all layers at once
        return values.flatten(0, 1)[:, None].cpu()

    def _check_loss(self) -> None:
        kinds = [kind.__name__ for kind in type(self.loss).__mro__]
        wanted = 'CrossEntropyLoss' if self.has_queries else 'GRWCrossEntropyLoss'
        if wanted not in kinds:
            name = type(self.loss).__name__.removeprefix('Reweighted')
            raise ValueError(f'{wanted} can be fitted; the decode head has {name}')

    def _fitted_loss(self) -> GRWCrossEntropyLoss:
        """GRW of the classes as ``loss_cls`` has it, with the weight 1 for no object."""
        if self.model.grw['class_prior'] is None:
            raise ValueError('what is fitted needs class frequencies: set class_prior on the model')
        return GRWCrossEntropyLoss(**self.model.grw, background_weight=1.0)


def _has_queries(head: nn.Module) -> bool:
    return hasattr(head, 'num_queries') and hasattr(head, 'loss_cls')


def padded_labels(labels: Tensor, data: Mapping[str, Any], value: int) -> Tensor:
    """Labels of an image as it is, and a value where the image that is passed was padded.

    Args:
        labels: Shape (1, H, W).
        data: What the preprocessor makes of a batch of that image.
        value: Of the padding, which is at the bottom and to the right.
    """
    (sample,), sizes = data['data_samples'], labels.shape[1:]
    ratios = [p / own for p, own in zip(data['inputs'].shape[2:], sample.img_shape)]
    bottom, right = (round(size * (ratio - 1)) for size, ratio in zip(sizes, ratios))
    return pad(labels, (0, right, 0, bottom), value=value)


def neighbours(
    pixels: Tensor, size: tuple[int, int], coarse: tuple[int, int], align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Between which positions of a coarse map bilinear interpolation takes the value of a pixel.

    Args:
        pixels: Flat indices of pixels, shape (S,).
        size: Height and width of the image.
        coarse: Height and width of the map.
        align_corners: As of ``torch.nn.functional.interpolate``.

    Returns:
        Flat indices of four positions, shape (S, 4), and their weights, shape (S, 4), sum 1.
    """
    axes = []
    for index, fine, rough in zip((pixels // size[1], pixels % size[1]), size, coarse):
        if align_corners:
            at = index * ((rough - 1) / max(fine - 1, 1))
        else:
            at = ((index + 0.5) * (rough / fine) - 0.5).clamp(min=0)
        low = at.floor().long().clamp(max=rough - 1)
        axes.append((low, (low + 1).clamp(max=rough - 1), at - low))
    (top, bottom, down), (left, right, along) = axes
    corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
    weights = [(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along]
    positions = torch.stack([row * coarse[1] + column for row, column in corners], dim=1)
    return positions, torch.stack(weights, dim=1).float()
