"""What a fit to all elements has in common with the model whose loss it fits to."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.fitting import Samples, calibrated_scores, normalizer_of, sampled_loss
from mmdisalign.onepass.one_pass import class_weights

# Of the loss, and of its gradient by the gradient's size: features are in half precision.
TOLERANCE = 2e-3


def learn(model: nn.Module) -> None:
    """Calibrations that have learned something; σ is about a half."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for calibration in calibrations_of(model).values():
            for name, parameter in calibration.named_parameters():
                std = 0.1 if 'confidence' in name else 1.0
                parameter.normal_(std=std, generator=generator)


def collected(collector: Any, data: dict) -> tuple[dict[str, Samples], dict[str, float]]:
    """Samples of a batch, and how many elements it had, by calibration."""
    torch.manual_seed(3)  # of what samplers draw
    with torch.no_grad():
        found = list(collector(copy.deepcopy(data), np.random.default_rng(0)))
    return (
        {name: samples for name, samples, _ in found},
        {name: sum(elements.values()) for name, _, elements in found},
    )


def of_fit(
    model: nn.Module, collector: Any, samples: dict[str, Samples], elements: dict[str, float]
) -> tuple[float, Tensor]:
    """The loss that is fitted, summed over the calibrations, and its gradient."""
    model.zero_grad()
    total = 0.0
    for name, own in samples.items():
        loss, every = collector.losses[name], np.arange(len(own))
        weight = class_weights(loss, loss.exp_scale, None)
        per_valid = elements[name] / own.weight.sum()
        divisor = normalizer_of(
            loss.normalizer, own, every, weight, per_valid, len(loss.class_prior)
        )
        total += sampled_loss(
            calibrations_of(model)[name],
            own.chunks(every, whole_images=loss.counted is not None),
            weight,
            divisor,
            element_losses=loss.element_losses,
            counted=loss.counted,
            backward=True,
        )
    return total, gradient_of(model)


def counted(model: nn.Module, collector: Any, samples: dict[str, Samples]) -> Tensor:
    """How much each element counts, of a loss that chooses the hardest."""
    found = []
    for name, own in samples.items():
        loss, calibration = collector.losses[name], calibrations_of(model)[name]
        (chunk,) = own.chunks(np.arange(len(own)), whole_images=True)
        with torch.no_grad():
            scores = calibrated_scores(calibration, chunk.features, chunk.logits, chunk.taps)
            losses = loss.element_losses(scores, chunk.label, chunk.quality, loss.class_weight)
            found.append(loss.counted(scores, losses, chunk))
    return torch.cat(found)


def of_model(model: nn.Module, data: dict) -> tuple[float, Tensor]:
    """The loss that stage 2 trains with, and its gradient."""
    model.zero_grad()
    torch.manual_seed(3)
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    losses = model.loss(batch['inputs'], batch['data_samples'])
    total = sum(
        value.sum() if isinstance(value, Tensor) else torch.stack(list(value)).sum()
        for name, value in losses.items()
        if 'loss' in name
    )
    total.backward()
    return total.item(), gradient_of(model)


def gradient_of(model: nn.Module) -> Tensor:
    parameters = [p for own in calibrations_of(model).values() for p in own.parameters()]
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )


def assert_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    """Compare a loss and its gradient with what they should be."""
    assert abs(found[0] - expected[0]) <= TOLERANCE * abs(expected[0]), (found[0], expected[0])
    error, size = (found[1] - expected[1]).norm(), expected[1].norm()
    assert size > 0
    assert error <= TOLERANCE * size, (error / size).item()
