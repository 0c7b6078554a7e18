"""Change the classifier of a trained model, and choose how far by a metric on validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from ..engine.stage import CALIBRATIONS

# Where mmseg's, mmdet's and mmpretrain's heads have their classifier.
CLASSIFIERS = ('decode_head.conv_seg', 'fc_cls', 'head.fc', 'head.layers.head')
# What is compared where the user does not say, by default_scope: the first that is evaluated.
METRICS = {
    'mmseg': ('mIoU',),
    'mmdet': ('lvis/bbox_AP', 'coco/bbox_mAP'),
    'mmpretrain': ('accuracy/mean', 'accuracy/top1'),
}


def find_classifiers(model: nn.Module) -> dict[str, nn.Module]:
    """The classifiers of a model by name: several, in a cascade of bbox heads.

    Raises:
        TypeError: If there is none, it is not plainly linear (a cosine classifier has no norms and
            no bias to change), or its scores are calibrated afterwards.
    """
    if any(isinstance(module, CALIBRATIONS) for module in model.modules()):
        raise TypeError(
            f'{type(model).__name__} is calibrated already: what is added to its scores would be '
            'calibrated too. Use the config and the checkpoint of stage 1'
        )
    found = {
        name: module
        for name, module in model.named_modules()
        if any(f'.{name}'.endswith(f'.{end}') for end in CLASSIFIERS)
    }
    for name, module in found.items():
        if type(module) not in (nn.Linear, nn.Conv2d):
            raise TypeError(f'{name} of the model is a {type(module).__name__}, not linear')
    if not found:
        raise TypeError(
            f'{type(model).__name__} has no classifier of a known name ({", ".join(CLASSIFIERS)})'
        )
    return found


def shift_scores(classifier: nn.Module, shift: Tensor, *, background: bool = False) -> None:
    """Add to the scores of the classes, for good.

    Args:
        classifier: Changed in place; it needs a bias.
        shift: Shape (C,).
        background: Whether a score of the background follows those of the classes; it stays.

    Raises:
        ValueError: If the classifier has no bias, or another number of scores.
    """
    if classifier.bias is None:
        raise ValueError('the classifier has no bias to add to')
    if len(classifier.bias) != len(shift) + background:
        raise ValueError(
            f'the class prior has {len(shift)} classes{" and background" * background}, but the '
            f'classifier has {len(classifier.bias)} scores'
        )
    with torch.no_grad():
        classifier.bias[: len(shift)] += shift.to(classifier.bias)


def choose(
    runner: Runner,
    change: Callable[[nn.Module, float], None],
    values: Sequence[float],
    metrics: Sequence[str],
) -> tuple[float, dict[float, float], str]:
    """Apply a change with each value, evaluate on the validation data, and keep the best.

    Args:
        runner: Of a config with validation data, its model loaded; afterwards, the model has the
            change with the best value.
        change: Changes a classifier in place.
        values: What to try. With one value, nothing is evaluated.
        metrics: Keys of metrics, the higher the better; the first that is evaluated counts.

    Returns:
        The best value, the metric by value, and which metric that is; empty if there is one value.

    Raises:
        KeyError: If the evaluation gives none of them.
        ValueError: If it is NaN.
    """
    classifiers = find_classifiers(runner.model)
    states = {name: _copy(module) for name, module in classifiers.items()}

    def apply(value: float) -> None:
        for name, module in classifiers.items():
            module.load_state_dict(states[name])
            change(module, value)

    scores: dict[float, float] = {}
    key = ''
    for value in values if len(values) > 1 else []:
        apply(value)
        evaluated = runner.val()
        key = _evaluated(evaluated, metrics)
        scores[value] = evaluated[key]
    best = max(scores, key=scores.get) if scores else values[0]
    apply(best)
    return best, scores, key


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def _evaluated(values: dict[str, float], keys: Sequence[str]) -> str:
    """The first of the keys that was evaluated."""
    key = next((key for key in keys if key in values), None)
    if key is None:
        raise KeyError(
            f'the evaluation has no {" or ".join(keys)}; it has {", ".join(values)}: name one with '
            '--metric'
        )
    if math.isnan(values[key]):
        raise ValueError(f'{key} of the validation data is NaN, so nothing can be chosen by it')
    return key
