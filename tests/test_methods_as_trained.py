"""Methods that are configs of training, too: what is fitted is where that training would end.

Of the head and the sampler that the config makes, the mean of the training loss over what the
sampler draws is taken exactly; its gradient, with the weight decay, has to vanish.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATA_SAMPLERS, MODELS
from mmpretrain.structures import DataSample
from torch import nn

import mmdisalign.classification  # registers what the configs name
from mmdisalign import config_path
from mmdisalign.onepass import fit

COUNTS, FEATURES, DECAY = (80, 30, 12), 5, 5e-3
FLAT = 2e-3  # A fit ends where a step changes the loss by 1e-6.


class Labels:
    """A data set that tells its labels."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def get_gt_labels(self) -> np.ndarray:
        return self.labels


@pytest.fixture(scope='module')
def images() -> tuple[torch.Tensor, np.ndarray, nn.Linear]:
    """Features, labels, and the classifier of stage 1."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNTS)
    features = rng.normal(size=(3, FEATURES))[labels] + rng.normal(size=(len(labels), FEATURES))
    torch.manual_seed(0)
    layer = nn.Linear(FEATURES, 3).requires_grad_(False)
    layer.weight.mul_(2)
    return torch.from_numpy(features.astype(np.float16).astype(np.float32)), labels, layer


def trained_head(entry: Config) -> nn.Module:
    """The head that the config of a method trains over a plain one."""
    init_default_scope('mmpretrain')
    head = dict(type='LinearClsHead', num_classes=3, in_channels=FEATURES)
    head.update(entry.model.get('head', {}))
    loss = dict(entry.get('loss', dict(type='CrossEntropyLoss')), class_prior=list(COUNTS))
    loss.pop('_delete_', None)
    if loss['type'] == 'CrossEntropyLoss':
        del loss['class_prior']
    return MODELS.build({**head, 'loss': loss})


def weights_of(entry: Config, labels: np.ndarray) -> torch.Tensor:
    """How often the config's sampler draws each image, of so many draws as images, (N,)."""
    if 'train_dataloader' not in entry:
        return torch.ones(len(labels))
    options = dict(entry.train_dataloader.sampler, dataset=Labels(labels), seed=0)
    options.pop('_delete_')
    sampler = DATA_SAMPLERS.build(options)
    each = sampler.probabilities[labels] / sampler.counts[labels]
    return torch.from_numpy(each * len(labels)).float()


@pytest.mark.parametrize(
    ('method', 'trained', 'decay'),
    [
        ('lws', ('calibration.scale',), 0.0),
        ('crt', ('fc.weight', 'fc.bias'), DECAY),
        ('balanced-softmax', ('fc.weight', 'fc.bias'), DECAY),
    ],
)
def test_what_is_fitted_is_where_the_training_ends(
    images: tuple[torch.Tensor, np.ndarray, nn.Linear],
    method: str,
    trained: tuple[str, ...],
    decay: float,
) -> None:
    features, labels, layer = images
    value = {'weight decay': decay}.get(mmdisalign.onepass.method_named(method).PARAMETER)
    own = {'weight': layer.weight, 'bias': layer.bias}
    fitted = fit(features, layer(features), labels, COUNTS, method, value, **own)
    entry = Config.fromfile(config_path('_base_/decoupled_cls.py')).decoupled[
        method.replace('-', '_')
    ]
    head = trained_head(entry)
    head.fc.load_state_dict(layer.state_dict())
    before = gradient_of(head, features, labels, entry, trained, decay)
    state = {f'calibration.{key}': v for key, v in fitted.scores.state_dict().items()}
    if method != 'lws':
        state = dict(zip(('fc.weight', 'fc.bias'), fitted.folded(**own)))
    found = head.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and set(trained) <= set(state)
    after = gradient_of(head, features, labels, entry, trained, decay)
    assert after < FLAT < before / 10


def gradient_of(
    head: nn.Module,
    features: torch.Tensor,
    labels: np.ndarray,
    entry: Config,
    trained: tuple[str, ...],
    decay: float,
) -> float:
    """The largest derivative of the mean training loss in what trains."""
    parameters = [head.get_parameter(name) for name in trained]
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    weights = weights_of(entry, labels)
    loss = sum(
        weight * head.loss((x[None],), [sample])['loss']
        for x, sample, weight in zip(features, samples, weights)
    ) / len(labels)
    loss = loss + decay / 2 * sum(p.square().sum() for p in parameters)
    return max(g.abs().max().item() for g in torch.autograd.grad(loss, parameters))
