"""Hooks that watch the classes while a classifier trains, and weigh or sample them by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..calibration import CausalLinear, effective_number_weights
from ..losses import CDBLoss, DifficultyNet, DifficultyNetLoss, difficulty_meta_loss
from ..losses.difficulty import DYNAMIC, checked_tau, difficulty_weights
from .heads import classifier_of
from .hooks import StatefulHook, model_of
from .meta_sampler import drawn_batch, features_of, learned_sampler, meta_seed
from .samplers import ClassSampler

TARGETS = ('loss', 'sampler')


@HOOKS.register_module()
class DeferredReweightingHook(Hook):
    """From an epoch on, weighs the classes of the loss by their effective number of samples.

    Source: DRW in Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
    Loss", NeurIPS 2019, section 3.3. For a loss with ``class_weight`` and ``class_prior``:
    ``LDAMLoss``, ``VSLoss`` and their kin.

    Args:
        begin: The epoch. Default: 160, of 200.
        beta: β of :func:`effective_number_weights`. Default: 0.9999.
    """

    def __init__(self, begin: int = 160, beta: float = 0.9999) -> None:
        self.begin, self.beta = begin, beta

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the weights, also of a training that is resumed."""
        loss = head_of(runner).loss_module
        if not hasattr(loss, 'class_weight') or not hasattr(loss, 'class_prior'):
            raise TypeError(
                f'DeferredReweightingHook has no weights to set in {type(loss).__name__}: it is '
                'for LDAMLoss, VSLoss and their kin'
            )
        if self.begin >= runner.max_epochs:
            raise ValueError(
                f'DeferredReweightingHook begins with epoch {self.begin}, but training ends with '
                f'{runner.max_epochs}: set begin, such as {4 * runner.max_epochs // 5}'
            )
        if runner.epoch >= self.begin:
            own = effective_number_weights(loss.class_prior, self.beta, zero_count='ignore')
            loss.class_weight.copy_(own)


@HOOKS.register_module()
class CausalMomentumHook(Hook):
    r"""Lets the mean that TDE follows be of more images as the learning rate falls, as released.

    :math:`\mu = 1 - 0.1 \min(50\, lr, 1)`, of the largest learning rate; it is not in the paper.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Set μ of each :class:`CausalLinear`."""
        largest = max(max(own) for own in runner.optim_wrapper.get_lr().values())
        for module in model_of(runner).modules():
            if isinstance(module, CausalLinear):
                module.momentum = 1 - 0.1 * min(50 * largest, 1)


@HOOKS.register_module()
class ClassDifficultyHook(StatefulHook):
    """After each validation, weighs or samples the classes by how badly they fare.

    The validation images must not be those of the test: they decide. Source: Sinha et al., ACCV
    2020 (the loss) and IJCV 2022 (the sampler), see :func:`difficulty_weights`. The accuracies are
    in the checkpoint; set ``train_cfg.val_interval=1``.

    Args:
        target: ``'loss'``, which has ``set_accuracy`` (``CDBLoss``), or ``'sampler'``, a
            ``LearnedClassSampler``. Default: ``'loss'``.
        tau: τ of the sampler's rates, or ``'dynamic'``. Default: ``'dynamic'``.
        least: What a difficulty of the sampler is at least. Default: 0.
    """

    state = 'class_difficulty'
    weighed: type = CDBLoss

    def __init__(
        self, target: str = 'loss', tau: Union[float, str] = DYNAMIC, least: float = 0.0
    ) -> None:
        if target not in TARGETS:
            raise ValueError(f'target must be one of {", ".join(TARGETS)}, got {target!r}')
        self.target, self.tau, self.least = target, checked_tau(tau), least
        self.accuracy: Optional[Tensor] = None
        self._trains = False

    def before_train(self, runner: Runner) -> None:
        """Take up what a training that is resumed had."""
        self._check(runner)
        if runner.val_loop is None:
            raise ValueError(
                f'{type(self).__name__} needs validation images: set val_dataloader, val_evaluator '
                'and val_cfg, of images that are not those of the test'
            )
        self._is_behind, state = False, self._resumed(runner)
        if state is not None:
            self._load(runner, state)
            # A checkpoint is written before the validation of its epoch, or iteration.
            self._is_behind = _validates(runner.train_loop)
        self._trains = True

    def before_train_epoch(self, runner: Runner) -> None:
        """Validate again where a training that is resumed has not."""
        if self._is_behind:
            self._is_behind = False
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to count."""
        self._counts = torch.zeros(2, head_of(runner).num_classes)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[Sequence[DataSample]] = None,
    ) -> None:
        """Count the images of each class, and those that are right."""
        for sample in outputs:
            label = int(sample.gt_label)
            self._counts[0, label] += int(sample.pred_score.argmax()) == label
            self._counts[1, label] += 1

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        """Weigh or sample the classes anew, if it is training that validates.

        Raises:
            ValueError: If a class has no validation image.
        """
        if not self._trains:  # ``runner.val()``
            return
        right, seen = self._counts
        all_reduce(right)
        all_reduce(seen)
        if not seen.all():
            raise ValueError(
                f'no validation image of class {int((seen == 0).nonzero()[0])}, whose difficulty '
                'is then not known'
            )
        self.accuracy = right / seen
        self._apply(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the accuracies."""
        checkpoint[self.state] = {'accuracy': self.accuracy}

    def _check(self, runner: Runner) -> None:
        if self.target == 'sampler':
            learned_sampler(runner, type(self).__name__)
            return
        loss = head_of(runner).loss_module
        if not isinstance(loss, self.weighed):
            raise TypeError(
                f'{type(self).__name__} has no weights to set in {type(loss).__name__}: set '
                f"model.head.loss=dict(type='{self.weighed.__name__}', class_prior=...)"
            )

    def _load(self, runner: Runner, state: dict[str, Any]) -> None:
        self.accuracy = state['accuracy']
        if self.accuracy is not None:
            self._apply(runner)

    def _apply(self, runner: Runner) -> None:
        if self.target == 'loss':
            head_of(runner).loss_module.set_accuracy(self.accuracy)
            return
        rates = difficulty_weights(self.accuracy.double(), self.tau, self.least)
        learned_sampler(runner, type(self).__name__).set_rates(rates / rates.sum())


@HOOKS.register_module()
class DifficultyNetHook(ClassDifficultyHook):
    """Trains a :class:`DifficultyNet`, and weighs the classes of ``DifficultyNetLoss`` with it.

    Before each iteration, the network learns from :func:`difficulty_meta_loss` of the batch and of
    a batch of the validation images, which are to be balanced and not those of the test; one step
    of Adam. Source: Sinha & Ohashi, WACV 2023, section 3, but that the classifier alone takes the
    inner step. Published figures come from code that differs, see :class:`DifficultyNetLoss`.

    Args:
        hidden: Channels of the network. Default: 128.
        bias: Whether its layers have one. Default: False.
        lr: Of Adam. Default: 1e-5, as for CIFAR.
        weight_decay: Of Adam. Default: 1e-4.
        driver_weight: λ. Default: 0.3.
        inner_lr: Of the inner step. Default: 0.1.
        meta_batch_size: Validation images of a step, of all classes equally often. Default: 128.
        seed: Of what they are. Default: 0.
    """

    state = 'difficulty_net'
    weighed = DifficultyNetLoss

    def __init__(
        self,
        hidden: int = 128,
        bias: bool = False,
        lr: float = 1e-5,
        weight_decay: float = 1e-4,
        driver_weight: float = 0.3,
        inner_lr: float = 0.1,
        meta_batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.meta_batch_size, self.seed = meta_batch_size, seed
        self.hidden, self.bias = hidden, bias
        self.lr, self.weight_decay = lr, weight_decay
        self.driver_weight, self.inner_lr = driver_weight, inner_lr

    def before_train(self, runner: Runner) -> None:
        """Make the network, or take up that of a training that is resumed."""
        head = head_of(runner)
        weight = classifier_of(head).weight
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same in all processes
            self.net = DifficultyNet(head.num_classes, self.hidden, self.bias).to(weight)
        self._optimizer = torch.optim.Adam(
            self.net.parameters(), self.lr, weight_decay=self.weight_decay
        )
        self.accuracy = weight.new_zeros(head.num_classes)
        self._steps = 0
        super().before_train(runner)
        dataset = runner.val_dataloader.dataset
        self._sampler = ClassSampler(dataset, power=0, seed=meta_seed(self.seed))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Learn from the batch, before the model does."""
        model, head = model_of(runner), head_of(runner)
        loss, _ = difficulty_meta_loss(
            self.net,
            self.accuracy,
            classifier_of(head),
            features_of(model, data_batch),
            features_of(model, self._meta_batch(runner)),
            inner_lr=self.inner_lr,
            driver_weight=self.driver_weight,
        )
        self._optimizer.zero_grad()
        loss.backward()
        for parameter in self.net.parameters():
            all_reduce(parameter.grad, op='mean')
        self._optimizer.step()
        self._steps += 1
        runner.message_hub.update_scalar('train/meta_loss', loss.item())
        self._apply(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the network, its optimiser and the accuracies."""
        checkpoint[self.state] = {
            'accuracy': self.accuracy,
            'net': self.net.state_dict(),
            'optimizer': self._optimizer.state_dict(),
            'steps': self._steps,
        }

    def _load(self, runner: Runner, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state['net'])
        self._optimizer.load_state_dict(state['optimizer'])
        self.accuracy = state['accuracy'].to(self.accuracy)
        self._steps = state['steps']
        self._apply(runner)

    @torch.no_grad()
    def _apply(self, runner: Runner) -> None:
        self.accuracy = self.accuracy.to(next(self.net.parameters()))
        head_of(runner).loss_module.set_difficulty(self.net(self.accuracy))

    def _meta_batch(self, runner: Runner) -> dict:
        dataloader = runner.val_dataloader
        return drawn_batch(dataloader, self._sampler, self._steps, self.meta_batch_size)


def _validates(loop: BaseLoop) -> bool:
    """Whether a loop of training validates where it is, as it decides itself."""
    loop._decide_current_val_interval()
    done = loop.iter if isinstance(loop, IterBasedTrainLoop) else loop.epoch
    return done >= loop.val_begin and done % loop.val_interval == 0


def head_of(runner: Runner) -> nn.Module:
    """The head of the model."""
    return model_of(runner).head
