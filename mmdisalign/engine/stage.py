"""What a training stage of a calibrated model may change, and what it must be given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from torch import nn

from ..calibration import AdaptiveCalibration, ClassScale, MarginScores
from .checkpoint import read_state

CALIBRATIONS = (AdaptiveCalibration, ClassScale, MarginScores)
# Parts of MoCoImageClassifier, SelfDistilledClsHead and BreadcrumbClsHead that do not predict.
TRAINED_WITH = re.compile(r'^contrast\.|\bfc_(hard|plain)\.')


class CheckpointError(RuntimeError):
    """A checkpoint does not fit the model; the message says in what."""


@contextmanager
def naming_checkpoint(checkpoint: Optional[str]) -> Iterator[None]:
    """A CheckpointError, which knows no file, gets the name of the checkpoint that is loaded."""
    try:
        yield
    except CheckpointError as error:
        if checkpoint is None:  # what the work_dir has last
            raise
        raise CheckpointError(f'{checkpoint}: {error}') from error


@contextmanager
def as_in_training(*modules: nn.Module) -> Iterator[None]:
    """While the context lasts, modules take the way of training; what is in them stays in eval.

    Many heads return to their losses other outputs than to who predicts.
    """
    before = [module.training for module in modules]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module, training in zip(modules, before):
            module.training = training


def trained_terms(owner: nn.Module, losses: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of a head, or of a model, that have a gradient, and what is logged beside them.

    While all but the calibrations is frozen, these are the losses that they can change.

    Raises:
        RuntimeError: If there is none.
    """
    kept = {key: value for key, value in losses.items() if 'loss' not in key or _can_train(value)}
    if not any('loss' in key for key in kept):
        raise RuntimeError(
            f'no loss of {type(owner).__name__} depends on the calibrated layers: '
            f'{", ".join(losses)}'
        )
    return kept


def _can_train(value: Any) -> bool:
    many = value if isinstance(value, (list, tuple)) else [value]
    return not torch.is_grad_enabled() or any(each.requires_grad for each in many)


class CalibrationStageMixin:
    """Mixed into a model (an ``nn.Module``) that holds calibrations.

    In the stage ``'calibration'``, only those modules train. All else is frozen when the model is
    built, so before DDP looks for parameters to reduce, stays in eval mode through ``train()``,
    and starts from a stage-1 checkpoint, never from initial weights. In the stage ``'joint'``
    everything trains. A library may have more stages, which train other parts alone.

    A checkpoint that does not fit stops the run: mmengine only logs missing, unexpected and
    misshapen keys, and would go on to calibrate a half-loaded model. The only keys that may be
    missing are those of what the stage trains, all of them or none.

    A model calls :meth:`_enter_stage` at the end of its constructor and :meth:`_check_loaded` in
    ``loss``.
    """

    stages: tuple[str, ...] = ('calibration', 'joint')
    stage: str
    # The weight of the classifier, by the end of its key, and how many of its rows are background:
    # the error for a checkpoint of other classes says how many it has.
    classifier_weight: str
    num_background = 0

    def _enter_stage(self, stage: str) -> None:
        if stage not in self.stages:
            raise ValueError(f'stage must be one of {self.stages}, got {stage!r}')
        self.stage = stage
        if next(self._trained(), None) is None:
            raise ValueError(f'{type(self).__name__} has nothing to calibrate')
        self._loaded = False
        self._load_errors: list[str] = []
        self._load_prefix = ''
        self.register_load_state_dict_post_hook(_check_loaded_keys)
        if self.calibrating:
            self.requires_grad_(False)
            for _, module in self._trained():
                module.requires_grad_(True)
        self.train(self.training)

    @property
    def calibrating(self) -> bool:
        """Whether all but the calibration, or what else the stage trains, is frozen."""
        return self.stage != 'joint'

    def train(self, mode: bool = True) -> nn.Module:
        """Set the training mode, of what the stage trains alone."""
        if not getattr(self, 'stage', None) or not self.calibrating:
            return super().train(mode)
        super().train(False)
        for _, module in self._trained():
            module.train(mode)
        return self

    def init_weights(self) -> None:
        """Initialise the weights, unless a stage-1 checkpoint must provide them.

        This spares stage 2 the download of a backbone that is overwritten at once.
        """
        if not self.calibrating:
            super().init_weights()

    def _trained(self) -> Iterator[tuple[str, nn.Module]]:
        """What trains while all else is frozen, and its name."""
        for name, module in self.named_modules():
            if isinstance(module, CALIBRATIONS):
                yield name, module

    def _check_loaded(self) -> None:
        if self.calibrating and not self._loaded:
            raise RuntimeError(
                'calibration starts from a trained model, but no checkpoint was loaded: set '
                "load_from in the config, or stage='joint' to train everything"
            )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, torch.Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # The hook after loading gets neither this list, which alone names misshapen keys, nor the
        # prefix that the keys have below a wrapper.
        self._load_errors, self._load_prefix = error_msgs, prefix
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


def check_calibration(model: nn.Module, checkpoint: str) -> None:
    """Raise ValueError if a checkpoint is of another model, or its calibration would be left out.

    Args:
        model: What the checkpoint is to be loaded into.
        checkpoint: File or address.
    """
    state = read_state(checkpoint)
    # What wraps a model, for DDP or for testing in scales, has it as its module.
    known = {key.removeprefix('module.').removeprefix('module.') for key in model.state_dict()}
    if known.isdisjoint(key.removeprefix('module.') for key in state):
        raise ValueError(
            f'{checkpoint} has no weight that {type(model).__name__} has: it is of another model '
            f'({next(iter(state))})'
        )
    if any(isinstance(module, CALIBRATIONS) for module in model.modules()):
        return
    keys = [key for key in state if '.calibration.' in key]
    if keys:
        raise ValueError(
            f'{checkpoint} is calibrated ({keys[0]}), and the model of the config is not: give the '
            'stage-2 config'
        )


def _check_loaded_keys(model: CalibrationStageMixin, incompatible: Any) -> None:
    """Stop unless the checkpoint fits; called once all modules are loaded."""
    trained = {module for _, module in model._trained()}
    # A module that layers share has a key at each of them.
    names = [n for n, module in model.named_modules(remove_duplicate=False) if module in trained]
    own = {
        f'{model._load_prefix}{name}.{key}'
        for name in names
        for key in model.get_submodule(name).state_dict()
    }
    # Old checkpoints lack num_batches_tracked, which mmengine lets pass as well.
    missing = {key for key in incompatible.missing_keys if not key.endswith('num_batches_tracked')}
    if missing.issuperset(key for key in own if not key.endswith('num_batches_tracked')):
        missing -= own
        # They are expected to be missing, so neither PyTorch nor mmengine shall complain of them.
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in own]
        names = ', '.join(name for name, _ in model._trained())
        print_log(f'No {names} in the checkpoint: it starts anew.', 'current')
    unknown = [key for key in incompatible.unexpected_keys if not TRAINED_WITH.search(key)]
    if len(unknown) < len(incompatible.unexpected_keys):
        print_log('Parts of the checkpoint that do not predict are left out.', 'current')
        incompatible.unexpected_keys[:] = unknown
    problems = [
        *_classes(model),
        *model._load_errors,
        *_listed('missing from the checkpoint', sorted(missing)),
        *_listed('unknown to the model', unknown),
    ]
    model._load_errors = []
    if problems:
        raise CheckpointError(
            f'The checkpoint does not fit {type(model).__name__}: {"; ".join(problems)}\n'
            'Give the stage-2 config the same model as its stage-1 config (backbone, heads, '
            'num_classes), and load_from the checkpoint of that model.'
        )
    model._loaded = True


def _classes(model: CalibrationStageMixin) -> list[str]:
    for message in model._load_errors:
        rows = re.findall(r'torch\.Size\(\[(\d+)', message)
        if f'{model.classifier_weight}:' in message and len(rows) == 2:
            theirs, ours = (int(number) - model.num_background for number in rows)
            return [f'the checkpoint has {theirs} classes, the config {ours}']
    return []


def _listed(what: str, keys: list[str], most: int = 12) -> list[str]:
    if not keys:
        return []
    shown = ', '.join(keys[:most])
    rest = f' and {len(keys) - most} more' if len(keys) > most else ''
    return [f'{what}: {shown}{rest}']
