"""Calibrated image classifiers: what each stage changes, and what it must not."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS, MODELS
from mmpretrain.structures import DataSample

from mmdisalign.calibration import AdaptiveCalibration, ClassScale
from mmdisalign.classification import (
    CalibratedImageClassifier,
    CosineClsHead,
    DisAlignLinearClsHead,
    ResetClassifierHook,
    calibrated,
)
from mmdisalign.classification import heads as calibrated_heads
from mmdisalign.classification.heads import classifier_name, classifier_of

PRIOR = [50, 30, 15, 4, 1]
HEADS = {
    'linear': dict(type='LinearClsHead', in_channels=32),
    'cosine': dict(type='CosineClsHead', in_channels=32),
    'vit': dict(type='VisionTransformerClsHead', in_channels=32),
    'vit with a hidden layer': dict(type='VisionTransformerClsHead', in_channels=32, hidden_dim=6),
}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmpretrain')


def stage1_cfg(head: str = 'linear') -> ConfigDict:
    backbone = dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4)
    return ConfigDict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(HEADS[head], num_classes=5),
    )


def build_pair(head: str = 'linear', **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    stage1 = MODELS.build(stage1_cfg(head))
    with torch.no_grad():
        for parameter in classifier_of(stage1.head).parameters():
            parameter.normal_()
        for key, buffer in stage1.named_buffers():
            if 'running' in key:
                buffer.uniform_(0.5, 1.5)
    options = dict(class_prior=PRIOR, **kwargs)
    stage2 = MODELS.build(ConfigDict(stage1_cfg(head), type='CalibratedImageClassifier', **options))
    stage2.load_state_dict(stage1.state_dict())
    return stage1.eval(), stage2.eval()


def batch() -> dict:
    torch.manual_seed(1)
    return dict(
        inputs=torch.randint(0, 255, (10, 3, 32, 32), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % 5) for i in range(10)],
    )


def train(model: torch.nn.Module, lr: float = 0.5) -> dict:
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=0.1))
    )
    for _ in range(2):
        model.train()
        log = model.train_step(batch(), wrapper)
    return log


@pytest.mark.parametrize('head', HEADS)
def test_untouched_stage_2_is_stage_1_bit_for_bit(head: str) -> None:
    models = build_pair(head)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        stage1, stage2 = (model(images) for model in models)
    assert torch.equal(stage1, stage2)


def test_no_head_that_is_served_is_left_out_of_these_tests() -> None:
    served = {name for name in vars(calibrated_heads) if name.startswith('DisAlign')}
    tested = {cfg['type'] for cfg in HEADS.values()}
    assert served == {f'DisAlign{name}' for name in tested}


@pytest.mark.parametrize('head', HEADS)
def test_stage_2_changes_the_calibration_and_not_one_bit_more(head: str) -> None:
    _, model = build_pair(head)
    before = copy.deepcopy(model.state_dict())
    assert train(model)['loss'] > 0
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {k for k in before if k.startswith('head.calibration.')}
    assert len(changed) == 4


@pytest.mark.parametrize('head', HEADS)
def test_calibrated_scores_follow_the_formula(head: str) -> None:
    stage1, stage2 = build_pair(head)
    with torch.no_grad():
        for parameter in stage2.head.calibration.parameters():
            parameter.normal_()
        features = stage1.extract_feat(torch.randn(3, 3, 32, 32))
        z, out, x = stage1.head(features), stage2.head(features), stage1.head.pre_logits(features)
    own = stage2.head.calibration
    sigma = (x @ own.confidence.weight.T + own.confidence.bias).sigmoid()
    expected = (1 + sigma * own.magnitude) * z + sigma * own.margin
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_what_is_frozen_stays_in_eval_mode_and_out_of_autograd() -> None:
    _, model = build_pair()
    model.train()
    assert {key for key, module in model.named_modules() if module.training} == {
        'head.calibration',
        'head.calibration.confidence',
    }
    graph = []
    for name in ('backbone', 'neck'):
        model.get_submodule(name).register_forward_hook(
            lambda m, args, out: graph.append(out[-1].requires_grad)
        )
    # What the layer makes is calibrated already; what the calibration takes is not.
    model.head.calibration.register_forward_hook(
        lambda m, args, out: graph.extend(each.requires_grad for each in args)
    )
    data = model.data_preprocessor(batch(), True)
    model.loss(**data)
    assert graph == [False] * 4


def test_classifier_stage_trains_the_classifier_alone() -> None:
    _, model = build_pair(stage='classifier')
    assert type(model.head).__name__ == 'LinearClsHead'
    before = copy.deepcopy(model.state_dict())
    train(model)
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {'head.fc.weight', 'head.fc.bias'}


def test_learned_weight_scaling_trains_one_factor_a_class() -> None:
    stage1, _ = build_pair()
    cfg = ConfigDict(stage1_cfg(), type='CalibratedImageClassifier')
    cfg.head.type = 'LWSLinearClsHead'
    model = MODELS.build(cfg)
    model.load_state_dict(stage1.state_dict())
    images = torch.randn(3, 3, 32, 32)
    model.eval()
    assert torch.equal(model(images), stage1(images))
    before = copy.deepcopy(model.state_dict())
    train(model)
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {'head.calibration.scale'}
    model.eval()
    torch.testing.assert_close(model(images), stage1(images) * model.head.calibration.scale)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# PyTorch shares more than 2**15 numbers among threads: those of the third and the last shape.
@pytest.mark.parametrize(
    ('scores', 'channels'),
    [((1, 1), 1), ((7, 5), 3), ((257, 1203), 33), ((3, 2, 1, 1), 257), ((2, 19, 61, 67), 7)],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_untouched_calibration_is_the_identity_however_it_is_computed(
    threads: int, dtype: torch.dtype, scores: tuple[int, ...], channels: int
) -> None:
    torch.manual_seed(0)
    extremes, span = torch.finfo(dtype), (scores[0], channels, *scores[2:])
    z, x = (torch.randn(shape, dtype=dtype) * 100 for shape in (scores, span))
    for tensor in (z, x):
        flat = tensor.view(-1)
        flat[::3], flat[1::5], flat[2::7] = extremes.max, extremes.min, extremes.tiny
    with torch.no_grad():
        out = AdaptiveCalibration(scores[1], channels)(z, x)
    assert torch.get_num_threads() == threads
    assert out.dtype == torch.float32
    assert torch.equal(out, z.float())


def test_class_scale_by_hand() -> None:
    scale = ClassScale(2)
    with torch.no_grad():
        scale.scale.copy_(torch.tensor([2.0, 0.5]))
    assert scale(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 7)).tolist() == [[6, 2]]


def test_a_cosine_classifier_takes_the_features_of_a_linear_one() -> None:
    stage1, _ = build_pair()
    cfg = ConfigDict(stage1_cfg('cosine'), type='CalibratedImageClassifier', stage='classifier')
    model = MODELS.build(cfg)
    own = model.head.fc.weight.clone()
    model.load_state_dict(stage1.state_dict())
    assert torch.equal(model.head.fc.weight, own)
    assert torch.equal(model.backbone.conv1.weight, stage1.backbone.conv1.weight)
    train(model)
    # What was trained is not dropped when it is loaded again.
    again = MODELS.build(cfg)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)


def test_joint_stage_trains_everything() -> None:
    _, model = build_pair(stage='joint')
    before = copy.deepcopy(model.state_dict())
    train(model, lr=1e-3)
    assert not torch.equal(model.backbone.conv1.weight, before['backbone.conv1.weight'])
    assert model.head.calibration.margin.any()


def test_loss_is_that_of_the_prior_over_the_sum_of_weights() -> None:
    _, model = build_pair(exp_scale=0.7)
    data = model.data_preprocessor(batch(), True)
    z = model.head(model.extract_feat(data['inputs']))
    weight = torch.tensor([1 / c**0.7 for c in PRIOR])
    expected = torch.nn.functional.cross_entropy(z, torch.arange(10) % 5, weight)
    torch.testing.assert_close(model.loss(**data)['loss'], expected)


@pytest.mark.parametrize('kind', ['CrossEntropyLoss', 'LabelSmoothLoss'])
def test_softmax_losses_become_grw(kind: str) -> None:
    cfg = ConfigDict(stage1_cfg(), type='CalibratedImageClassifier', class_prior=PRIOR)
    cfg.head.loss = dict(type=kind, loss_weight=2.0)
    if kind == 'LabelSmoothLoss':
        cfg.head.loss.update(label_smooth_val=0.1, num_classes=5)
    loss = MODELS.build(cfg).head.loss_module
    assert (type(loss).__name__, loss.loss_weight) == ('GRWCrossEntropyLoss', 2.0)


@pytest.mark.parametrize('place', ['train_cfg', 'data_preprocessor'])
def test_mixup_is_left_out_where_labels_must_be_classes(place: str) -> None:
    cfg, mixup = stage1_cfg(), dict(augments=dict(type='Mixup', alpha=0.8))
    if place == 'train_cfg':
        cfg.train_cfg = mixup
        cfg.data_preprocessor = dict(num_classes=5)
    else:
        cfg.data_preprocessor = dict(num_classes=5, batch_augments=mixup)
    cfg.update(type='CalibratedImageClassifier', class_prior=PRIOR)
    # mmpretrain writes into the config that it builds from.
    assert MODELS.build(copy.deepcopy(cfg)).data_preprocessor.batch_augments is None
    assert MODELS.build(ConfigDict(cfg, stage='joint')).data_preprocessor.batch_augments


def test_bad_arguments_are_named() -> None:
    cfg = ConfigDict(stage1_cfg(), type='CalibratedImageClassifier')
    with pytest.raises(ValueError, match='needs class frequencies'):
        MODELS.build(cfg)
    with pytest.raises(ValueError, match='has 3 classes, but the head has num_classes=5'):
        MODELS.build(ConfigDict(cfg, class_prior=[3, 2, 1]))
    with pytest.raises(ValueError, match=r"one of .*'classifier'.*got 'crt'"):
        MODELS.build(ConfigDict(cfg, class_prior=PRIOR, stage='crt'))
    seesaw = ConfigDict(copy.deepcopy(cfg), class_prior=PRIOR)
    seesaw.head.loss = dict(type='SeesawLoss', num_classes=5)
    with pytest.raises(ValueError, match='but the loss is SeesawLoss'):
        MODELS.build(seesaw)
    with pytest.raises(TypeError, match='ContrastiveHead cannot be calibrated'):
        calibrated(MODELS.get('ContrastiveHead'))
    with pytest.raises(TypeError, match="ClsHead has no linear classifier 'fc'"):
        classifier_name(MODELS.build(dict(type='ClsHead')))


def test_a_checkpoint_of_other_classes_is_refused() -> None:
    stage1, model = build_pair()
    state = stage1.state_dict()
    state['head.fc.weight'], state['head.fc.bias'] = torch.zeros(1000, 32), torch.zeros(1000)
    with pytest.raises(RuntimeError, match='the checkpoint has 1000 classes, the config 5'):
        model.load_state_dict(state)


def test_training_without_a_checkpoint_stops() -> None:
    cfg = ConfigDict(stage1_cfg(), type='CalibratedImageClassifier', class_prior=PRIOR)
    with pytest.raises(RuntimeError, match='load_from'):
        train(MODELS.build(cfg))


def test_heads_are_registered_under_their_names() -> None:
    assert calibrated(MODELS.get('LinearClsHead')) is DisAlignLinearClsHead
    for name in ('LinearClsHead', 'CosineClsHead', 'VisionTransformerClsHead'):
        assert MODELS.get(f'DisAlign{name}') is calibrated(MODELS.get(name))
    assert MODELS.get('CosineClsHead') is CosineClsHead
    assert MODELS.get('CalibratedImageClassifier') is CalibratedImageClassifier


class StubRunner:
    """What the hook needs of a Runner."""

    def __init__(self, model: torch.nn.Module, iteration: int) -> None:
        self.model, self.iter = model, iteration


@pytest.mark.parametrize(('iteration', 'reset'), [(0, True), (7, False)])
def test_the_classifier_starts_anew_unless_training_is_resumed(iteration: int, reset: bool) -> None:
    _, model = build_pair(stage='classifier')
    before = copy.deepcopy(model.state_dict())
    hook = HOOKS.build(dict(type='ResetClassifierHook'))
    assert isinstance(hook, ResetClassifierHook)
    hook.before_train(StubRunner(model, iteration))
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == ({'head.fc.weight', 'head.fc.bias'} if reset else set())
