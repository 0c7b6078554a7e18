"""The calibrations of a model, and what they make of their inputs while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..calibration import AdaptiveCalibration


def calibrations_of(model: nn.Module) -> dict[str, AdaptiveCalibration]:
    """The calibrations of a model, or of what a wrapper such as DDP has inside, by name."""
    model = model.module if is_model_wrapper(model) else model
    return {n: m for n, m in model.named_modules() if isinstance(m, AdaptiveCalibration)}


@contextmanager
def watch_confidence(
    model: nn.Module, see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """While the context lasts, show each forward pass of each calibration.

    Args:
        model: With calibrations.
        see: Gets the calibration's name, the scores z (N, C, *) and the confidence σ (N, 1, *).
    """

    def hook(name: str) -> Callable:
        def show(module: AdaptiveCalibration, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
            logits, features = (tensor.detach() for tensor in inputs)
            with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
                sigma = module.sigma(features.float())
                see(name, logits, sigma.expand_as(logits[:, :1]))  # one is of several anchors

        return show

    handles = [m.register_forward_hook(hook(n)) for n, m in calibrations_of(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
