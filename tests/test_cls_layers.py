"""Any head of mmpretrain: which layers are calibrated, what trains, and what is refused."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from fitted import assert_same, collected, learn, of_fit, of_model
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.models import ClsHead, ImageClassifier, LinearClsHead
from mmpretrain.models.losses import (
    AsymmetricLoss,
    CrossEntropyLoss,
    FocalLoss,
    LabelSmoothLoss,
    SeesawLoss,
)
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import mmdisalign.classification as classification
from mmdisalign.calibration import ClassPrior
from mmdisalign.classification import GRWCrossEntropyLoss, calibrated, calibrated_model
from mmdisalign.classification.collect import SampleCollector
from mmdisalign.classification.layers import BACKBONE_PATHS, PATHS, model_layers
from mmdisalign.classification.losses import grw_loss
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.one_pass import OnePass, check_choosable

PRIOR = [50, 30, 15, 4, 1]
WEIGHT = torch.tensor([1 / count**1.2 for count in PRIOR])
WEIGHT = WEIGHT / WEIGHT.mean()
# A head, what its backbone returns, and its calibrations.
HEADS = {
    'linear': (dict(type='LinearClsHead'), 'vector', ['head']),
    'vit': (dict(type='VisionTransformerClsHead'), 'tokens', ['head']),
    'vit, hidden': (dict(type='VisionTransformerClsHead', hidden_dim=6), 'vector', ['head']),
    'deit': (dict(type='DeiTClsHead'), 'two', ['head.layers.head', 'head.layers.head_dist']),
    'deit, hidden': (
        dict(type='DeiTClsHead', hidden_dim=6),
        'two',
        ['head.layers.head', 'head.layers.head_dist'],
    ),
    'conformer': (
        dict(type='ConformerHead', in_channels=[8, 8]),
        'two',
        ['head.conv_cls_head', 'head.trans_cls_head'],
    ),
    'efficientformer': (
        dict(type='EfficientFormerClsHead'),
        'vector',
        ['head.head', 'head.dist_head'],
    ),
    'efficientformer, one': (
        dict(type='EfficientFormerClsHead', distillation=False),
        'vector',
        ['head.head'],
    ),
    'levit': (dict(type='LeViTClsHead'), 'vector', ['head.head.linear', 'head.head_dist.linear']),
    'levit, one': (
        dict(type='LeViTClsHead', distillation=False),
        'vector',
        ['head.head.linear'],
    ),
    'stacked': (
        dict(type='StackedLinearClsHead', mid_channels=[7, 6], norm_cfg=dict(type='BN1d')),
        'vector',
        ['head.layers.2.fc'],
    ),
    'vig': (dict(type='VigClsHead', hidden_dim=6, dropout=0.5), 'vector', ['head.fc2']),
    'multi-label': (dict(type='MultiLabelLinearClsHead'), 'vector', ['head.fc']),
    'multi-label on a softmax': (
        dict(type='MultiLabelLinearClsHead', loss=dict(type='CrossEntropyLoss', use_soft=True)),
        'vector',
        ['head.fc'],
    ),
    'csra': (
        dict(type='CSRAClsHead', num_heads=2, lam=0.1),
        'map',
        ['head.csra_heads.0.head', 'head.csra_heads.1.head'],
    ),
    'linear on sigmoids': (
        dict(type='LinearClsHead', loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
        'vector',
        ['head'],
    ),
    'backbone': (dict(type='ClsHead'), 'lenet', ['backbone.classifier.2']),
    'backbone, multi-label': (dict(type='MultiLabelClsHead'), 'lenet', ['backbone.classifier.2']),
}
WITH_TWO = ['conformer', 'deit', 'efficientformer', 'levit']


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmpretrain')


@MODELS.register_module(force=True)
class StubBackbone(BaseModule):
    """A convolution, and its outputs in the form that a head takes."""

    def __init__(self, returns: str) -> None:
        super().__init__()
        self.returns = returns
        self.conv = nn.Conv2d(1, 8, 8, stride=8)

    def forward(self, images: Tensor) -> tuple:
        maps = self.conv(images)
        vector, other = maps.mean((2, 3)), maps.amax((2, 3))
        forms = {'vector': vector, 'map': maps, 'two': [vector, other], 'tokens': [maps, vector]}
        return (forms[self.returns],)


@MODELS.register_module(force=True)
class HeadOfOnesOwn(ClsHead):
    """Two layers, whose names mmdisalign does not know."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden, self.scores = nn.Linear(8, 6), nn.Linear(6, num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        return self.scores(self.hidden(feats[-1]).relu())


@MODELS.register_module(force=True)
class HeadWithoutLoss(BaseModule):
    """A layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 5)


@MODELS.register_module(force=True)
class ClassifierOfOnesOwn(ImageClassifier):
    """Predicts something else, and has a loss more."""

    def predict(self, *args, **kwargs) -> str:
        return 'its own'

    def loss(self, *args, **kwargs) -> dict[str, Tensor]:
        return {**super().loss(*args, **kwargs), 'number': torch.tensor(7.0)}


def config(name: str, **options) -> ConfigDict:
    head, returns, _ = HEADS[name]
    backbone = dict(type='StubBackbone', returns=returns)
    if returns == 'lenet':
        backbone = dict(type='LeNet5', num_classes=5)
    else:
        head = {'in_channels': 8, 'num_classes': 5, **head}
    return ConfigDict(
        type='ImageClassifier', backbone=backbone, head=copy.deepcopy(head), **options
    )


def built(cfg: ConfigDict) -> nn.Module:
    return MODELS.build(copy.deepcopy(cfg))


def of_stage_2(cfg: ConfigDict, **options) -> nn.Module:
    return built(ConfigDict(cfg, **{'type': 'CalibratedImageClassifier', **options}))


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in model.named_buffers():
            if 'running' in name:
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def pair(name: str, **options) -> tuple[nn.Module, nn.Module]:
    stage1 = randomised(built(config(name)))
    stage2 = of_stage_2(config(name), **{'class_prior': PRIOR, **options})
    stage2.load_state_dict(stage1.state_dict())
    return stage1, stage2.eval()


def batch() -> dict:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 1, 32, 32, generator=generator)
    return dict(
        inputs=list(images), data_samples=[DataSample().set_gt_label(i % 5) for i in range(6)]
    )


def train(model: nn.Module) -> dict:
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.5)))
    for _ in range(2):
        model.train()
        log = model.train_step(batch(), wrapper)
    model.eval()
    return log


@torch.no_grad()
def scores(model: nn.Module) -> Tensor:
    return torch.stack([sample.pred_score for sample in model.test_step(batch())])


def formula(z: Tensor, x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    alpha, beta, weight, bias = (
        state[f'{prefix}.{name}']
        for name in ('magnitude', 'margin', 'confidence.weight', 'confidence.bias')
    )
    sigma = (x @ weight.T + bias).sigmoid()
    return (1 + sigma * alpha) * z + sigma * beta


def test_every_head_that_is_known_is_tested() -> None:
    assert {head['type'] for head, _, _ in HEADS.values()} == {
        *PATHS,
        'ClsHead',
        'MultiLabelClsHead',
    }


@pytest.mark.parametrize('name', HEADS)
def test_untouched_it_is_stage_1_bit_for_bit_and_its_parameters_keep_their_names(name: str) -> None:
    stage1, stage2 = pair(name)
    before = scores(stage1)
    assert before.std() > 0
    assert torch.equal(scores(stage2), before)
    added = set(stage2.state_dict()) - set(stage1.state_dict())
    assert set(stage1.state_dict()) <= set(stage2.state_dict())
    owners = HEADS[name][2]
    assert {key.rpartition('.calibration.')[0] for key in added} == set(owners)
    assert len(added) == 4 * len(owners)
    assert set(calibrations_of(stage2)) == {f'{owner}.calibration' for owner in owners}


@pytest.mark.parametrize('name', HEADS)
def test_the_calibrations_alone_train_and_they_all_do(name: str) -> None:
    stage1, stage2 = pair(name)
    before = copy.deepcopy(stage2.state_dict())
    stage2.train()
    training = {key for key, module in stage2.named_modules() if module.training}
    assert training == {
        f'{owner}.calibration{rest}' for owner in HEADS[name][2] for rest in ('', '.confidence')
    }
    assert train(stage2)['loss'].isfinite()
    after = stage2.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    own = ('magnitude', 'margin', 'confidence.weight', 'confidence.bias')
    assert changed == {f'{owner}.calibration.{key}' for owner in HEADS[name][2] for key in own}
    assert not torch.equal(scores(stage2), scores(stage1))


@pytest.mark.parametrize('name', ['linear', 'linear on sigmoids', 'multi-label', 'vig'])
def test_all_of_it_trains_with_mixed_labels_too(name: str) -> None:
    mixup = dict(augments=dict(type='Mixup', alpha=0.8))
    cfg = config(name, train_cfg=mixup, data_preprocessor=dict(num_classes=5))
    model = randomised(of_stage_2(cfg, class_prior=PRIOR, stage='joint'))
    before = copy.deepcopy(model.state_dict())
    assert train(model)['loss'].isfinite()
    assert not torch.equal(model.backbone.conv.weight, before['backbone.conv.weight'])


@pytest.mark.parametrize('name', WITH_TWO)
def test_both_of_two_layers_calibrate_by_what_each_sees(name: str) -> None:
    stage1, stage2 = pair(name)
    train(stage2)
    state, expected = stage2.state_dict(), []
    feats = stage1.extract_feat(torch.stack(batch()['inputs']))
    x = feats[-1] if isinstance(feats[-1], list) else [feats[-1]] * 2
    for path, own in zip(HEADS[name][2], x):
        if name == 'levit':
            own = stage1.get_submodule(path.rpartition('.')[0]).bn(own)
        z = stage1.get_submodule(path)(own)
        expected.append(formula(z, own, state, f'{path}.calibration'))
    logits = sum(expected) if name == 'conformer' else sum(expected) / 2
    torch.testing.assert_close(scores(stage2), logits.softmax(1))
    # The loss is that of what predicts, and of each score of a Conformer.
    label = torch.arange(6) % 5
    losses = [cross_entropy(each, label, WEIGHT) for each in expected]
    loss = sum(losses) if name == 'conformer' else cross_entropy(logits, label, WEIGHT)
    data = stage2.data_preprocessor(batch(), True)
    stage2.train()
    torch.testing.assert_close(stage2.loss(**data)['loss'], loss)


@pytest.mark.parametrize('name', ['linear', 'vit', 'vit, hidden'])
@pytest.mark.parametrize('wrapper', ['', 'module.'])
def test_checkpoints_of_earlier_versions_load(name: str, wrapper: str) -> None:
    stage1, stage2 = pair(name)
    width = 6 if 'hidden' in name else 8
    old = {
        **stage1.state_dict(),
        'head.calibration.magnitude': torch.randn(5),
        'head.calibration.margin': torch.randn(5),
        'head.calibration.confidence.weight': torch.randn(1, width),
        'head.calibration.confidence.bias': torch.randn(1),
    }
    model = nn.ModuleDict({'module': stage2}) if wrapper else stage2
    model.load_state_dict({f'{wrapper}{key}': value for key, value in old.items()})
    feats = stage1.extract_feat(torch.stack(batch()['inputs']))
    x, z = stage1.head.pre_logits(feats), stage1.head(feats)
    expected = formula(z, x, old, 'head.calibration').softmax(1)
    torch.testing.assert_close(scores(stage2), expected)
    # The layer and the head have one calibration also in a copy, such as a moving average.
    again = copy.deepcopy(stage2)
    with torch.no_grad():
        again.head.calibration.magnitude.zero_()
        again.head.calibration.margin.zero_()
    assert torch.equal(scores(again), scores(stage1))
    torch.testing.assert_close(scores(stage2), expected)


def test_a_calibrated_head_has_a_name_for_configs() -> None:
    for name in PATHS:
        cls = calibrated(MODELS.get(name))
        assert MODELS.get(f'DisAlign{name}') is calibrated(cls) is cls


@pytest.mark.parametrize(('backbone', 'layer'), [('VGG', '6'), ('AlexNet', '6'), ('LeNet5', '2')])
def test_a_backbone_that_scores_classes_is_calibrated(backbone: str, layer: str) -> None:
    cfg = dict(type=backbone, num_classes=5, **(dict(depth=11) if backbone == 'VGG' else {}))
    with torch.device('meta'):
        model = built(ConfigDict(type='ImageClassifier', backbone=cfg, head=dict(type='ClsHead')))
    assert backbone in BACKBONE_PATHS
    ((name, found),) = model_layers(model).items()
    assert (name, found.out_features) == (f'backbone.classifier.{layer}', 5)


@MODELS.register_module(force=True)
class BackboneWithTables(StubBackbone):
    """Makes a buffer anew, whatever a checkpoint has, as Swin Transformer V2 does."""

    def __init__(self) -> None:
        super().__init__('vector')
        self.register_buffer('table', torch.zeros(3))
        self._register_load_state_dict_pre_hook(self._drop)

    def _drop(self, state_dict: dict, prefix: str, *args) -> None:
        del state_dict[f'{prefix}table']


def test_what_a_backbone_makes_anew_is_not_missing() -> None:
    cfg = config('linear')
    cfg.backbone = dict(type='BackboneWithTables')
    state = randomised(built(cfg)).state_dict()
    stage2 = of_stage_2(cfg, class_prior=PRIOR)
    stage2.load_state_dict({**state, 'backbone.table': torch.ones(3)}, strict=False)
    assert not stage2.backbone.table.any()
    assert torch.equal(stage2.head.fc.weight, state['head.fc.weight'])
    del state['backbone.conv.bias']
    with pytest.raises(RuntimeError, match=r'missing from the checkpoint: backbone\.conv\.bias\n'):
        stage2.load_state_dict(state, strict=False)


def own_config() -> ConfigDict:
    backbone = dict(type='StubBackbone', returns='vector')
    head = dict(type='HeadOfOnesOwn', num_classes=5)
    return ConfigDict(type='ImageClassifier', backbone=backbone, head=head)


def test_a_head_of_ones_own_is_calibrated_by_the_names_of_its_layers() -> None:
    stage1 = randomised(built(own_config()))
    options = dict(class_prior=PRIOR, calibrated_layers=['head.scores'])
    stage2 = of_stage_2(own_config(), **options).eval()
    stage2.load_state_dict(stage1.state_dict())
    assert torch.equal(scores(stage2), scores(stage1))
    train(stage2)
    feats = stage1.extract_feat(torch.stack(batch()['inputs']))
    x, z = stage1.head.hidden(feats[-1]).relu(), stage1.head(feats)
    expected = formula(z, x, stage2.state_dict(), 'head.scores.calibration').softmax(1)
    torch.testing.assert_close(scores(stage2), expected)


def test_a_classifier_of_ones_own_stays_what_it_is() -> None:
    cfg = config('linear')
    cfg.type = 'ClassifierOfOnesOwn'
    stage1 = built(cfg)
    kind = calibrated_model(cfg)
    assert kind == 'mmdisalign.classification.CalibratedClassifierOfOnesOwn'
    assert classification.CalibratedImageClassifier.__name__ == 'CalibratedImageClassifier'
    assert calibrated_model(config('linear')).endswith('.CalibratedImageClassifier')
    model = of_stage_2(cfg, type=kind, class_prior=PRIOR)
    model.load_state_dict(stage1.state_dict())
    assert train(model)['number'] == 7
    assert model.test_step(batch()) == 'its own'
    with pytest.raises(AttributeError, match='has no attribute'):
        _ = classification.CalibratedNothing


@MODELS.register_module()
class RenamedHead(LinearClsHead):
    """Its layer has another name than that of its base."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.scores = self.fc
        del self.fc


def refused(match: str, kind: type = TypeError) -> pytest.RaisesExc:
    return pytest.raises(kind, match=match)


def test_what_is_refused_is_refused_in_a_sentence() -> None:
    options = dict(class_prior=PRIOR)
    with refused(r"HeadOfOnesOwn cannot .* not known; .* calibrated_layers=\['head.fc'\]"):
        of_stage_2(own_config(), **options)
    with refused('HeadOfOnesOwn has no layer fc'):
        of_stage_2(own_config(), **options, calibrated_layers=['head.fc'])
    renamed = config('linear')
    renamed.head.type = 'RenamedHead'
    with refused(r"RenamedHead .* it has no fc, where its base .* calibrated_layers=\['head.fc'\]"):
        of_stage_2(renamed, **options)
    with refused(r'head\.loss_module: a CrossEntropyLoss cannot be calibrated'):
        of_stage_2(own_config(), **options, calibrated_layers=['head.loss_module'])
    with refused(r'its layers score \[5, 6\] classes'):
        layers = ['head.hidden', 'head.scores']
        of_stage_2(own_config(), **options, calibrated_layers=layers)
    with refused('HeadWithoutLoss cannot be calibrated: it has no loss_module'):
        cfg = own_config()
        cfg.head = dict(type='HeadWithoutLoss')
        of_stage_2(cfg, **options, calibrated_layers=['head.fc'])
    with refused("LinearClsHead in the stage 'classifier' has no calibrated_layers", ValueError):
        of_stage_2(config('linear'), stage='classifier', calibrated_layers=['head.fc'])
    with refused("DeiTClsHead has no linear classifier 'fc' or 'layers.head' of its own"):
        of_stage_2(config('deit'), stage='classifier')
    with refused('has 3 classes, but the head has num_classes=5', ValueError):
        of_stage_2(config('vig'), class_prior=[3, 2, 1])
    plain = own_config()
    plain.head = dict(type='ClsHead')
    with refused('ClsHead cannot .* neither it nor its StubBackbone has a classification layer'):
        of_stage_2(plain, **options)
    plain.backbone = dict(type='LeNet5')
    with refused('neither it nor its LeNet5 has a classification layer'):
        of_stage_2(plain, **options)
    with refused('LeViTClsHead cannot be calibrated: with deploy=True, the normalisation'):
        cfg = config('levit')
        cfg.head.deploy = True
        of_stage_2(cfg, **options)
    with refused('ArcFaceClsHead cannot .* its scores in training depend on the label'):
        calibrated(MODELS.get('ArcFaceClsHead'))
    with refused('MultiTaskHead cannot .* it has a head for each of several tasks'):
        calibrated(MODELS.get('MultiTaskHead'))
    with refused('ClsHead cannot .* it has no classification layer of its own'):
        calibrated(ClsHead)
    with refused('an ImageClassifier without a head cannot be calibrated'):
        of_stage_2(ConfigDict(backbone=dict(type='LeNet5')), **options)
    with refused('has no momentum, target_generator: the model of stage 1 is of another type'):
        of_stage_2(config('linear', target_generator=dict(), momentum=0.9), **options)
    with refused('TimmClassifier cannot be calibrated: it is not an ImageClassifier'):
        calibrated_model(dict(type='TimmClassifier'))
    with refused('MoCo cannot be calibrated: it is not an ImageClassifier'):
        of_stage_2(config('linear'), type='mmdisalign.classification.CalibratedMoCo', **options)
    with refused('but the loss is SeesawLoss', ValueError):
        cfg = config('linear')
        cfg.head.loss = dict(type='SeesawLoss', num_classes=5)
        of_stage_2(cfg, **options)


TERMS = {
    'cross-entropy': (
        partial(CrossEntropyLoss, use_sigmoid=True),
        lambda z, t: binary_cross_entropy_with_logits(z, t, reduction='none'),
    ),
    'smooth': (
        partial(LabelSmoothLoss, 0.1, num_classes=5, use_sigmoid=True),
        lambda z, t: binary_cross_entropy_with_logits(z, 0.9 * t + 0.02, reduction='none'),
    ),
    'smooth, several labels': (
        partial(LabelSmoothLoss, 0.1, mode='multi_label', use_sigmoid=True),
        lambda z, t: binary_cross_entropy_with_logits(z, 0.8 * t + 0.1, reduction='none'),
    ),
    'focal': (
        partial(FocalLoss, gamma=2.0, alpha=0.3),
        lambda z, t: torch.where(
            t > 0,
            -0.3 * (1 - z.sigmoid()) ** 2 * z.sigmoid().log(),
            -0.7 * z.sigmoid() ** 2 * (1 - z.sigmoid()).log(),
        ),
    ),
    'asymmetric': (
        partial(AsymmetricLoss, gamma_pos=1.0, gamma_neg=2.0, clip=None),
        lambda z, t: torch.where(
            t > 0,
            -(1 - z.sigmoid()) * z.sigmoid().log(),
            -(z.sigmoid() ** 2) * (1 - z.sigmoid()).log(),
        ),
    ),
}


@pytest.mark.parametrize('name', TERMS)
@pytest.mark.parametrize('form', ['indices', 'several labels'])
def test_sigmoid_losses_weigh_the_positive_terms(name: str, form: str) -> None:
    torch.manual_seed(0)
    build, terms_of = TERMS[name]
    z, index = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 4])
    label = one_hot(index, 5)
    if form == 'several labels':
        label[0, 3] = label[2, 4] = 1
        index = label
    loss = grw_loss(build(loss_weight=2.0), ClassPrior.build(PRIOR), 1.2, None)
    assert not loss.state_dict()
    terms, expected = terms_of(z, label.double()), 0.0
    for n in range(4):
        for c in range(5):
            expected += 2 * (WEIGHT[c].item() if label[n, c] else 1) * terms[n, c].item()
    assert loss(z, index, avg_factor=4).item() == pytest.approx(expected / 4, rel=1e-6)
    assert loss(z, index).item() == pytest.approx(expected / 20, rel=1e-6)
    assert loss(z, index, reduction_override='sum').item() == pytest.approx(expected, rel=1e-6)
    assert loss(z, index, reduction_override='none').shape == (4, 5)
    of_images = torch.tensor([1.0, 0.0, 0.0, 0.0])
    first = loss(z[:1], index[:1], reduction_override='sum')
    torch.testing.assert_close(loss(z, index, of_images, reduction_override='sum'), first)


@pytest.mark.parametrize('normalizer', ['class_weight', 'elements', 'valid'])
def test_the_loss_of_shares_is_that_of_their_labels(normalizer: str) -> None:
    torch.manual_seed(0)
    loss = GRWCrossEntropyLoss(PRIOR, 1.2, normalizer=normalizer)
    z, label = torch.randn(4, 5), torch.tensor([0, 4, 2, 4])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    for options in ({}, {'weight': weight}, {'avg_factor': 3.0}, {'reduction_override': 'sum'}):
        torch.testing.assert_close(loss(z, one_hot(label, 5), **options), loss(z, label, **options))
    # Half of one class and half of another: log-probabilities by hand.
    shares = torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.0]])
    terms = -z[:1].log_softmax(1)[0] * shares[0] * loss.class_weight
    divisor = (shares[0] * loss.class_weight).sum() if normalizer == 'class_weight' else 1
    torch.testing.assert_close(loss(z[:1], shares), terms.sum() / divisor)


def test_class_weights_and_smoothing_of_a_softmax_loss_are_replaced() -> None:
    prior = ClassPrior.build(PRIOR)
    for stock in (
        CrossEntropyLoss(class_weight=[1, 2, 3, 4, 5], loss_weight=3.0),
        LabelSmoothLoss(0.1, loss_weight=3.0),
    ):
        found = grw_loss(stock, prior, 1.2, None)
        assert (type(found), found.loss_weight) == (GRWCrossEntropyLoss, 3.0)
        torch.testing.assert_close(found.class_weight, WEIGHT)
    with refused('but the loss is SeesawLoss', ValueError):
        grw_loss(SeesawLoss(num_classes=5), prior, 1.2, None)


@pytest.mark.parametrize('name', ['linear', 'conformer', 'levit', 'backbone', 'stacked'])
def test_one_pass_keeps_what_each_layer_sees(name: str) -> None:
    stage1, stage2 = pair(name)
    collector = SampleCollector(stage2)
    with torch.no_grad():
        found = {key: own for key, own, _ in collector(batch(), np.random.default_rng(0))}
        feats = stage1.extract_feat(torch.stack(batch()['inputs']))
        logits = stage1.head(feats)
    assert set(found) == set(calibrations_of(stage2)) == set(collector.losses)
    logged = [torch.from_numpy(own.logits[:, 0]) for own in found.values()]
    expected = list(logits) if name == 'conformer' else [logits]
    kept = logged if name == 'conformer' else [sum(logged) / len(logged)]
    torch.testing.assert_close(kept, expected)
    for key, own in found.items():
        assert own.features.shape == (6, 1, stage2.get_submodule(key).in_channels)
        assert own.label.tolist() == [0, 1, 2, 3, 4, 0]


SIGMOID_LOSSES = {
    'binary': dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=2.0),
    'smooth': dict(type='LabelSmoothLoss', label_smooth_val=0.2, use_sigmoid=True, num_classes=5),
    'smooth, several labels': dict(
        type='LabelSmoothLoss', label_smooth_val=0.2, mode='multi_label', num_classes=5
    ),
    'focal': dict(type='FocalLoss'),
    'asymmetric': dict(type='AsymmetricLoss'),
}


def labelled(*labels: list[int]) -> dict:
    data = batch()
    for sample, own in zip(data['data_samples'], labels):
        sample.set_gt_label(torch.tensor(own, dtype=torch.long))
    return data


@pytest.mark.parametrize('loss', SIGMOID_LOSSES)
@pytest.mark.parametrize('name', ['linear on sigmoids', 'multi-label', 'backbone, multi-label'])
def test_one_pass_has_the_loss_and_the_gradient_of_sigmoids(name: str, loss: str) -> None:
    cfg = config(name)
    cfg.head.loss = SIGMOID_LOSSES[loss]
    stage2 = randomised(of_stage_2(cfg, class_prior=PRIOR))
    stage2.load_state_dict(stage2.state_dict())
    for calibration in calibrations_of(stage2).values():
        for parameter in calibration.parameters():
            parameter.data.zero_()
    labels, rarest = [[0, 3], [1], [2, 4, 0], [], [4], [0]], [3, 1, 4, 5, 4, 0]
    if name == 'linear on sigmoids':
        labels, rarest = [[0], [1], [2], [3], [4], [0]], [0, 1, 2, 3, 4, 0]
    collector, data = SampleCollector(stage2), labelled(*labels)
    samples, elements = collected(collector, data)
    (own,) = samples.values()
    assert own.label.tolist() == rarest
    learn(stage2)
    assert_same(of_fit(stage2, collector, samples, elements), of_model(stage2, data))


def test_every_class_of_an_image_has_a_sample() -> None:
    _, stage2 = pair('multi-label')
    collector = SampleCollector(stage2)
    samples, elements = collected(collector, labelled([0, 3], [1, 2, 3], [4], [4], [4], []))
    whole = OnePass(collector, samples, elements, None, 0.0)
    whole.check_classes()  # of 0 to 2 too, though the images count by rarer ones
    with pytest.raises(ValueError, match=r'may be of several classes.*--exp-scale'):
        check_choosable(collector.losses)
    samples, elements = collected(collector, labelled([0, 3], [1, 3], [4], [4], [4], []))
    with pytest.raises(ValueError, match='no sample of class 2'):
        OnePass(collector, samples, elements, None, 0.0).check_classes()


def test_what_cannot_be_fitted_is_said() -> None:
    with refused('CSRAClsHead calibrates each position', ValueError):
        SampleCollector(pair('csra')[1])
    _, stage2 = pair('linear')
    stage2.head.loss_module = nn.Identity()
    with refused('the model has DisAlignLinearClsHead with Identity', ValueError):
        SampleCollector(stage2)
