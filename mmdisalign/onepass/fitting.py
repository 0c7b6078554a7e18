"""Fit a calibration, to convergence, to samples of what its classifier saw."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Callable, NamedTuple, Optional, Protocol, Union

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..calibration import AdaptiveCalibration
from ..losses import weighted_cross_entropy

MAX_STEPS = 200
MAX_EVALUATIONS = 250  # of the loss, in all steps
MAX_ROUNDS = 20  # of a loss whose weights follow the scores
TOLERANCE = 1e-6  # of the loss and of each parameter: a step that changes less is the last
CHUNK = 1 << 22  # numbers that are calibrated at a time: 16 MB in float32
IN_MEMORY = 1 << 29  # numbers that stay in memory during a fit, in float32: 2 GB


class Chunk(NamedTuple):
    """Some of the samples as tensors, see :class:`Samples`."""

    features: Tensor
    logits: Tensor
    taps: Tensor
    label: Tensor
    weight: Tensor
    quality: Tensor
    view: Tensor


class ElementLosses(Protocol):
    """The loss of each element, which a calibration is fitted to the mean of."""

    def __call__(
        self, scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor
    ) -> Tensor:
        """Losses (n,) of scores (n, C or more) with labels and qualities, both (n,).

        ``class_weight`` has w of the classes, and of a background if it has a score.
        """


class Counted(Protocol):
    """How much of each element a loss counts that chooses the hardest, by their losses."""

    def __call__(self, scores: Tensor, losses: Tensor, chunk: Chunk) -> Tensor:
        """Weights (n,), at most those of the chunk, which has whole images as they were passed.

        Of calibrated scores (n, C or more) and their losses (n,), neither with a gradient.
        """


def softmax_losses(scores: Tensor, label: Tensor, quality: Tensor, class_weight: Tensor) -> Tensor:
    """Weighted cross-entropy of each element, (n,), which is the same whatever its quality."""
    return weighted_cross_entropy(scores, label, class_weight, reduction='none')


def hardest(hardness: Tensor, share: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """The weights of what counts where a loss chooses the hardest elements of each image, (n,).

    An element with a share of 1 counts. Of the others of its image, those count that are hardest,
    until they come to that share of the others' weight; the one at the edge counts in part.

    Args:
        hardness: Of each element, shape (n,).
        share: How much of its image's elements that are not sure to count does, shape (n,): of
            an image, there is one such number below 1.
        weight: How many elements each stands for, shape (n,).
        image: Where each is from, shape (n,).
    """
    order = hardness.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    share, own = share[order], weight[order].double()
    chosen = own * (share < 1)
    _, place, number = image[order].unique_consecutive(return_inverse=True, return_counts=True)
    before = chosen.cumsum(0) - chosen
    harder = before - before[number.cumsum(0) - number][place]
    total = torch.zeros_like(number, dtype=chosen.dtype).index_add(0, place, chosen)
    left = (share * total[place] - harder).clamp(min=0)
    kept = torch.where(share < 1, torch.minimum(left, own), own)
    return torch.empty_like(weight).scatter(0, order, kept.to(weight))


@dataclass
class Samples:
    """S samples of what a calibrated classifier saw and should have said.

    A score of a segmentor is interpolated between K = 4 positions where the classifier ran, and
    they are calibrated before that; elsewhere K = 1. The arrays may be memory-mapped.

    Attributes:
        features: Of each position, shape (S, K, F).
        logits: Scores before calibration, shape (S, K, C), and behind them what passes: the score
            of a background, or what else the loss of an element takes.
        taps: Weight of each position, shape (S, K), sum 1.
        label: Shape (S,).
        weight: How many elements of the training data a sample stands for, shape (S,).
        image: Number of the image that it comes from, shape (S,); the same in every pass.
        rows: Where the samples are in ``features``, ``logits`` and ``taps``, if those hold others,
            too, shape (S,). Default: None, they hold these.
        quality: The target of the score of the label where that is on a sigmoid, such as an IoU,
            shape (S,). Default: None, 1.
        view: Number of the image as it was passed, with its augmentation, shape (S,). Default:
            None, each was passed once.
        shared: Whether all processes of a group have the same samples, and each computes its share
            of a fit, see :mod:`.processes`.
        device: Where they are computed with.
    """

    features: np.ndarray
    logits: np.ndarray
    taps: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    rows: Optional[np.ndarray] = None
    quality: Optional[np.ndarray] = None
    view: Optional[np.ndarray] = None
    shared: bool = False
    device: Union[str, torch.device] = 'cpu'

    def __post_init__(self) -> None:
        if self.quality is None:
            self.quality = np.ones(len(self.label), np.float32)
        if self.view is None:
            self.view = self.image

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def interpolated(self) -> Samples:
        """These with one position a sample, whose features and scores are interpolated.

        What is affine in them makes the same scores of these, in a quarter of the time; what is
        not, such as DisAlign's σ(x), is to be given each position. They are in memory, and none is
        that the arrays hold beside these: those of all processes hold many that were not kept.
        """
        if self.features.shape[1] == 1:
            return self
        rows = np.arange(len(self)) if self.rows is None else self.rows
        features, logits = (_weighed(self.taps, own, rows) for own in (self.features, self.logits))
        taps = np.ones((len(self), 1), self.taps.dtype)
        return replace(self, features=features, logits=logits, taps=taps, rows=None)

    def of(self, scores: object) -> Samples:
        """These, as what makes scores needs them: interpolated for what folds into a classifier."""
        return self.interpolated if hasattr(scores, 'folded') else self

    def chunks(
        self, chosen: np.ndarray, whole_images: bool = False, *, share: bool = False
    ) -> Iterable[Chunk]:
        """The chosen samples, (n,), as tensors, some at a time, in float32.

        Args:
            chosen: Which they are.
            whole_images: Whether all of an image as it was passed are in one part, which changes
                the order.
            share: Whether only the parts that this process computes with of shared samples. What
                the parts are does not depend on the number of processes. Default: False.

        Returns:
            The parts, to be passed more than once: held in memory, that of the device, or where
            they are too many read each time.
        """
        positions, channels = self.features.shape[1:]
        numbers = positions * (channels + self.logits.shape[2])
        size = max(1, CHUNK // numbers)
        ends = np.arange(size, len(chosen), size)
        if whole_images:
            chosen = chosen[np.argsort(self.view[chosen], kind='stable')]
            of_images = np.flatnonzero(np.diff(self.view[chosen], append=-1)) + 1
            ends = np.unique(of_images[np.searchsorted(of_images, ends)])
            ends = ends[ends < len(chosen)]
        parts = np.split(chosen, ends) if len(chosen) else []
        if share and self.shared:
            parts = parts[processes.rank() :: processes.number()]
        fit = numbers * sum(map(len, parts)) <= _room(self.device)
        return list(self._chunks(parts)) if fit else _Again(self, parts)

    def _chunks(self, parts: Sequence[np.ndarray]) -> Iterator[Chunk]:
        for index in parts:
            rows = index if self.rows is None else self.rows[index]
            features, logits, taps, weight, quality = (
                torch.from_numpy(np.asarray(values, dtype=np.float32))
                for values in (
                    self.features[rows],
                    self.logits[rows],
                    self.taps[rows],
                    self.weight[index],
                    self.quality[index],
                )
            )
            label, view = (
                torch.from_numpy(np.asarray(values[index], dtype=np.int64))
                for values in (self.label, self.view)
            )
            own = (features, logits, taps, label, weight, quality, view)
            yield Chunk(*(values.to(self.device) for values in own))


def _weighed(taps: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums over the positions, (S, 1, V) in float32, of values (S, K, V) times taps (S, K) there.

    Args:
        taps: Shape (R, K).
        values: Shape (R, K, V).
        rows: Which of them, (S,).
    """
    result = np.empty((len(rows), 1, values.shape[2]), np.float32)
    for start in range(0, len(rows), 4096):  # some at a time: they may be memory-mapped
        own = rows[start : start + 4096]  # joined arrays take no slices
        result[start : start + 4096] = taps[own][:, None].astype(np.float32) @ values[own]
    return result


def _room(device: Union[str, torch.device]) -> int:
    """How many numbers of samples a device holds during a fit."""
    if torch.device(device).type != 'cuda':
        return IN_MEMORY
    # Half of what is free: a fit takes memory of its own. A number has 4 bytes.
    return torch.cuda.mem_get_info(device)[0] // 8


@dataclass
class _Again:
    """Reads the chosen samples whenever they are passed."""

    samples: Samples
    parts: Sequence[np.ndarray]

    def __iter__(self) -> Iterator[Chunk]:
        return self.samples._chunks(self.parts)


def calibrated_scores(
    calibration: AdaptiveCalibration, features: Tensor, logits: Tensor, taps: Tensor
) -> Tensor:
    """Scores (S, C or more) of samples: calibrated at each position, then interpolated.

    Args:
        calibration: Calibrates the first C scores; others pass.
        features: Shape (S, K, F).
        logits: Shape (S, K, C or more).
        taps: Shape (S, K).
    """
    flat, num_classes = logits.flatten(0, 1), calibration.num_classes
    scores = calibration(flat[:, :num_classes], features.flatten(0, 1))
    scores = torch.cat([scores, flat[:, num_classes:].to(scores.dtype)], dim=1)
    return (scores.unflatten(0, logits.shape[:2]) * taps[..., None]).sum(dim=1)


def sampled_loss(
    calibration: AdaptiveCalibration,
    chunks: Iterable[Chunk],
    class_weight: Tensor,
    total: float,
    *,
    element_losses: ElementLosses = softmax_losses,
    counted: Optional[Counted] = None,
    held: Optional[AdaptiveCalibration] = None,
    backward: bool = False,
    shared: bool = False,
) -> float:
    """The loss over the data that samples stand for, estimated without bias.

    Args:
        calibration: Calibrates the samples.
        chunks: From :meth:`Samples.chunks`.
        class_weight: w, shape (C,) or (C + 1,).
        total: What the sum is divided by, see :func:`normalizer_of`.
        element_losses: Default: GRW cross-entropy.
        counted: Of a loss that chooses the hardest elements, which are whole images' then. Default:
            None, all count.
        held: Makes the scores that weights of the loss follow; they are behind all others. Default:
            None, there are none.
        backward: Whether to add the gradients to those of the calibration.
        shared: Whether the chunks are this process's share. Default: False.
    """
    parameters = [own for own in calibration.parameters() if own.requires_grad and backward]
    # In float32, sums depend on how many threads or processes share them, and by that the fit
    # would end elsewhere: its tolerance is as small.
    sums = [torch.zeros(1, dtype=torch.float64, device=class_weight.device)]
    sums += [torch.zeros_like(own, dtype=torch.float64) for own in parameters]
    for chunk in chunks:
        with torch.set_grad_enabled(backward):
            scores = calibrated_scores(calibration, chunk.features, chunk.logits, chunk.taps)
            if held is not None:
                with torch.no_grad():
                    others = calibrated_scores(held, chunk.features, chunk.logits, chunk.taps)
                scores = torch.cat([scores, others], dim=1)
            losses = element_losses(scores, chunk.label, chunk.quality, class_weight)
            losses = _weights(counted, scores, losses, chunk) * losses
            part = losses.double().sum() / total
        gradients = torch.autograd.grad(part, parameters, allow_unused=True) if backward else ()
        for own, more in zip(sums, (part.detach(), *gradients)):
            if more is not None:
                own += more
    if shared:
        flat = processes.summed(torch.cat([own.flatten() for own in sums]))
        parts = flat.split([own.numel() for own in sums])
        sums = [part.view_as(own) for part, own in zip(parts, sums)]
    for parameter, own in zip(parameters, sums[1:]):
        before = 0 if parameter.grad is None else parameter.grad
        parameter.grad = (own + before).to(parameter.dtype)
    return sums[0].item()


def _weights(counted: Optional[Counted], scores: Tensor, losses: Tensor, chunk: Chunk) -> Tensor:
    return chunk.weight if counted is None else counted(scores.detach(), losses.detach(), chunk)


def sampled_sum(
    calibration: AdaptiveCalibration,
    samples: Samples,
    chosen: np.ndarray,
    class_weight: Tensor,
    *,
    element_losses: ElementLosses = softmax_losses,
    counted: Optional[Counted] = None,
) -> tuple[float, float]:
    """Sum of the loss over the elements that samples stand for, and its standard error at most.

    As if each element had been drawn for itself, with probability 1 / weight (Poisson sampling):
    that so many of each class are drawn in each image makes the true error smaller.

    Args:
        calibration: Calibrates the samples.
        samples: The samples.
        chosen: Which of them, (n,).
        class_weight: Shape (C,) or (C + 1,).
        element_losses: As of :func:`sampled_loss`.
        counted: As of :func:`sampled_loss`.
    """
    total = variance = 0.0
    with torch.no_grad():
        for chunk in samples.chunks(chosen, whole_images=counted is not None):
            scores = calibrated_scores(calibration, chunk.features, chunk.logits, chunk.taps)
            losses = element_losses(
                scores, chunk.label, chunk.quality, class_weight.to(scores.device)
            )
            weight = _weights(counted, scores, losses, chunk)
            total += float((weight * losses).sum())
            variance += float((weight * (weight - 1).clamp(min=0) * losses**2).sum())
    return total, variance**0.5


def normalizer_of(
    kind: str,
    samples: Samples,
    chosen: np.ndarray,
    class_weight: Tensor,
    num_elements: float,
    num_classes: Optional[int] = None,
) -> float:
    """What the loss of chosen samples is divided by, see :func:`weighted_cross_entropy`.

    Args:
        kind: ``'elements'``, ``'valid'``, ``'class_weight'``, or as losses on sigmoids are divided,
            ``'positives'``: the elements of a class, or ``'qualities'``: the sum of theirs.
        samples: The samples.
        chosen: Which of them, (n,).
        class_weight: Shape (C,) or (C + 1,).
        num_elements: Elements of the training data, ignored ones included, per valid element.
        num_classes: C. Default: None, all that have a weight.
    """
    weight = np.asarray(samples.weight[chosen], dtype=np.float64)
    if kind in ('positives', 'qualities'):
        num_classes = len(class_weight) if num_classes is None else num_classes
        positive = samples.label[chosen] < num_classes
        of_each = samples.quality[chosen] if kind == 'qualities' else 1.0
        return max(1.0, float((weight * of_each)[positive].sum()))
    if kind == 'class_weight':
        weight = weight * class_weight.double().cpu().numpy()[samples.label[chosen]]
    return float(weight.sum()) * (num_elements if kind == 'elements' else 1.0)


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    Attributes:
        before: Loss before it, with the weight decay's penalty.
        after: And after.
        steps: How many steps that took.
        converged: Whether it ended for its tolerance, not for the limit of steps.
    """

    before: float
    after: float
    steps: int
    converged: bool


def fit_calibration(
    calibration: AdaptiveCalibration,
    samples: Samples,
    chosen: np.ndarray,
    class_weight: Tensor,
    total: float,
    *,
    element_losses: ElementLosses = softmax_losses,
    counted: Optional[Counted] = None,
    follows: bool = False,
    weight_decay: float = 0.0,
    progress: Optional[Callable[[int, float], None]] = None,
) -> Fit:
    """Minimise :func:`sampled_loss` plus ``weight_decay / 2`` times the sum of squared parameters.

    That is the minimum that SGD with weight decay seeks. L-BFGS over all samples in float32, with a
    strong Wolfe line search; but for rounding, the result depends on the calibration's initial
    weights alone. Of shared samples, each process computes the loss and the gradients of some
    chunks, and all take the same steps by their sums.

    Args:
        calibration: Fitted in place, on the device of the samples.
        samples: The samples.
        chosen: Which of them, (n,).
        class_weight: Shape (C,) or (C + 1,).
        total: What the sum of the losses is divided by.
        element_losses: As of :func:`sampled_loss`.
        counted: As of :func:`sampled_loss`.
        follows: Whether weights of the loss follow the scores, without a gradient in training. They
            are held while it is minimised, then moved, and so on until it stays where it is, as
            training would. Default: False.
        weight_decay: Of all parameters.
        progress: Called after each evaluation of the loss with its number and the loss.

    Raises:
        FloatingPointError: If the loss is no longer finite.
    """
    calibration.to(samples.device)
    loss_of = partial(
        sampled_loss,
        calibration,
        samples.chunks(chosen, whole_images=counted is not None, share=True),
        class_weight.to(samples.device),
        total,
        element_losses=element_losses,
        counted=counted,
        backward=True,
        shared=samples.shared,
    )
    if not follows:
        return _minimise(calibration, loss_of, weight_decay, progress)
    held, rounds = copy.deepcopy(calibration), []
    while len(rounds) < MAX_ROUNDS and (not rounds or rounds[-1].steps > 1):
        rounds.append(_minimise(calibration, partial(loss_of, held=held), weight_decay, progress))
        with torch.no_grad():  # half the way, or it may go to and fro
            for own, found in zip(held.parameters(), calibration.parameters()):
                own.lerp_(found, 0.5)
    steps = sum(each.steps for each in rounds)
    ended = rounds[-1].converged and rounds[-1].steps <= 1
    return Fit(rounds[0].before, rounds[-1].after, steps, ended)


def _minimise(
    calibration: AdaptiveCalibration,
    loss_of: Callable[[], float],
    weight_decay: float,
    progress: Optional[Callable[[int, float], None]],
) -> Fit:
    parameters = list(calibration.parameters())
    losses: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        penalty = weight_decay / 2 * sum((p * p).sum() for p in parameters)
        penalty.backward()
        losses.append(loss + penalty.item())
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f'the loss of the fit is {losses[-1]}')
        if progress is not None:
            progress(len(losses), losses[-1])
        return losses[-1]

    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_STEPS,
        max_eval=MAX_EVALUATIONS,
        tolerance_grad=0.0,
        tolerance_change=TOLERANCE,
        history_size=20,
        line_search_fn='strong_wolfe',
    )
    optimizer.step(closure)
    steps = optimizer.state[parameters[0]]['n_iter']
    converged = steps < MAX_STEPS and len(losses) < MAX_EVALUATIONS
    return Fit(losses[0], closure(), steps, converged)


def balanced_score(
    calibration: AdaptiveCalibration,
    samples: Samples,
    chosen: np.ndarray,
    score: str,
    class_scores: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> float:
    """How well the classes fare, each counting the same: an estimate from samples, in per cent.

    Args:
        calibration: Calibrates the samples.
        samples: The samples.
        chosen: Which of them, (n,).
        score: ``'accuracy'``: of the elements of a class, the share that is predicted right;
            ``'IoU'``: intersection over union of the elements that are, and are predicted as, the
            class. A background is not a class. The mean is over the classes that occur.
        class_scores: Makes of the scores of samples, (n, C or more), those that are compared,
            (n, C), or (n, C + 1) with a background. Default: they are.
    """
    size = samples.logits.shape[2]  # at least as many as are compared
    confusion = torch.zeros(size * size, dtype=torch.float64)
    with torch.no_grad():
        for chunk in samples.chunks(chosen):
            scores = calibrated_scores(calibration, chunk.features, chunk.logits, chunk.taps)
            pairs = chunk.label * size + class_scores(scores).argmax(dim=1)
            found = torch.bincount(pairs, chunk.weight.double(), minlength=size * size)
            confusion += found.cpu()
    confusion = confusion.reshape(size, size)
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    whole = true if score == 'accuracy' else true + predicted - right
    classes = true[: calibration.num_classes] > 0
    shares = (right / whole)[: calibration.num_classes][classes]
    return 100 * float(shares.mean())
