"""The hook that learns class sampling rates while a classifier trains."""

from __future__ import annotations

from itertools import islice
from typing import Optional

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..calibration.meta_sampler import LabeledFeatures, meta_loss
from .heads import classifier_of
from .hooks import StatefulHook, model_of
from .samplers import ClassSampler, LearnedClassSampler

MOST_LOGGED_CLASSES = 20


@HOOKS.register_module()
class MetaSamplerHook(StatefulHook):
    """Learns the rates of a :class:`LearnedClassSampler` by bi-level optimisation.

    Every ``interval`` iterations, before the model trains on it, the batch is the inner batch of
    :func:`meta_loss`, and a class-balanced batch of the training data is the outer one. One step
    of Adam on the gradient, averaged over all processes, gives new rates. Source: Ren et al.,
    "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, section 3.2.

    For decoupled training, as in the paper: the classifier takes the inner step, the features are
    constants. It needs ``LearnedClassSampler`` as the sampler of the training data and
    ``BalancedSoftmaxLoss``, whose class counts the inner step uses, as the loss of the head.

    The log has the rate of each class, ``rate_0`` and so on, or of more than 20 classes
    ``rate_min``, ``rate_max`` and ``rate_entropy``, and the loss of the outer batch, ``meta_loss``.
    The rates are in the checkpoint, with the state of Adam and the number of steps, which decides
    the random draws of classes, images and noise. Random augmentation of the outer batch, and the
    images that a loader had fetched before a training stopped, are drawn anew.

    Args:
        meta_batch_size: Size M of the class-balanced batch of each process. Default: 128.
        interval: Iterations between two steps; a step costs about as much as an iteration, and its
            images are loaded by the training process itself. Default: 10.
        lr: Learning rate of the logarithms of the rates. Default: 0.01.
        inner_lr: η, learning rate of the inner step. Default: 0.1.
        temperature: Of the Gumbel-softmax. Default: 1.
        seed: Of the class-balanced batches and the Gumbel noise. Default: 0.

    Raises:
        ValueError: If an argument is not positive (``seed`` may be 0).
        TypeError: If training begins with another sampler or loss.
    """

    state = 'meta_sampler'

    def __init__(
        self,
        meta_batch_size: int = 128,
        interval: int = 10,
        lr: float = 0.01,
        inner_lr: float = 0.1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        positive = {
            'meta_batch_size': meta_batch_size,
            'interval': interval,
            'lr': lr,
            'inner_lr': inner_lr,
            'temperature': temperature,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f'{name} must be positive, got {value}')
        self.meta_batch_size = meta_batch_size
        self.interval = interval
        self.lr = lr
        self.inner_lr = inner_lr
        self.temperature = temperature
        self.seed = seed
        self._steps = 0

    def before_train(self, runner: Runner) -> None:
        """Start from balanced classes, or in a resumed training from the rates it had."""
        self._sampler = learned_sampler(runner, type(self).__name__)
        self._log_counts = _log_counts(model_of(runner).head)
        dataset = runner.train_dataloader.dataset
        self._meta_sampler = ClassSampler(dataset, power=0, seed=meta_seed(self.seed))
        self._log_rates = torch.zeros_like(self._log_counts).requires_grad_()
        self._optimizer = torch.optim.Adam([self._log_rates], lr=self.lr)
        state = self._resumed(runner)
        if state is not None:
            self._load(state)
        self._publish(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Learn from the batch, before the model does, where it is its turn."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        loss = self._meta_loss(model_of(runner), data_batch, self._meta_batch(runner))
        (gradient,) = torch.autograd.grad(loss, self._log_rates)
        all_reduce(gradient, op='mean')
        self._log_rates.grad = gradient
        self._optimizer.step()
        self._steps += 1
        runner.message_hub.update_scalar('train/meta_loss', loss.item())
        self._publish(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the rates, the state of their optimiser and the number of steps."""
        checkpoint[self.state] = {
            'log_rates': self._log_rates.detach().cpu(),
            'optimizer': self._optimizer.state_dict(),
            'steps': self._steps,
        }

    def _meta_loss(self, model: nn.Module, inner: dict, outer: dict) -> Tensor:
        features, labels = features_of(model, inner)
        return meta_loss(
            self._log_rates,
            classifier_of(model.head),
            (features, labels),
            features_of(model, outer),
            log_counts=self._log_counts,
            inner_lr=self.inner_lr,
            temperature=self.temperature,
            noise=self._noise(len(labels)).to(self._log_rates),
        )

    def _meta_batch(self, runner: Runner) -> dict:
        dataloader = runner.train_dataloader
        return drawn_batch(dataloader, self._meta_sampler, self._steps, self.meta_batch_size)

    def _noise(self, size: int) -> Tensor:
        # Not [..., 0]: numpy takes missing words for 0, so a sampler of this seed draws by those.
        random = np.random.default_rng([self.seed, self._steps, get_rank() + 1])
        return torch.from_numpy(random.gumbel(size=(size, size)))

    def _load(self, state: dict) -> None:
        if state['log_rates'].shape != self._log_rates.shape:
            raise ValueError(
                f'the checkpoint has sampling rates of {len(state["log_rates"])} classes, but the '
                f'loss counts {len(self._log_rates)}: resume with the same class_prior'
            )
        with torch.no_grad():
            self._log_rates.copy_(state['log_rates'])
        self._optimizer.load_state_dict(state['optimizer'])
        self._steps = state['steps']

    def _publish(self, runner: Runner) -> None:
        """Hand the rates to the sampler and the log."""
        self._sampler.set_rates(self._log_rates.detach().double().softmax(0))
        for name, value in _summary(self._sampler.rates).items():
            runner.message_hub.update_scalar(f'train/{name}', value)


def learned_sampler(runner: Runner, hook: str) -> LearnedClassSampler:
    """The sampler of the training data; TypeError, in the name of a hook, if it learns no rates."""
    # A data loader with a batch sampler from the config has no other link to its sampler.
    sampler = runner.train_dataloader.batch_sampler.sampler
    if not isinstance(sampler, LearnedClassSampler):
        raise TypeError(
            f'{hook} has no rates to learn for {type(sampler).__name__}: set '
            "train_dataloader.sampler=dict(type='LearnedClassSampler')"
        )
    return sampler


def _log_counts(head: nn.Module) -> Tensor:
    loss = head.loss_module
    log_counts = getattr(loss, 'log_counts', None)
    if log_counts is None:
        raise TypeError(
            f'MetaSamplerHook needs the class counts of Balanced Softmax, but {type(loss).__name__}'
            " has no log_counts: set model.head.loss=dict(type='BalancedSoftmaxLoss', "
            'class_prior=...)'
        )
    return log_counts


def drawn_batch(dataloader: DataLoader, sampler: ClassSampler, step: int, number: int) -> dict:
    """So many images of a loader's data, that a sampler draws in a step."""
    # Each step is an epoch of its own, so that a resumed training draws on where it stopped.
    sampler.set_epoch(step)
    indices = islice(sampler.draws(), number)
    return dataloader.collate_fn([dataloader.dataset[index] for index in indices])


def features_of(model: nn.Module, batch: dict) -> LabeledFeatures:
    """Features (N, F) that the classifier sees, as constants, and labels (N,)."""
    # Not as in training, which could mix images and their labels.
    data = model.data_preprocessor(batch, training=False)
    model.eval()  # neither dropout nor an update of batch statistics
    with torch.no_grad():
        features = model.head.pre_logits(model.extract_feat(data['inputs']))
    model.train()  # not as model.training was: it is False in a stage that freezes all but a part
    return features, torch.cat([sample.gt_label for sample in data['data_samples']])


def meta_seed(seed: int) -> int:
    """A seed whose draws have nothing in common with those of a sampler that has this one."""
    return int(np.random.default_rng(seed).integers(2**32))


def _summary(rates: np.ndarray) -> dict[str, float]:
    """What the log says of the rates (C,)."""
    if len(rates) <= MOST_LOGGED_CLASSES:
        return {f'rate_{c}': float(rate) for c, rate in enumerate(rates)}
    seen = rates[rates > 0]
    return {
        'rate_min': float(seen.min()),
        'rate_max': float(seen.max()),
        'rate_entropy': float(-(seen * np.log(seen)).sum()),
    }
