"""A hook for benchmarks that train a part of a stock model."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class TrainOnly(Hook):
    """Freezes all of a model but one part: its parameters, and what changes in training mode.

    Args:
        part: Name of the module that trains.
    """

    def __init__(self, part: str) -> None:
        self.part = part

    def before_run(self, runner: Runner) -> None:
        """Freeze the parameters."""
        runner.model.requires_grad_(False)
        runner.model.get_submodule(self.part).requires_grad_(True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Leave the statistics of normalisations as they are."""
        for name, module in runner.model.named_modules():
            if not name.startswith(self.part) and not list(module.children()):
                module.eval()
