"""The classification methods in mmpretrain's models: losses, heads, hooks and distillation."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, ValLoop
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from project import write_classifier
from torch import Tensor, nn

from mmdisalign import classification as cls
from mmdisalign.calibration import CausalLinear
from mmdisalign.engine import launch
from mmdisalign.losses import DifficultyNet, difficulty_meta_loss, difficulty_weights
from mmdisalign.onepass import calibrate
from mmdisalign.onepass.plain import fit

C, CHANNELS = 3, 64
COUNTS = [40, 12, 4]
# By their names in mmpretrain, and what they are built with.
LOSSES = {
    'BalancedBCELoss': dict(label_smooth_val=0.1),
    'CDBLoss': {},
    'ClassBalancedLoss': {},
    'DifficultyNetLoss': {},
    'GCLLoss': {},
    'IIFLoss': dict(norm=2),
    'LADELoss': {},
    'LDAMLoss': {},
    'SoftmaxEQLLoss': dict(lambda_=0.1),
    'VSLoss': {},
}
UNSEEN = {name: {**options, 'class_prior': [40, 12, 0]} for name, options in LOSSES.items()}
for _name in ('BalancedBCELoss', 'ClassBalancedLoss', 'GCLLoss', 'LADELoss', 'LDAMLoss', 'VSLoss'):
    UNSEEN[_name]['zero_count'] = 'ignore'
UNSEEN['IIFLoss']['zero_count'] = 'min'


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmpretrain')
    torch.manual_seed(0)


def made(name: str, **options: object) -> nn.Module:
    return MODELS.build(dict(type=name, class_prior=COUNTS, **{**LOSSES[name], **options}))


def batch(number: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, C, generator=generator), torch.tensor([0, 0, 1, 2] * (number // 4))


def value(loss: nn.Module, scores: Tensor, *args: object, **options: object) -> Tensor:
    torch.manual_seed(0)  # of what is random
    return loss(scores, *args, **options)


@pytest.mark.parametrize('name', LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, (scores, label) = made(name).double(), batch()
    scores = scores.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda own: value(loss, own, label), scores)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    scores, label = batch()
    found = [value(made(name), own, label) for own in (scores.to(dtype), scores.to(dtype).float())]
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('name', LOSSES)
def test_what_is_ignored_or_has_no_weight_is_not_there(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for noise in ('rand_like', 'randn_like'):
        monkeypatch.setattr(torch, noise, lambda own: torch.full_like(own, 0.5))
    scores, label = batch()
    kept = torch.tensor([1.0, 0, 1, 1] * 3)
    ignored = label.where(kept > 0, 255)
    part = made(name)(scores[kept > 0], label[kept > 0], avg_factor=5.0)
    if name != 'LADELoss':  # whose regulariser has no weights
        torch.testing.assert_close(made(name)(scores, label, kept, avg_factor=5.0), part)
    torch.testing.assert_close(made(name)(scores, ignored, avg_factor=5.0), part)
    nothing = scores.clone().requires_grad_()
    found = made(name)(nothing, torch.full_like(label, 255))
    found.backward()
    assert found == 0 and not nothing.grad.any()


@pytest.mark.parametrize('name', LOSSES)
def test_a_class_that_was_never_seen_makes_no_nan(name: str) -> None:
    scores, label = batch()
    scores.requires_grad_()
    loss = MODELS.build(dict(type=name, **UNSEEN[name]))
    found = value(loss, scores, label.clamp(max=1))
    found.backward()
    assert found.isfinite() and scores.grad.isfinite().all()


@pytest.mark.parametrize('name', LOSSES)
def test_one_hot_labels_are_indices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for noise in ('rand_like', 'randn_like'):
        monkeypatch.setattr(torch, noise, lambda own: torch.full_like(own, 0.5))
    scores, label = batch()
    shares = nn.functional.one_hot(label, C).float()
    options = dict(label_smooth_val=0.0) if name == 'BalancedBCELoss' else {}
    loss = made(name, **options)
    torch.testing.assert_close(loss(scores, shares), loss(scores, label))
    mixed = 0.7 * shares + 0.3 * shares.roll(1, 0)
    assert loss(scores, mixed).isfinite()


def head(**options: object) -> nn.Module:
    return MODELS.build(dict(num_classes=C, in_channels=8, **options))


def samples(label: Tensor) -> list[DataSample]:
    return [DataSample().set_gt_label(int(own)) for own in label]


BALANCED = dict(type='BalancedSoftmaxLoss', class_prior=COUNTS)
HEADS = {
    'TDEClsHead': dict(alpha=2.0),
    'VMFClsHead': dict(loss=BALANCED),
    'MARCLinearClsHead': {},
    'WhitenedClsHead': dict(num_groups=2),
    'SelfDistilledClsHead': {},
}


@pytest.mark.parametrize('name', HEADS)
def test_a_head_learns_and_its_checkpoint_says_the_same(name: str) -> None:
    own = head(type=name, **copy.deepcopy(HEADS[name]))
    generator = torch.Generator().manual_seed(2)
    _, label = batch()
    # A direction of each class, so that there is something to learn.
    features = torch.randn(12, 8, generator=generator) + 3 * torch.eye(8)[label]
    optimizer, found = torch.optim.Adam(own.parameters(), lr=0.05), []
    for _ in range(30):
        losses = own.loss((features,), samples(label))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append(float(losses['loss']))
    assert found[-1] < 0.7 * found[0]
    other = head(type=name, **copy.deepcopy(HEADS[name])).eval()
    other.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert torch.equal(own.eval()((features,)), other((features,)))


@pytest.mark.parametrize(
    ('name', 'least', 'most'),
    [('CosineClsHead', 1 - 1e-6, 1 + 1e-6), ('TDEClsHead', 0.3, 0.9), ('VMFClsHead', 0.3, 0.9)],
)
def test_a_classifier_on_directions_starts_with_weights_that_have_a_length(
    name: str, least: float, most: float
) -> None:
    own = head(type=name)
    own.init_weights()
    # mmpretrain's linear layers have 0.03 here, with which a step is a thousand times as long.
    lengths = own.fc.weight.norm(dim=1)
    assert least < lengths.min() and lengths.max() < most
    own.fc.reset_parameters()
    assert least < own.fc.weight.norm(dim=1).min()


def test_tde_subtracts_at_test_alone() -> None:
    own, features = head(type='TDEClsHead', alpha=1.0), torch.rand(6, 8)
    trained = own((features,))
    tested = own.eval()((features,))
    assert not torch.allclose(trained, tested)
    own.fc.alpha = 0.0
    torch.testing.assert_close(own((features,)), trained)


def test_a_factor_that_is_not_learned_stays_where_the_classifier_is_trained_anew(
    project: Path,
) -> None:
    model = dict(Config.fromfile('stage1.py').model, type='CalibratedImageClassifier')
    own = dict(type='CosineClsHead', num_classes=C, in_channels=CHANNELS, scale=1.0, learned=False)
    built = MODELS.build({**model, 'head': own, 'stage': 'classifier'})
    trained = {name for name, p in built.named_parameters() if p.requires_grad}
    assert trained == {'head.fc.weight'} and built.head.fc.scale == 1
    model['stage'] = 'classifier'
    learned = MODELS.build({**model, 'head': {**own, 'learned': True}})
    assert set(learned.head.fc.state_dict()) >= {'weight', 'scale'}


def test_a_vmf_classifier_that_is_reset_begins_anew() -> None:
    layer = head(type='VMFClsHead', kappa=9.0).fc
    layer.kappa.data.fill_(99.0)
    layer.shift.fill_(5.0)
    layer.reset_parameters()
    assert (layer.kappa == 9).all() and not layer.shift.any()


@pytest.mark.parametrize('learned', [True, False])
def test_a_cosine_classifier_that_is_reset_begins_with_its_factor(learned: bool) -> None:
    own = head(type='CosineClsHead', scale=9.0, learned=learned)
    assert own.fc.scale == 9
    own.fc.load_state_dict({'weight': torch.ones(C, 8), 'scale': torch.tensor(35.0)})
    runner = SimpleNamespace(iter=0, model=SimpleNamespace(head=own))
    cls.ResetClassifierHook().before_train(runner)
    assert own.fc.scale == 9 and not torch.equal(own.fc.weight, torch.ones(C, 8))
    assert [name for name, _ in own.fc.named_parameters()] == ['weight', 'scale'][: 1 + learned]


def test_a_causal_classifier_that_is_reset_follows_no_earlier_features() -> None:
    own = head(type='TDEClsHead')
    own((torch.rand(6, 8),))
    assert own.fc.direction.any()
    runner = SimpleNamespace(iter=0, model=SimpleNamespace(head=own))
    cls.ResetClassifierHook().before_train(runner)
    assert not own.fc.direction.any()


@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_the_losses_of_overlap_fade(loop: str) -> None:
    hub, own = MessageHub.get_current_instance(), head(type='VMFClsHead', loss=BALANCED)
    features, given = (torch.rand(4, 8),), samples(torch.tensor([0, 1, 2, 0]))
    found = []
    for done in (0, 5):
        epochs = dict(epoch=done, max_epochs=10, iter=0, max_iters=990)
        own_iters = dict(epoch=0, max_epochs=1, iter=done, max_iters=10)
        for key, value_ in (epochs if loop == 'epochs' else own_iters).items():
            hub.update_info(key, value_)
        found.append(float(own.loss(features, given)['loss_overlap']))
    assert found[1] == pytest.approx(0.5**0.9 * found[0])
    for key in ('epoch', 'max_epochs', 'iter', 'max_iters'):
        hub.update_info(key, 0)


def test_vmf_has_losses_of_overlap_where_its_classifier_trains() -> None:
    own, label = head(type='VMFClsHead', loss=BALANCED), torch.tensor([0, 1, 2, 0])
    features = torch.rand(4, 8)
    losses = own.loss((features,), samples(label))
    assert {'loss', 'loss_overlap', 'loss_features'} <= set(losses)
    own.requires_grad_(False)
    assert set(own.loss((features,), samples(label))) == {'loss'}


def test_marc_is_untouched_at_first_and_knows_the_norms_that_it_loads() -> None:
    own, plain = head(type='MARCLinearClsHead'), head(type='LinearClsHead')
    own.load_state_dict(plain.state_dict(), strict=False)
    features = (torch.rand(4, 8),)
    torch.testing.assert_close(own(features), plain(features))
    own.calibration.margin.data.fill_(1.0)
    shift = own(features) - plain(features)
    torch.testing.assert_close(shift[0], plain.fc.weight.norm(dim=1))


def test_disalign_and_post_hoc_methods_see_a_linear_layer_in_a_normalised_head() -> None:
    for name in ('TDEClsHead', 'VMFClsHead'):
        kind = cls.calibrated(getattr(cls, name))
        own = kind(num_classes=C, in_channels=8)
        assert any('calibration' in key for key in own.state_dict())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40, 12 and 4 images of three classes, and what trains on them."""
    write_classifier(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(work_dir: str, epochs: int = 2, **options: object) -> Config:
    # Without flips, so that a training that is resumed has the images that it would have had.
    text = Path('stage1.py').read_text().replace(', flip, ', ', ')
    Path('still.py').write_text(text)
    cfg = Config.fromfile('still.py')
    cfg.merge_from_dict({
        'work_dir': work_dir,
        'train_cfg': dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        'train_dataloader.sampler': dict(type='DefaultSampler', shuffle=True),
        'val_cfg': {},
        'default_hooks': dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        'randomness': dict(seed=0),
        **options,
    })  # fmt: skip
    cfg.val_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.val_evaluator = copy.deepcopy(cfg.test_evaluator)
    return cfg


def train(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_classes_are_weighed_by_what_validation_says_also_when_resumed(project: Path) -> None:
    options = {
        'model.head.loss': dict(type='CDBLoss', class_prior=COUNTS, tau=1.0),
        'custom_hooks': [dict(type='ClassDifficultyHook')],
    }
    runner = train(config('whole', 3, **options))
    saved = torch.load('whole/epoch_2.pth', weights_only=False)['class_difficulty']['accuracy']
    cfg = config('part', 3, **options)
    launch.resume(cfg, 'whole/epoch_2.pth')
    resumed = train(cfg)
    for own in (runner, resumed):
        hook = next(h for h in own.hooks if isinstance(h, cls.ClassDifficultyHook))
        weight = own.model.head.loss_module.class_weight
        torch.testing.assert_close(weight, difficulty_weights(hook.accuracy, 1.0))
    ends = [torch.load(f'{name}/epoch_3.pth', weights_only=False) for name in ('whole', 'part')]
    states = [end['state_dict'] for end in ends]
    assert all(torch.equal(own, states[1][key]) for key, own in states[0].items())
    assert not any('class_weight' in key for key in states[0])
    assert saved.shape == (C,)


@pytest.mark.parametrize(
    ('by_epoch', 'options', 'again'),
    [
        (True, dict(val_interval=1), True),
        (True, dict(val_interval=1, val_begin=3), False),
        (True, dict(val_interval=3), False),
        (True, dict(val_interval=3, dynamic_intervals=[(2, 1)]), True),
        (False, dict(val_interval=2), True),
        (False, dict(val_interval=3), False),
        (False, dict(val_interval=2, val_begin=3), False),
    ],
)
def test_a_resumed_training_validates_again_where_the_loop_would_have(
    project: Path, monkeypatch: pytest.MonkeyPatch, by_epoch: bool, options: dict, again: bool
) -> None:
    ends = {'by_epoch': by_epoch, 'max_epochs' if by_epoch else 'max_iters': 4}
    own = {
        'model.head.loss': dict(type='CDBLoss', class_prior=COUNTS, tau=1.0),
        'custom_hooks': [dict(type='ClassDifficultyHook')],
    }
    cfgs = [config(name, **own) for name in ('whole', 'part')]
    for cfg in cfgs:
        cfg.train_cfg = dict(ends, **options)
        saved = dict(type='CheckpointHook', interval=2, by_epoch=by_epoch)
        cfg.default_hooks = dict(checkpoint=saved)
    train(cfgs[0])
    launch.resume(cfgs[1], f'whole/{"epoch" if by_epoch else "iter"}_2.pth')
    runner = Runner.from_cfg(cfgs[1])
    validated, run = [], ValLoop.run

    def counted(loop: ValLoop) -> dict:
        validated.append(runner.epoch if by_epoch else runner.iter)
        return run(loop)

    monkeypatch.setattr(ValLoop, 'run', counted)
    runner.train()
    assert (2 in validated) is again
    assert validated[-1] == 4


@pytest.mark.parametrize(
    ('hook', 'loss'),
    [('DifficultyNetHook', 'DifficultyNetLoss'), ('ClassDifficultyHook', 'CDBLoss')],
)
def test_a_validation_alone_weighs_no_class_and_builds_no_training(
    project: Path, hook: str, loss: str
) -> None:
    options = {
        'model.head.loss': dict(type=loss, class_prior=COUNTS),
        'custom_hooks': [dict(type=hook)],
        'load_from': 'stage1.pth',
    }
    runner = Runner.from_cfg(config('val', **options))
    assert 'accuracy/top1' in runner.val()
    assert isinstance(runner._train_loop, dict)
    assert torch.equal(runner.model.head.loss_module.class_weight, torch.ones(C))


def test_classes_are_sampled_by_what_validation_says(project: Path) -> None:
    options = {
        'custom_hooks': [dict(type='ClassDifficultyHook', target='sampler', tau=1.0)],
    }
    cfg = config('sampled', **options)
    cfg.train_dataloader.sampler = dict(type='LearnedClassSampler', seed=0)
    runner = train(cfg)
    hook = next(h for h in runner.hooks if isinstance(h, cls.ClassDifficultyHook))
    sampler = runner.train_dataloader.batch_sampler.sampler
    weights = difficulty_weights(hook.accuracy.double(), 1.0)
    np.testing.assert_allclose(sampler.rates, weights / weights.sum(), atol=1e-12)


def test_difficulty_net_learns_and_a_resumed_training_is_an_unbroken_one(project: Path) -> None:
    options = {
        'model.head.loss': dict(type='DifficultyNetLoss', class_prior=COUNTS),
        'custom_hooks': [dict(type='DifficultyNetHook', hidden=8, lr=0.01, meta_batch_size=6)],
        'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, save_best='auto'),
    }
    runner = train(config('whole', 3, **options))
    weight = runner.model.head.loss_module.class_weight
    assert not torch.allclose(weight, torch.ones(C)) and weight.mean() == pytest.approx(1.0)
    cfg = config('part', 3, **options)
    launch.resume(cfg, 'whole/epoch_2.pth')
    train(cfg)
    ends = [torch.load(f'{name}/epoch_3.pth', weights_only=False) for name in ('whole', 'part')]
    for of in ('state_dict', 'difficulty_net'):
        own, other = (end[of].get('net', end[of]) for end in ends)
        assert all(torch.equal(value, other[key]) for key, value in own.items())
    steps = [end['difficulty_net']['steps'] for end in ends]
    assert steps[0] == steps[1] == runner.iter


def test_a_meta_step_moves_nothing_that_the_classifier_remembers() -> None:
    layer, features = CausalLinear(8, C), torch.rand(6, 8)
    batch_ = features, torch.tensor([0, 1, 2, 0, 1, 2])
    net = DifficultyNet(C, 4)
    difficulty_meta_loss(net, torch.rand(C), layer, batch_, batch_, inner_lr=0.1)[0].backward()
    assert not layer.direction.any()


def test_the_momentum_of_tde_follows_the_learning_rate(project: Path) -> None:
    cases = json.loads((Path(__file__).parent / 'tables/classification.json').read_text())
    (case,) = (case for case in cases if case['id'] == 'tde_mu_schedule')
    layer = head(type='TDEClsHead')
    for lr, expected in zip(case['inputs']['lr'], case['expected']['mu']):
        wrapper = SimpleNamespace(get_lr=lambda lr=lr: {'lr': [lr / 2, lr]})
        runner = SimpleNamespace(model=layer, optim_wrapper=wrapper)
        cls.CausalMomentumHook().before_train_epoch(runner)
        assert layer.fc.momentum == pytest.approx(expected)


def test_drw_weighs_the_classes_from_an_epoch_on(project: Path) -> None:
    options = {
        'model.head': dict(type='CosineClsHead', scale=1.0),
        'custom_hooks': [dict(type='DeferredReweightingHook', begin=1)],
    }
    cfg = config('drw', **options)
    cfg.model.head.loss = dict(type='LDAMLoss', class_prior=COUNTS)
    runner = Runner.from_cfg(cfg)
    seen = []
    original = runner.model.head.loss_module.forward

    def forward(*args: object, **kwargs: object) -> Tensor:
        seen.append(runner.model.head.loss_module.class_weight.tolist())
        return original(*args, **kwargs)

    runner.model.head.loss_module.forward = forward
    runner.train()
    assert seen[0] == [1.0] * C and seen[-1][2] > seen[-1][0]


def test_drw_that_never_begins_and_difficulties_without_validation_are_refused(
    project: Path,
) -> None:
    loss = dict(type='VSLoss', class_prior=COUNTS)
    hooks = [dict(type='DeferredReweightingHook', begin=2)]
    with pytest.raises(ValueError, match='begins with epoch 2, but training ends with 2: set begi'):
        train(config('late', **{'model.head.loss': loss, 'custom_hooks': hooks}))
    loss = dict(type='CDBLoss', class_prior=COUNTS)
    hooks = [dict(type='ClassDifficultyHook')]
    cfg = config('blind', **{'model.head.loss': loss, 'custom_hooks': hooks})
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    with pytest.raises(ValueError, match='ClassDifficultyHook needs validation images'):
        train(cfg)
    with pytest.raises(ValueError, match="tau must be 'dynamic' or a number of at least 0, got"):
        made('CDBLoss', tau='dynamik')


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        ('ClassDifficultyHook', 'ClassDifficultyHook has no weights to set in CrossEntropyLoss'),
        ('DifficultyNetHook', 'DifficultyNetHook has no weights to set in CrossEntropyLoss'),
        ('DeferredReweightingHook', 'DeferredReweightingHook has no weights to set in CrossEnt'),
    ],
)
def test_a_hook_says_what_it_needs(project: Path, hook: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        train(config('wrong', custom_hooks=[dict(type=hook)]))


def test_a_student_learns_the_features_of_its_teacher_and_is_a_stock_model(project: Path) -> None:
    teacher = dict(config='stage1.py', checkpoint='stage1.pth')
    cfg = config('student', **{'model.type': 'DistilledImageClassifier'})
    cfg.model.update(teachers=[teacher], factor=20.0)
    runner = Runner.from_cfg(cfg)
    images = torch.rand(6, 3, 32, 32)
    given = samples(torch.tensor([0, 1, 2, 0, 1, 2]))
    first = runner.model.loss(images, given)
    assert {'loss', 'loss_distill'} <= set(first)
    optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.05)
    for _ in range(20):
        losses = runner.model.loss(images, given)
        optimizer.zero_grad()
        losses['loss_distill'].backward()
        optimizer.step()
    assert losses['loss_distill'] < 0.5 * first['loss_distill']
    stock = MODELS.build(Config.fromfile('stage1.py').model)
    stock.load_state_dict(runner.model.state_dict())


def test_the_loss_of_a_student_is_the_papers(project: Path) -> None:
    teacher = dict(config='stage1.py', checkpoint='stage1.pth')
    model = dict(Config.fromfile('stage1.py').model, type='DistilledImageClassifier')
    built = MODELS.build({**model, 'teachers': [teacher]}).eval()
    stock = MODELS.build(Config.fromfile('stage1.py').model).eval()
    stock.load_state_dict(built.state_dict())
    images, given = torch.rand(4, 3, 32, 32), samples(torch.tensor([0, 1, 2, 0]))
    found, plain = built.loss(images, given), stock.loss(images, given)
    torch.testing.assert_close(found['loss'], 0.6 * plain['loss'])
    stock.load_state_dict(torch.load('stage1.pth')['state_dict'])
    features = [own.head.pre_logits(own.extract_feat(images)) for own in (built, stock)]
    cosine = nn.functional.cosine_similarity(*features).mean()
    torch.testing.assert_close(found['loss_distill'], 40 * (1 - cosine))


def test_stage_2_of_a_model_whose_loss_adjusts_scores_takes_the_scores_as_they_are(
    project: Path,
) -> None:
    model = dict(Config.fromfile('stage1.py').model, type='CalibratedImageClassifier')
    for loss in ('LDAMLoss', 'BalancedSoftmaxLoss'):
        own = dict(model['head'], loss=dict(type=loss, class_prior=COUNTS))
        built = MODELS.build({**model, 'head': own, 'class_prior': COUNTS})
        assert type(built.head.loss_module).__name__ == 'GRWCrossEntropyLoss'


ON_COSINES = dict(type='CosineClsHead', scale=1.0, learned=False, num_classes=C)
MULTIPLIED = {
    'cosines': (ON_COSINES, 'fc.scale'),
    'learned': (dict(ON_COSINES, learned=True), 'fc.scale'),
    'linear': (dict(type='LinearClsHead', num_classes=C), 'fc.weight'),
    'lws': (dict(type='LWSLinearClsHead', num_classes=C), 'fc.weight'),
}


def trained_by(name: str, loss: str = 'LDAMLoss') -> dict:
    """The model of stage 1 whose loss multiplies the scores of a head."""
    own = dict(MULTIPLIED[name][0], in_channels=CHANNELS, loss=dict(type=loss, class_prior=COUNTS))
    return dict(Config.fromfile('stage1.py').model, head=own)


@pytest.mark.parametrize('loss', ['LDAMLoss', 'GCLLoss'])
@pytest.mark.parametrize('name', MULTIPLIED)
@pytest.mark.parametrize('stage', ['calibration', 'joint'])
def test_what_a_loss_multiplies_the_scores_of_stage_2_have(
    project: Path, name: str, loss: str, stage: str
) -> None:
    model = trained_by(name, loss)
    stage1, own = MODELS.build(model).eval(), dict(type='CalibratedImageClassifier', stage=stage)
    stage2 = MODELS.build({**model, **own, 'class_prior': COUNTS})
    given = stage1.state_dict()
    before = copy.deepcopy(given)
    if name == 'lws':  # such a head is of stage 2
        given = {key: value for key, value in given.items() if '.calibration.' not in key}
    stage2.load_state_dict(given)
    assert all(torch.equal(value, before[key]) for key, value in given.items())
    images, label = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        scores = stage1(images)
        torch.testing.assert_close(stage2.eval()(images), 30 * scores, rtol=1e-5, atol=1e-4)
        # The loss of stage 2 is of what stage 1 was trained on.
        expected = cls.GRWCrossEntropyLoss(COUNTS, 1.2, normalizer='class_weight')(
            30 * scores, label
        )
        found = stage2.loss(images, samples(label))['loss']
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # Its own checkpoint has them multiplied once, and not at each load.
    with torch.no_grad():
        stage2.head.calibration.load_state_dict(
            {key: value + 0.1 for key, value in stage2.head.calibration.state_dict().items()}
        )
    again = MODELS.build({**model, **own, 'class_prior': COUNTS})
    again.load_state_dict(stage2.state_dict())
    key = f'head.{MULTIPLIED[name][1]}'
    assert torch.equal(again.state_dict()[key], 30 * stage1.state_dict()[key])
    assert torch.equal(again.eval()(images), stage2(images))


def test_a_classifier_that_trains_alone_has_the_factor_in_its_loss(project: Path) -> None:
    model = trained_by('cosines')
    stage1 = MODELS.build(model).eval()
    own = dict(type='CalibratedImageClassifier', stage='classifier', class_prior=COUNTS)
    stage2 = MODELS.build({**model, **own})
    stage2.load_state_dict(stage1.state_dict())
    images, label = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])
    assert torch.equal(stage2.eval()(images), stage1(images))
    expected = cls.GRWCrossEntropyLoss(COUNTS, 1.2, normalizer='class_weight')(
        30 * stage1(images), label
    )
    torch.testing.assert_close(stage2.loss(images, samples(label))['loss'], expected)


def test_a_layer_that_cannot_multiply_its_scores_is_refused(project: Path) -> None:
    model = dict(trained_by('cosines'), type='CalibratedImageClassifier', class_prior=COUNTS)
    loss = model['head']['loss']
    model['head'] = dict(type='TDEClsHead', num_classes=C, in_channels=CHANNELS, loss=loss)
    with pytest.raises(TypeError, match='LDAMLoss multiplies its scores by 30, and its'):
        MODELS.build(model)


def test_one_pass_fits_to_scores_as_the_loss_multiplied_them(project: Path) -> None:
    cfg = config('ldam')
    cfg.model = trained_by('cosines')
    cfg.dump('ldam.py')
    stage1 = MODELS.build(cfg.model).eval()
    torch.save(dict(state_dict=stage1.state_dict()), 'ldam.pth')
    found = calibrate('ldam.py', 'ldam.pth', out='ldam_out.pth', exp_scale=1.0)
    model = found.model
    assert model.head.fc.scale == 30
    data = pseudo_collate(list(DATASETS.build(cfg.train_dataloader.dataset)))
    data = model.data_preprocessor(data, False)
    label = torch.cat([sample.gt_label for sample in data['data_samples']])
    with torch.no_grad():
        feats = stage1.extract_feat(data['inputs'])
        features, scores = stage1.head.pre_logits(feats), 30 * stage1.head(feats)
    by_hand = fit(features, scores, label, COUNTS, 'disalign', 1.0)
    with torch.no_grad():
        expected = by_hand.scores(scores, features)
        torch.testing.assert_close(model(data['inputs']), expected, rtol=0.02, atol=0.05)
    assert (expected.argmax(dim=1) != scores.argmax(dim=1)).any()


def test_labels_that_are_mixed_are_refused_where_they_have_no_meaning() -> None:
    loss = MODELS.build(dict(type='DistributionBalancedLoss', class_prior=COUNTS, num_images=60))
    for label in (torch.full((4, C), 0.3), torch.tensor([0, 1, 2, 0])):
        with pytest.raises(ValueError, match=r'is of labels \(N, C\) of 0 and 1'):
            loss(torch.rand(4, C), label)


def test_a_student_learns_the_scores_of_its_teacher(project: Path) -> None:
    teacher = dict(config='stage1.py', checkpoint='stage1.pth')
    model = dict(Config.fromfile('stage1.py').model, type='DistilledImageClassifier')
    model.update(teachers=[teacher], distill='scores')
    model['head'] = dict(type='SelfDistilledClsHead', num_classes=C, in_channels=CHANNELS)
    built = MODELS.build(model)
    losses = built.loss(torch.rand(4, 3, 32, 32), samples(torch.tensor([0, 1, 2, 0])))
    sum(losses.values()).backward()
    assert built.head.fc.weight.grad.any() and built.head.fc_hard.weight.grad.any()


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(teachers=[]), ValueError, 'features are learned of one teacher, got 0'),
        (dict(distill='maps'), ValueError, "distill must be one of features, scores, got 'maps'"),
        (
            dict(teachers=[dict(config='stage1.py', checkpoint='no.pth')]),
            FileNotFoundError,
            r'the teacher has no no\.pth: train it first',
        ),
    ],
)
def test_a_student_without_a_teacher_is_refused(
    project: Path, options: dict, error: type, message: str
) -> None:
    model = dict(Config.fromfile('stage1.py').model, type='DistilledImageClassifier')
    teachers = [dict(config='stage1.py', checkpoint='stage1.pth')]
    with pytest.raises(error, match=message):
        built = MODELS.build({**model, 'teachers': teachers, **options})
        # Its files are read when it teaches: who tests a student has none.
        assert built(torch.rand(2, 3, 32, 32)) is not None
        built.loss(torch.rand(2, 3, 32, 32), samples(torch.tensor([0, 1])))


def test_several_teachers_need_as_many_features(project: Path) -> None:
    teachers = [dict(config='stage1.py', checkpoint='stage1.pth')] * 2
    model = dict(Config.fromfile('stage1.py').model, type='DistilledImageClassifier')
    images, given = torch.rand(4, 3, 32, 32), samples(torch.tensor([0, 1, 2, 0]))
    built = MODELS.build({**model, 'teachers': teachers})
    with pytest.raises(ValueError, match='the teachers have 128 features, the student 64'):
        built.loss(images, given)
    neck = dict(type='LinearNeck', in_channels=CHANNELS, out_channels=128, norm_cfg=None)
    neck['act_cfg'] = dict(type='ReLU')
    model.update(neck=[model['neck'], neck])
    model['head'] = dict(model['head'], in_channels=128)
    built = MODELS.build({**model, 'teachers': teachers})
    assert built.loss(images, given)['loss_distill'].isfinite()


def test_the_table_of_the_tests_names_its_sources() -> None:
    tables = (Path(__file__).parent / 'tables').glob('*.json')
    for path in tables:
        content = json.loads(path.read_text())
        cases = content if isinstance(content, list) else [content]
        assert all(case['source'] for case in cases)
