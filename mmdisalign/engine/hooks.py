"""What to watch while a calibration trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..calibration import ClassPrior
from .confidence import calibrations_of, watch_confidence


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Logs α, β and σ(x) to the visualizer, so to TensorBoard and the other backends it has.

    Of each calibration, every ``interval`` iterations and at the end: ``magnitude`` (α) and
    ``margin`` (β), mean over the head, body and tail classes, smallest and largest; mean and
    standard deviation of ``confidence`` (σ) over the iteration's inputs, but not at the end. Other
    iterations are left alone. The metrics of the groups are logged by mmengine's ``LoggerHook``, as
    all metrics are. Without calibrations, in stage 1 for one, it does nothing.

    Args:
        interval: Iterations between two entries, at least 1. Default: 50.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'interval of CalibrationHook is at least 1, got {interval}')
        self.interval = interval
        self._watching = ExitStack()
        self._confidence: dict[str, float] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Watch this iteration if it is to be logged."""
        if (runner.iter + 1) % self.interval == 0:
            self._watching.enter_context(watch_confidence(runner.model, self._see))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log what was watched."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._watching.close()
        values, self._confidence = {**calibration_scalars(runner.model), **self._confidence}, {}
        if values:
            runner.visualizer.add_scalars(values, step=runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Log α and β at the end, if the last iteration was not logged."""
        values = calibration_scalars(runner.model)
        if values and runner.iter % self.interval:
            runner.visualizer.add_scalars(values, step=runner.iter)

    def _see(self, name: str, logits: Tensor, sigma: Tensor) -> None:
        if not sigma.numel():  # a cascade without proposals
            return
        self._confidence[f'{name}/confidence_mean'] = sigma.mean().item()
        self._confidence[f'{name}/confidence_std'] = sigma.std(unbiased=False).item()


def calibration_scalars(model: nn.Module) -> dict[str, float]:
    """Statistics of α and β of a model's calibrations; of the groups, if a loss knows them."""
    scalars: dict[str, float] = {}
    for name, module in calibrations_of(model).items():
        groups = _groups(model, module.num_classes)
        for what in ('magnitude', 'margin'):
            values = getattr(module, what).detach().float().cpu()
            key = f'{name}/{what}'
            scalars.update(
                {f'{key}_{group}': values[members].mean().item() for group, members in groups}
            )
            scalars[f'{key}_min'], scalars[f'{key}_max'] = (v.item() for v in values.aminmax())
    return scalars


def _groups(model: nn.Module, num_classes: int) -> list[tuple[str, Sequence[int]]]:
    """Groups of the first prior of so many classes in the model; an empty group is left out."""
    for module in model.modules():
        prior = getattr(module, 'class_prior', None)
        if isinstance(prior, ClassPrior) and len(prior) == num_classes:
            return [(name, members) for name, members in prior.groups.items() if members]
    return []
