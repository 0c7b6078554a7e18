"""Hooks of second stages that train the classifier."""

from __future__ import annotations

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from .heads import classifier_of


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
