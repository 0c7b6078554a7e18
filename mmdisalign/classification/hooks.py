"""What hooks share, and the one of second stages that train the classifier."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from .heads import classifier_of


class StatefulHook(Hook):
    """A hook whose state is in the checkpoints, for a training that is resumed.

    Attributes:
        state: Its key there.
    """

    state: str
    _loaded: Optional[dict[str, Any]] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the state for when training begins; a stage-1 checkpoint has none."""
        self._loaded = checkpoint.get(self.state)

    def _resumed(self, runner: Runner) -> Optional[dict[str, Any]]:
        """The state to go on from, once; None where training begins."""
        loaded, self._loaded = self._loaded, None
        # What load_from loads, in a training that is not resumed, is only a model to start from.
        return loaded if runner.iter > 0 else None


@HOOKS.register_module()
class ResetClassifierHook(Hook):
    """Start the head's classifier anew, as PyTorch initialises it, where a training begins.

    Classifier re-training (cRT, Kang et al., ICLR 2020, section 4.2) keeps the features of stage 1
    and not its classifier. A training that is resumed goes on with the one it had.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Reset the classifier, after the checkpoint was loaded."""
        if runner.iter > 0:
            return
        classifier = classifier_of(model_of(runner).head)
        classifier.reset_parameters()
        for parameter in classifier.parameters():
            broadcast(parameter.data)


def model_of(runner: Runner) -> nn.Module:
    """The model, without what wraps it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
