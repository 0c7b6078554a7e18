"""Stage 2 in one pass: what the tool does, between its command line and its files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ..calibration import AdaptiveCalibration, ClassPrior, ZeroCount, generalized_reweight
from ..engine.confidence import calibrations_of
from ..engine.derive import registered_class
from ..engine.stage import CalibrationStageMixin, naming_checkpoint
from ..processes import agreed
from ..progress import progress_bar
from .collect import Collector, FullCollector, SeededDataset
from .fitted_loss import FittedLoss
from .fitting import (
    MAX_EVALUATIONS,
    Fit,
    Samples,
    balanced_score,
    fit_calibration,
    normalizer_of,
    sampled_sum,
)
from .folding import classifier_of, layer_of
from .image_choice import ImageChoice, image_numbers
from .methods import Problem

EXP_SCALES = tuple(step / 5 for step in range(9))  # 0 to 1.6, what 'auto' tries
HELD_OUT = 5  # one image of so many is held out for 'auto'
MOST_FOR_AUTO = 30_000  # samples that each of its fits takes
CHECKED_IMAGES = 4
MOST_ERRORS = 5  # by which a sampled loss may be off: errors are themselves estimated
SCORES = {'segmentation': 'IoU', 'detection': 'IoU', 'classification': 'accuracy'}


def stage2_model(
    cfg: Config,
    plugin: str,
    prior: ClassPrior,
    exp_scale: Optional[float],
    zero_count: ZeroCount,
) -> dict[str, Any]:
    """What turns the model of a config into that of stage 2; of ours, what changes in it.

    Args:
        cfg: Config of stage 1 or 2.
        plugin: Such as ``'segmentation'``.
        prior: Class frequencies of the training data.
        exp_scale: ρ, or None, that of the config of stage 2, or of the model by default.
        zero_count: How to weigh classes that were never seen.
    """
    options: dict[str, Any] = {'class_prior': prior, 'zero_count': zero_count}
    if exp_scale is not None:
        options['exp_scale'] = exp_scale
    if is_calibrated(cfg):
        return options
    return {'type': import_module(f'mmdisalign.{plugin}').calibrated_model(cfg.model), **options}


def is_calibrated(cfg: Config) -> bool:
    """Whether a config is of stage 2.

    Raises:
        ValueError: If it is, and its heads have losses of their own, which the prior would replace.
    """
    models = import_module(f'{cfg.default_scope}.registry').MODELS
    if not issubclass(registered_class(cfg.model.type, models), CalibrationStageMixin):
        return False
    if cfg.model.get('class_prior') is None:
        raise ValueError(
            'a config of stage 2 has its class_prior on the model, to be fitted; with losses of '
            "its heads' own, use train.py"
        )
    return True


def build_stage2(
    model: Mapping[str, Any], checkpoint: str, seed: int, collector: Callable[[nn.Module], Any]
) -> nn.Module:
    """A model of stage 2 with the weights of a checkpoint, its calibrations untouched.

    Args:
        model: Its config.
        checkpoint: File or address.
        seed: Of what the confidences begin with.
        collector: The collector's class: what it refuses is refused before weights are loaded.

    Raises:
        CheckpointError: If the checkpoint does not fit.
        ValueError: If a confidence is not linear: with normalisation, it cannot be fitted.
    """
    built = MODELS.build(copy.deepcopy(dict(model)))
    calibrations = calibrations_of(built)
    for name, calibration in calibrations.items():
        if not isinstance(calibration.confidence, nn.Linear):
            raise ValueError(
                f'{name} has a {type(calibration.confidence).__name__} for its confidence, whose '
                'normalisation follows the batches of training: use train.py'
            )
    collector(built)
    with naming_checkpoint(checkpoint):
        load_checkpoint(built, checkpoint, map_location='cpu')
    generator = torch.Generator().manual_seed(seed)
    for calibration in calibrations.values():
        with torch.no_grad():
            for parameter in calibration.parameters():
                parameter.zero_()
            calibration.confidence.weight.normal_(std=0.01, generator=generator)
    return built.to(get_device()).eval()


def class_weights(loss: FittedLoss, exp_scale: float, zero_count: ZeroCount) -> Tensor:
    """The weights of a loss, shape (C,) or (C + 1,), with another ρ."""
    foreground = generalized_reweight(loss.class_prior, exp_scale, zero_count=zero_count)
    return torch.cat([foreground, loss.class_weight[loss.num_classes :].cpu()])


def check_choosable(losses: Mapping[str, FittedLoss]) -> None:
    """Raise ValueError if held-out samples do not tell which ρ is best."""
    if any(loss.several for loss in losses.values()):
        raise ValueError(
            'an image may be of several classes, so the share that is predicted right does not '
            'tell ρ: name it with --exp-scale'
        )


class OnePass:
    """Samples of a model's calibrations, to which they are fitted.

    Args:
        collector: Of the model.
        samples: By name of the calibration.
        elements: How many elements came, ignored ones included, by name.
        zero_count: How to weigh classes that were never seen.
        weight_decay: Of the fit.
    """

    def __init__(
        self,
        collector: Collector,
        samples: Mapping[str, Samples],
        elements: Mapping[str, float],
        zero_count: ZeroCount,
        weight_decay: float,
    ) -> None:
        self.losses, self.samples = collector.losses, samples
        self.zero_count, self.weight_decay = zero_count, weight_decay
        self.per_valid = {
            name: elements[name] / max(float(own.weight.sum()), 1e-9)
            for name, own in samples.items()
        }

    def check_classes(self) -> None:
        """Raise ValueError if there is no sample of a class, and the prior says that there are."""
        found = []
        for name, own in self.samples.items():
            prior, seen = self.losses[name].class_prior, self.losses[name].seen(own)
            found += [prior.name_of(c) for c in np.flatnonzero((seen == 0) & (prior.counts > 0))]
        if found:
            raise ValueError(
                f'no sample of {", ".join(dict.fromkeys(found))}: the training pipeline showed it '
                'in none of the images that were passed. Pass more of them, with '
                "--images-per-class N or 'all', or more often, with --passes"
            )

    def fit(
        self,
        calibration: AdaptiveCalibration,
        name: str,
        exp_scale: float,
        chosen: Optional[np.ndarray] = None,
    ) -> Fit:
        """Fit a calibration in place; see :func:`fit_calibration`."""
        own, loss = self.samples[name], self.losses[name]
        chosen = np.arange(len(own)) if chosen is None else chosen
        weight = class_weights(loss, exp_scale, self.zero_count)
        total = normalizer_of(
            loss.normalizer, own, chosen, weight, self.per_valid[name], loss.num_classes
        )
        with progress_bar() as bar:
            # That many at most: the time left is an upper bound.
            task = bar.add_task(f'Fitting {name}, ρ = {exp_scale:g}', total=MAX_EVALUATIONS)
            return fit_calibration(
                calibration,
                own,
                chosen,
                weight,
                total,
                element_losses=loss.element_losses,
                counted=loss.counted,
                follows=loss.follows,
                weight_decay=self.weight_decay,
                progress=lambda number, _: bar.update(task, completed=number),
            )

    def problem(self, model: nn.Module, name: str, seed: int) -> Problem:
        """What other methods are fitted to, of a calibration of a model.

        Args:
            model: With untouched calibrations.
            name: Of the calibration.
            seed: Of what starts at random.
        """
        weight, bias = classifier_of(model, name) or (None, None)
        return Problem(
            self.samples[name],
            self.losses[name],
            weight=weight,
            bias=bias,
            layer=layer_of(model, name),
            per_valid=self.per_valid[name],
            zero_count=self.zero_count,
            weight_decay=self.weight_decay,
            seed=seed,
        )

    def choose(
        self, calibrations: Mapping[str, AdaptiveCalibration], score: str, seed: int
    ) -> dict[float, float]:
        """Score of each ρ, mean over the calibrations, fitted and scored on other images.

        Args:
            calibrations: Untouched; they stay so.
            score: See :func:`balanced_score`.
            seed: Decides which samples are left out, where there are many.
        """
        scores = dict.fromkeys(EXP_SCALES, 0.0)
        for name, untouched in calibrations.items():
            held_out = self.samples[name].image % HELD_OUT == HELD_OUT - 1
            fitted, judged = np.flatnonzero(~held_out), np.flatnonzero(held_out)
            # On sigmoids, what is of no class has no score: the others are judged.
            own, loss = self.samples[name], self.losses[name]
            judged = judged[own.label[judged] < len(loss.class_weight)]
            if not len(fitted) or not len(judged):
                raise ValueError(
                    'there are too few images to hold some out and choose ρ by them: name it with '
                    '--exp-scale'
                )
            rng = np.random.default_rng(seed)
            fitted, judged = (
                np.sort(rng.choice(part, min(len(part), MOST_FOR_AUTO), replace=False))
                for part in (fitted, judged)
            )
            calibration = copy.deepcopy(untouched)
            for exp_scale in EXP_SCALES:  # each from where the last one ended
                self.fit(calibration, name, exp_scale, fitted)
                found = balanced_score(calibration, own, judged, score, loss.class_scores)
                scores[exp_scale] += found / len(calibrations)
        return agreed(scores)


@dataclass(frozen=True)
class FullCheck:
    """The mean loss of every element of some images, and what their samples say of it.

    Attributes:
        what: Which elements.
        before: Loss before the fit.
        after: And after.
        sampled: What samples say of ``after``.
        error: Standard error of that, at most.
    """

    what: str
    before: float
    after: float
    sampled: float
    error: float

    def __str__(self) -> str:
        text = (
            f'Loss of all {self.what}: {self.before:.5f} to {self.after:.5f}; by their samples, '
            f'{self.sampled:.5f} ± {self.error:.5f}.'
        )
        # 1e-3: features are in half precision.
        if abs(self.after - self.sampled) > MOST_ERRORS * self.error + 1e-3 * self.after:
            text += ' These differ by more than chance explains: mistrust this calibration.'
        if self.after > self.before:
            text += (
                ' The loss has risen: there were too few samples, so raise --cache-size or '
                '--images-per-class, and mistrust this calibration.'
            )
        return text


@torch.no_grad()
def check_fully(
    collector: FullCollector,
    samples: Samples,
    calibration: AdaptiveCalibration,
    dataset: SeededDataset,
    choice: ImageChoice,
    class_weight: Tensor,
) -> FullCheck:
    """Compare the loss that was fitted with the full one, on a few of the images.

    Args:
        collector: Of the model, whose calibration is fitted.
        samples: What it was fitted to.
        calibration: It.
        dataset: The images.
        choice: Which were passed.
        class_weight: Shape (C,).
    """
    numbers = image_numbers(dataset.dataset, choice.index)
    _, first = np.unique(numbers, return_index=True)
    spread = np.linspace(0, len(first) - 1, min(CHECKED_IMAGES, len(first))).astype(int)
    checked = numbers[np.sort(first)[spread]]
    passed = np.flatnonzero(np.isin(numbers, checked))
    # What an image stands for changes both alike.
    full = np.zeros(3)
    for index in choice.index[passed].tolist():
        full += collector.full_losses(pseudo_collate([dataset[index]]), class_weight)
    weights = dict(zip(numbers[passed].tolist(), choice.weight[passed]))
    chosen = np.flatnonzero(np.isin(samples.image, checked))
    of_image = np.array([weights[number] for number in samples.image[chosen].tolist()])
    own = replace(samples, weight=samples.weight.copy())
    own.weight[chosen] /= of_image
    loss = collector.losses[collector.name]
    sampled, error = sampled_sum(
        calibration,
        own,
        chosen,
        class_weight,
        element_losses=loss.element_losses,
        counted=loss.counted,
    )
    elements, before, after = full
    what = f'{int(elements):,} {collector.unit} of {len(checked)} images'
    values = np.array([before, after, sampled, error]) / max(elements, 1)
    return FullCheck(what, *values.tolist())


def released_weight_decay(fragment: Union[str, Path]) -> float:
    """The weight decay of the released schedule, also where a shorter training has none.

    A training that ends early needs no decay to stay near its start. Without it, a fit to the end
    makes σ(x) a step, and where it ends depends on the seed.

    Args:
        fragment: The config with the released schedule of the plug-in.
    """
    schedule = Config.fromfile(fragment).disalign.schedule
    return float(schedule[1].optimizer.weight_decay)
