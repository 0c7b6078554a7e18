"""Stage 2 in one pass: what the tool does, between its command line and its files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
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
from ..losses import GRWCrossEntropyLoss
from .collect import Collector, FullCollector, SeededDataset
from .confidence import calibrations_of
from .derive import registered_class
from .fit import (
    MAX_EVALUATIONS,
    Fit,
    Samples,
    balanced_score,
    fit_calibration,
    normalizer_of,
    sampled_sum,
)
from .image_choice import ImageChoice
from .progress import progress_bar
from .stage import CalibrationStageMixin

EXP_SCALES = tuple(step / 5 for step in range(9))  # 0 to 1.6, what 'auto' tries
HELD_OUT = 5  # one image of so many is held out for 'auto'
MOST_FOR_AUTO = 30_000  # samples that each of its fits takes
CHECKED_IMAGES = 4
MOST_ERRORS = 6  # by which a sampled loss may be off: errors are themselves estimated
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


def build_stage2(model: Mapping[str, Any], checkpoint: str, seed: int) -> nn.Module:
    """A model of stage 2 with the weights of a checkpoint, its calibrations untouched.

    Raises:
        ValueError: If a confidence is not linear: with normalisation, it cannot be fitted.
    """
    built = MODELS.build(copy.deepcopy(dict(model)))
    load_checkpoint(built, checkpoint, map_location='cpu')
    generator = torch.Generator().manual_seed(seed)
    for name, calibration in calibrations_of(built).items():
        if not isinstance(calibration.confidence, nn.Linear):
            raise ValueError(
                f'{name} has a {type(calibration.confidence).__name__} for its confidence, whose '
                'normalisation follows the batches of training: use train.py'
            )
        with torch.no_grad():
            for parameter in calibration.parameters():
                parameter.zero_()
            calibration.confidence.weight.normal_(std=0.01, generator=generator)
    return built.to(get_device()).eval()


def class_weights(loss: GRWCrossEntropyLoss, exp_scale: float, zero_count: ZeroCount) -> Tensor:
    """The weights of a loss, shape (C,) or (C + 1,), with another ρ."""
    foreground = generalized_reweight(loss.class_prior, exp_scale, zero_count=zero_count)
    return torch.cat([foreground, loss.class_weight[loss.num_classes :].cpu()])


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

    def missing(self) -> list[str]:
        """Names of classes without a sample, of which the prior says that there are some."""
        found = []
        for name, own in self.samples.items():
            prior = self.losses[name].class_prior
            seen = np.bincount(own.label, minlength=len(prior))[: len(prior)]
            found += [prior.name_of(c) for c in np.flatnonzero((seen == 0) & (prior.counts > 0))]
        return list(dict.fromkeys(found))

    def fit(
        self,
        calibration: AdaptiveCalibration,
        name: str,
        exp_scale: float,
        chosen: Optional[np.ndarray] = None,
    ) -> Fit:
        """Fit a calibration, which is on the CPU, in place; see :func:`fit_calibration`."""
        own, loss = self.samples[name], self.losses[name]
        chosen = np.arange(len(own)) if chosen is None else chosen
        weight = class_weights(loss, exp_scale, self.zero_count)
        total = normalizer_of(loss.normalizer, own, chosen, weight, self.per_valid[name])
        with progress_bar() as bar:
            # That many at most: the time left is an upper bound.
            task = bar.add_task(f'Fitting {name}, ρ = {exp_scale:g}', total=MAX_EVALUATIONS)
            return fit_calibration(
                calibration,
                own,
                chosen,
                weight,
                total,
                weight_decay=self.weight_decay,
                progress=lambda number, _: bar.update(task, completed=number),
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
                found = balanced_score(calibration, self.samples[name], judged, score)
                scores[exp_scale] += found / len(calibrations)
        return scores


@dataclass(frozen=True)
class FullCheck:
    """The loss of an element over every element of some images, and what their samples say of it.

    Attributes:
        images: How many images.
        elements: Valid ones in them.
        before: Loss before the fit.
        after: And after.
        sampled: What samples say of ``after``.
        error: Standard error of that.
    """

    images: int
    elements: int
    before: float
    after: float
    sampled: float
    error: float

    def __str__(self) -> str:
        text = (
            f'Loss of all {self.elements:,} pixels of {self.images} images: {self.before:.5f} to '
            f'{self.after:.5f}; by their samples, {self.sampled:.5f} ± {self.error:.5f}.'
        )
        if abs(self.after - self.sampled) > MOST_ERRORS * self.error + 1e-3 * self.after:
            text += ' These differ by more than chance explains: mistrust this calibration.'
        return text


@torch.no_grad()
def check_fully(
    collector: FullCollector, dataset: SeededDataset, choice: ImageChoice, class_weight: Tensor
) -> FullCheck:
    """Compare the sampled loss with the full one, on a few of the images that were passed.

    Args:
        collector: Of the model, whose calibration is fitted.
        dataset: The images.
        choice: Which were passed.
        class_weight: Shape (C,).
    """
    (name,) = collector.losses
    indices = choice.index[:: -(-len(choice) // CHECKED_IMAGES)]
    rng, sums, parts = np.random.default_rng(dataset.seed), [], []
    for number, index in enumerate(indices.tolist()):
        data = pseudo_collate([dataset[index]])
        sums.append(collector.full_losses(data, class_weight))
        ((_, samples, _),) = collector(data, rng)
        samples.image = np.full(len(samples), number, np.int32)
        parts.append(samples)
    samples = Samples.joined(parts)
    calibration = copy.deepcopy(calibrations_of(collector.model)[name]).cpu()
    sampled, error = sampled_sum(calibration, samples, class_weight)
    elements = samples.weight.sum()
    before, after = np.sum(sums, axis=0)
    values = [float(value / elements) for value in (before, after, sampled, error)]
    return FullCheck(len(indices), round(elements), *values)


def released_weight_decay(fragment: Union[str, Path]) -> float:
    """The weight decay of the released schedule, also where a shorter training has none.

    A training that ends early needs no decay to stay near its start. Without it, a fit to the end
    makes σ(x) a step, and where it ends depends on the seed.

    Args:
        fragment: The config with the released schedule of the plug-in.
    """
    schedule = Config.fromfile(fragment).disalign.schedule
    return float(schedule[1].optimizer.weight_decay)
