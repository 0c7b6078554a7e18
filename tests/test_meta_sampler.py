"""The Meta Sampler: the gradient of its rates, and the hook that learns them in a training."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

import mmdisalign.classification  # noqa: F401
from mmdisalign.calibration import CosineLinear
from mmdisalign.calibration.meta_sampler import gumbel_selection, inner_step, meta_loss
from mmdisalign.classification import meta_sampler
from mmdisalign.classification.meta_sampler import MetaSamplerHook

# --- the maths ---


def problem(counts=(80.0, 15.0, 5.0), seed: int = 0) -> dict:
    """Arguments of meta_loss for three classes of which the batch lacks none."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return dict(
        inner=(normal(6, 4), torch.tensor([0, 0, 0, 1, 1, 2])),
        outer=(normal(5, 4), torch.tensor([0, 1, 2, 2, 1])),
        log_counts=torch.tensor(counts, dtype=torch.float64).log(),
        inner_lr=0.7,
        temperature=0.8,
        noise=torch.from_numpy(np.random.default_rng(seed).gumbel(size=(7, 6))),
    )


def classifiers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Linear(4, 3).double(),
        CosineLinear(4, 3, scale=4.0).double(),
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
    ]


def rates_gradient(log_rates: Tensor, classifier: nn.Module, **problem) -> Tensor:
    log_rates = log_rates.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(meta_loss(log_rates, classifier, **problem), log_rates)
    return gradient


def test_worked_example_of_the_selection() -> None:
    # Rates 1:3, two images of class 0 and one of class 1: shares 1/8, 1/8 and 6/8. Noise log(6) on
    # the first image makes 6/8, 1/8 and 6/8 of it, in sum 13/8; at temperature 1/2, squares.
    log_rates, labels = torch.tensor([1.0, 3.0]).log(), torch.tensor([0, 0, 1])
    noise = torch.tensor([[0.0, 0.0, 0.0], [math.log(6), 0.0, 0.0]])
    selection = gumbel_selection(log_rates, labels, temperature=1.0, noise=noise)
    expected = torch.tensor([[1 / 8, 1 / 8, 6 / 8], [6 / 13, 1 / 13, 6 / 13]])
    torch.testing.assert_close(selection, expected)
    squared = gumbel_selection(log_rates, labels, temperature=0.5, noise=noise)
    torch.testing.assert_close(
        squared, torch.tensor([[1.0, 1, 36], [36, 1, 36]]) / torch.tensor([[38.0], [73.0]])
    )


def test_cold_selections_pick_classes_by_their_rates() -> None:
    # The Gumbel-max trick: near temperature 0, the selected class has the rates' distribution,
    # whatever the numbers of the classes in the batch.
    labels = torch.tensor([0] * 30 + [1] * 5 + [2])
    noise = torch.from_numpy(np.random.default_rng(0).gumbel(size=(20_000, len(labels))))
    log_rates = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    selection = gumbel_selection(log_rates, labels, temperature=0.01, noise=noise)
    torch.testing.assert_close(selection.sum(1), torch.ones(20_000, dtype=torch.float64))
    shares = torch.stack([selection[:, labels == c].sum(1).mean() for c in range(3)])
    torch.testing.assert_close(shares, log_rates.exp(), atol=0.01, rtol=0)


def test_worked_example_of_the_inner_step() -> None:
    # One feature of 1, zero weights, counts 3:1: Balanced Softmax gives (3/4, 1/4). The gradient of
    # an image of class 0 is (-1/4, 1/4), of class 1 (3/4, -3/4); weighted by 1/8 and 7/8, their sum
    # is (5/8, -5/8), and a step of 0.8 goes to (-1/2, 1/2).
    classifier = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(classifier.weight)
    batch = torch.ones(2, 1), torch.tensor([0, 1])
    parameters = inner_step(
        classifier,
        batch,
        torch.tensor([1 / 8, 7 / 8]),
        log_counts=torch.tensor([3.0, 1.0]).log(),
        inner_lr=0.8,
    )
    torch.testing.assert_close(parameters['weight'], torch.tensor([[-0.5], [0.5]]))
    assert not classifier.weight.any()
    assert classifier.weight.grad is None


def test_worked_example_of_the_loss_and_its_gradient() -> None:
    # As above, with rates 1:7 and no noise: the scores of a balanced batch of ones are (-1/2, 1/2),
    # so its loss is the mean of log(1 + e) and log(1 + 1/e). Let r be the rate of class 1: the
    # scores are ±(3r/4 - (1-r)/4)·0.8 = ±(0.8 r - 0.2); the loss is log(2 cosh(0.8 r - 0.2)), since
    # the two images' scores cancel; its derivative is 0.8 tanh(0.8 r - 0.2) dr, and
    # dr/dψ = (-r(1-r), r(1-r)).
    classifier = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(classifier.weight)
    log_rates = torch.tensor([1.0, 7.0]).log().requires_grad_()
    batch = torch.ones(2, 1), torch.tensor([0, 1])
    loss = meta_loss(
        log_rates,
        classifier,
        batch,
        batch,
        log_counts=torch.tensor([3.0, 1.0]).log(),
        inner_lr=0.8,
        temperature=1.0,
        noise=torch.zeros(2, 2),
    )
    assert math.isclose(
        loss.item(), (math.log(1 + math.e) + math.log(1 + 1 / math.e)) / 2, rel_tol=1e-6
    )
    (gradient,) = torch.autograd.grad(loss, log_rates)
    slope = 0.8 * math.tanh(0.5) * (7 / 8) * (1 / 8)
    torch.testing.assert_close(gradient, torch.tensor([-slope, slope]))


def reference_loss(
    log_rates, weight, bias, *, inner, outer, log_counts, inner_lr, temperature, noise
) -> float:
    """The loss of a linear classifier in plain numpy, with the gradient of softmax by hand."""

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    (x, y), (meta_x, meta_y) = inner, outer
    share = np.array([np.exp(log_rates[c]) / (y == c).sum() for c in y])
    picks = softmax((np.log(share) + noise) / temperature).mean(0)
    error = softmax(x @ weight.T + bias + log_counts) - np.eye(len(log_rates))[y]
    error *= picks[:, None]
    scores = meta_x @ (weight - inner_lr * error.T @ x).T + bias - inner_lr * error.sum(0)
    return float(-np.log(softmax(scores)[np.arange(len(meta_y)), meta_y]).mean())


def test_loss_against_numpy() -> None:
    classifier, arguments = classifiers()[0], problem()
    log_rates = torch.tensor([0.2, -0.5, 1.0], dtype=torch.float64)
    arrays = {
        key: tuple(part.numpy() for part in value) if isinstance(value, tuple) else value
        for key, value in arguments.items()
    }
    arrays['noise'], arrays['log_counts'] = (arrays[k].numpy() for k in ('noise', 'log_counts'))
    weight, bias = (parameter.detach().numpy() for parameter in classifier.parameters())
    expected = reference_loss(log_rates.numpy(), weight, bias, **arrays)
    loss = meta_loss(log_rates, classifier, **arguments).item()
    assert math.isclose(loss, expected, rel_tol=1e-12)


@pytest.mark.parametrize('classifier', classifiers(), ids=['linear', 'cosine', 'two layers'])
@pytest.mark.parametrize('counts', [(80.0, 15.0, 5.0), (3.0, 1.0, 1e-300)])
def test_gradient_of_the_rates_against_finite_differences(classifier, counts) -> None:
    arguments = problem(counts)
    log_rates = torch.tensor([0.2, -0.5, 1.0], dtype=torch.float64)
    step, differences = 1e-5, []
    for c in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[c] = step
        up, down = (meta_loss(log_rates + s, classifier, **arguments) for s in (shift, -shift))
        differences.append((up - down).item() / (2 * step))
    gradient = rates_gradient(log_rates, classifier, **arguments)
    assert gradient.abs().min() > 1e-5
    torch.testing.assert_close(
        gradient, torch.tensor(differences, dtype=torch.float64), rtol=1e-6, atol=1e-9
    )
    assert torch.autograd.gradcheck(
        lambda psi: meta_loss(psi, classifier, **arguments), log_rates.requires_grad_()
    )


def test_a_class_that_was_never_seen_has_no_part() -> None:
    arguments = problem((80.0, 15.0, 5.0))
    arguments['inner'] = (arguments['inner'][0], torch.tensor([0, 0, 0, 1, 1, 1]))
    arguments['log_counts'][2] = -math.inf
    gradient = rates_gradient(torch.zeros(3).double(), classifiers()[0], **arguments)
    assert gradient.isfinite().all()
    assert gradient[2] == 0 < gradient[0].abs()


def test_gradient_vanishes_without_an_inner_step_and_along_the_sum() -> None:
    log_rates = torch.tensor([0.2, -0.5, 1.0], dtype=torch.float64)
    for classifier in classifiers():
        still = {**problem(), 'inner_lr': 0.0}
        assert not rates_gradient(log_rates, classifier, **still).any()
        # Rates are relative: to raise all logarithms by the same changes nothing.
        gradient = rates_gradient(log_rates, classifier, **problem())
        assert abs(gradient.sum()) < 1e-12 < gradient.abs().max()


def test_neither_the_classifier_nor_its_gradients_are_touched() -> None:
    for classifier in classifiers():
        before = copy.deepcopy(classifier.state_dict())
        for parameter in classifier.parameters():  # frozen or not, the step is the same
            parameter.requires_grad_(False)
        log_rates = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        meta_loss(log_rates, classifier, **problem()).backward()
        assert log_rates.grad.any()
        assert all(parameter.grad is None for parameter in classifier.parameters())
        assert all(
            torch.equal(before[key], value) for key, value in classifier.state_dict().items()
        )


def learned_rates(log_counts: Tensor, steps: int = 60) -> Tensor:
    """Rates of three classes that a zero classifier sees in equal numbers, one feature each."""
    classifier = nn.Linear(3, 3, bias=False)
    nn.init.zeros_(classifier.weight)
    labels = torch.arange(3).repeat(8)
    batch = F.one_hot(labels).float(), labels
    log_rates = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([log_rates], lr=0.05)
    random = np.random.default_rng(0)
    for _ in range(steps):
        noise = torch.from_numpy(random.gumbel(size=(24, 24))).float()
        options = dict(log_counts=log_counts, inner_lr=1.0, temperature=1.0, noise=noise)
        (log_rates.grad,) = torch.autograd.grad(
            meta_loss(log_rates, classifier, batch, batch, **options), log_rates
        )
        optimizer.step()
    return log_rates.detach().softmax(0)


def test_rates_move_to_underrepresented_classes() -> None:
    # Balanced Softmax asks most of the weights where a class is rare, so that images of it take the
    # largest step towards balanced scores; between classes of equal counts there is no preference.
    head, body, tail = learned_rates(torch.tensor([90.0, 9.0, 1.0]).log())
    assert head < 0.1 < 1 / 3 < body < tail
    torch.testing.assert_close(
        learned_rates(torch.zeros(3)), torch.full((3,), 1 / 3), atol=0.05, rtol=0
    )


def test_rates_move_to_a_class_that_the_classifier_neglects() -> None:
    # The weights already know class 0 and 1; a step on images of class 2 gains the most.
    classifier = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.diag(torch.tensor([4.0, 4.0, 0.0])))
    labels = torch.arange(3).repeat(8)
    batch = F.one_hot(labels).float(), labels
    options = dict(log_counts=torch.zeros(3), inner_lr=0.5, temperature=1.0)
    options['noise'] = torch.zeros(24, 24)
    gradient = rates_gradient(torch.zeros(3), classifier, inner=batch, outer=batch, **options)
    assert gradient[2] < 0 < min(gradient[0], gradient[1])


# --- the hook ---

COUNTS = [24, 12, 4]


class Points:
    """Random points around the corner of their class, as images of one pixel."""

    def __init__(self, counts=COUNTS) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)
        generator = torch.Generator().manual_seed(0)
        self.points = torch.randn(len(self), 3, 1, 1, generator=generator)
        self.points[torch.arange(len(self)), torch.tensor(self.labels % 3)] += 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        sample = DataSample().set_gt_label(int(self.labels[index]))
        return dict(inputs=self.points[index], data_samples=sample)

    def get_gt_labels(self) -> np.ndarray:
        return self.labels


class PointBackbone(nn.Sequential):
    """Normalises; its statistics show who has run it in training mode."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 4))

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (super().forward(inputs),)


class Watch(Hook):
    """Keeps the rates of each iteration, and whether the classifier trains."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.rates, self.training = [], []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.rates.append(runner.train_dataloader.sampler.rates.tolist())
        self.training.append(runner.model.head.fc.training)


def build_model(counts=COUNTS, loss=None, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    loss = loss or dict(type='BalancedSoftmaxLoss', class_prior=counts)
    head = dict(type='LinearClsHead', num_classes=len(counts), in_channels=4, loss=loss)
    cfg = dict(type='ImageClassifier', backbone=dict(type=PointBackbone), head=head)
    return MODELS.build({**cfg, **kwargs})


def build_runner(
    work_dir: Path, epochs: int = 2, *, model=None, counts=COUNTS, sampler=None, hook=None, **kwargs
) -> Runner:
    """A runner whose epoch has 10 iterations, of which every second one is the hook's."""
    hook = dict(type='MetaSamplerHook', interval=2, meta_batch_size=9, lr=0.05, **(hook or {}))
    return Runner(
        model=model or build_model(counts),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Points(counts),
            sampler=sampler or dict(type='LearnedClassSampler'),
            batch_size=len(Points(counts)) // 10,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        custom_hooks=[hook, Watch()],
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}',
        **kwargs,
    )


@pytest.fixture(autouse=True)
def scope(no_default_scope) -> None:
    init_default_scope('mmpretrain')


def the_hook(runner: Runner, kind: type = MetaSamplerHook):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def train(runner: Runner) -> list[list[float]]:
    """Train; returns the rates of each iteration."""
    runner.train()
    return the_hook(runner, Watch).rates


def test_rates_are_learned_logged_and_in_the_checkpoint(tmp_path) -> None:
    runner = build_runner(tmp_path / 'run')
    rates = train(runner)
    # The hook's turns are the 2nd, 4th, ... iteration; the others keep the rates.
    assert rates[0] == pytest.approx([1 / 3] * 3)
    changed = [before != after for before, after in zip(rates, rates[1:])]
    assert changed == [index % 2 == 0 for index in range(19)]
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)['meta_sampler']
    assert saved['steps'] == 10
    np.testing.assert_allclose(saved['log_rates'].double().softmax(0), rates[-1], rtol=1e-9)
    for c in range(3):
        history, _ = runner.message_hub.get_scalar(f'train/rate_{c}').data
        assert len(history) == 11
        assert history[-1] == rates[-1][c]
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert f'rate_0: {rates[-1][0]:.4f}' in log
    assert 'meta_loss: ' in log


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    whole = build_runner(tmp_path / 'whole', epochs=4)
    expected = train(whole)
    train(build_runner(tmp_path / 'part', epochs=2))
    rest = build_runner(
        tmp_path / 'rest', epochs=4, load_from=str(tmp_path / 'part/epoch_2.pth'), resume=True
    )
    assert train(rest) == expected[20:]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(rest.model.state_dict()[key], value)


def test_load_from_starts_anew(tmp_path) -> None:
    first = train(build_runner(tmp_path / 'run', epochs=1))
    checkpoint = str(tmp_path / 'run/epoch_1.pth')
    again = train(build_runner(tmp_path / 'again', epochs=1, load_from=checkpoint))
    assert first[-1] != again[0] == first[0]


def test_a_resumed_training_of_other_classes_is_refused(tmp_path) -> None:
    train(build_runner(tmp_path / 'run', epochs=1))
    checkpoint = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)
    checkpoint['meta_sampler']['log_rates'] = torch.zeros(7)
    torch.save(checkpoint, tmp_path / 'other.pth')
    runner = build_runner(tmp_path / 'again', load_from=str(tmp_path / 'other.pth'), resume=True)
    with pytest.raises(ValueError, match='rates of 7 classes, but the loss counts 3'):
        runner.train()


def test_decoupled_stage_2_trains_its_classifier_from_a_stage_1_checkpoint(tmp_path) -> None:
    stage1 = build_model(loss=dict(type='CrossEntropyLoss'))
    torch.save(dict(state_dict=stage1.state_dict()), tmp_path / 'stage1.pth')
    model = build_model(type='CalibratedImageClassifier', stage='classifier')
    runner = build_runner(tmp_path / 'run', model=model, load_from=str(tmp_path / 'stage1.pth'))
    rates = train(runner)
    assert rates[0] != rates[-1]
    # The hook looks at features in eval mode, and leaves the model as it found it.
    assert all(the_hook(runner, Watch).training)
    for key, value in stage1.state_dict().items():
        assert torch.equal(model.state_dict()[key], value) is not key.startswith('head.fc.'), key


def test_the_hook_leaves_batch_statistics_alone(tmp_path) -> None:
    runner = build_runner(tmp_path / 'run', epochs=1)
    train(runner)
    assert runner.model.backbone[1].num_batches_tracked == 10
    assert runner.model.backbone[1].training


def test_what_the_hook_learns_from(tmp_path, monkeypatch) -> None:
    calls = []

    def spy(log_rates, classifier, inner, outer, **options):
        calls.append((classifier, inner, outer, options))
        return meta_loss(log_rates, classifier, inner, outer, **options)

    monkeypatch.setattr(meta_sampler, 'meta_loss', spy)
    runner = build_runner(
        tmp_path / 'run',
        epochs=8,
        hook=dict(inner_lr=0.3, temperature=0.7),
        default_hooks=dict(checkpoint=None),
    )
    train(runner)
    assert len(calls) == 40
    for classifier, (features, labels), (meta_features, meta_labels), options in calls:
        assert classifier is runner.model.head.fc
        assert (features.shape, labels.shape) == ((4, 4), (4,))
        assert (meta_features.shape, meta_labels.shape) == ((9, 4), (9,))
        assert not features.requires_grad
        assert options['noise'].shape == (4, 4)
        assert (options['inner_lr'], options['temperature']) == (0.3, 0.7)
        torch.testing.assert_close(options['log_counts'], torch.tensor(COUNTS).log())
    # The meta batches are balanced, and each has draws and noise of its own.
    drawn = torch.cat([outer[1] for _, _, outer, _ in calls])
    np.testing.assert_allclose(torch.bincount(drawn) / len(drawn), 1 / 3, atol=0.08)
    assert len({tuple(options['noise'].flatten().tolist()) for *_, options in calls}) == 40


def test_the_gradient_is_averaged_over_the_processes(tmp_path, monkeypatch) -> None:
    def average(gradient: Tensor, op: str) -> None:
        assert op == 'mean'
        gradient.copy_(torch.tensor([0.5, -0.1, 0.0]))

    monkeypatch.setattr(meta_sampler, 'all_reduce', average)
    rates = train(build_runner(tmp_path / 'run', epochs=1))
    # The first step of Adam is the learning rate, against the sign of the gradient.
    expected = torch.tensor([-0.05, 0.05, 0.0]).softmax(0)
    np.testing.assert_allclose(rates[1], expected, rtol=1e-5)


def test_processes_have_noise_of_their_own(monkeypatch) -> None:
    hook, noise = MetaSamplerHook(), []
    for rank in range(2):
        monkeypatch.setattr(meta_sampler, 'get_rank', lambda rank=rank: rank)
        noise.append(hook._noise(5))
    assert not torch.isclose(*noise).any()


def test_many_classes_are_logged_in_short(tmp_path) -> None:
    counts = [10] * 21
    runner = build_runner(tmp_path / 'run', epochs=1, counts=counts)
    rates = np.array(train(runner)[-1])
    logged = {
        name: runner.message_hub.get_scalar(f'train/rate_{name}').current()
        for name in ('min', 'max', 'entropy')
    }
    entropy = -sum(rate * math.log(rate) for rate in rates)
    assert logged == pytest.approx(dict(min=rates.min(), max=rates.max(), entropy=entropy))
    assert 'train/rate_0' not in runner.message_hub.log_scalars


def test_another_sampler_or_loss_is_named_with_the_way_out(tmp_path) -> None:
    wrong_sampler = build_runner(tmp_path / 'a', sampler=dict(type='DefaultSampler', shuffle=True))
    with pytest.raises(TypeError, match=r"DefaultSampler: set .*type='LearnedClassSampler'"):
        wrong_sampler.train()
    model = build_model(loss=dict(type='CrossEntropyLoss'))
    with pytest.raises(TypeError, match=r"CrossEntropyLoss has .*type='BalancedSoftmaxLoss'"):
        build_runner(tmp_path / 'b', model=model).train()


@pytest.mark.parametrize('name', ['meta_batch_size', 'interval', 'lr', 'inner_lr', 'temperature'])
def test_bad_arguments_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name} must be positive, got 0'):
        MetaSamplerHook(**{name: 0})
