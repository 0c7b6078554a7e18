"""Heads of mmseg that do not classify through ``cls_seg``: the layer that scores is calibrated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from test_segmentors import BACKBONE, ONE_MAP, PRIOR, SOFTMAX, batch, train
from torch import Tensor, nn

from mmdisalign.calibration import ClassPrior
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.collect import FullCollector, captured
from mmdisalign.onepass.fitting import fit_calibration, sampled_loss
from mmdisalign.onepass.one_pass import OnePass, class_weights, stage2_model
from mmdisalign.segmentation import calibrated_model
from mmdisalign.segmentation.collect import SampleCollector
from mmdisalign.segmentation.layers import PATHS

C, RHO = 5, 0.5
NO_OBJECT = 0.1
MLP = dict(act_cfg=dict(type='ReLU', inplace=True), ffn_drop=0.0)
ATTENTION = dict(embed_dims=16, num_heads=2, dropout=0.0, batch_first=True)
POSITIONS = dict(num_feats=8, normalize=True)
MASKS = dict(
    in_channels=[4, 8, 16, 32],
    feat_channels=16,
    out_channels=16,
    num_classes=C,
    num_queries=8,
    positional_encoding=POSITIONS,
    loss_cls=dict(
        type='mmdet.CrossEntropyLoss', loss_weight=2.0, class_weight=[1.0] * C + [NO_OBJECT]
    ),
    loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
    loss_dice=dict(type='mmdet.DiceLoss', use_sigmoid=True, activate=True, naive_dice=True),
)
MATCHING = dict(
    assigner=dict(
        type='mmdet.HungarianAssigner',
        match_costs=[
            dict(type='mmdet.ClassificationCost', weight=2.0),
            dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
        ],
    ),
    sampler=dict(type='mmdet.MaskPseudoSampler'),
)
KERNELS = dict(
    type='KernelUpdateHead',
    num_classes=C,
    num_heads=2,
    num_mask_fcs=1,
    feedforward_channels=16,
    in_channels=8,
    out_channels=8,
    feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
    kernel_updator_cfg=dict(type='KernelUpdator', in_channels=8, feat_channels=8, out_channels=8),
)
HEADS = {
    'Mask2FormerHead': dict(
        MASKS,
        strides=[4, 8, 16, 32],
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            num_outs=3,
            norm_cfg=dict(type='GN', num_groups=4),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(ATTENTION, num_levels=3, num_points=2),
                    ffn_cfg=dict(MLP, embed_dims=16, feedforward_channels=16, num_fcs=2),
                ),
            ),
            positional_encoding=POSITIONS,
        ),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=ATTENTION,
                cross_attn_cfg=ATTENTION,
                ffn_cfg=dict(MLP, embed_dims=16, feedforward_channels=16, num_fcs=2),
            ),
        ),
        train_cfg=dict(MATCHING, num_points=64),
    ),
    'MaskFormerHead': dict(
        MASKS,
        pixel_decoder=dict(type='mmdet.PixelDecoder', norm_cfg=dict(type='GN', num_groups=4)),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=ATTENTION,
                cross_attn_cfg=ATTENTION,
                ffn_cfg=dict(MLP, embed_dims=16, feedforward_channels=16, num_fcs=2),
            ),
        ),
        train_cfg=MATCHING,
    ),
    'IterativeDecodeHead': dict(
        num_stages=2,
        kernel_update_head=[KERNELS, KERNELS],
        kernel_generate_head=dict(type='FCNHead', **ONE_MAP, loss_decode=SOFTMAX),
    ),
    'PointHead': dict(
        in_channels=[4],
        in_index=[0],
        channels=8,
        num_fcs=1,
        num_classes=C,
        dropout_ratio=-1,
        loss_decode=SOFTMAX,
    ),
    'SegmenterMaskTransformerHead': dict(
        in_channels=32,
        channels=32,
        num_classes=C,
        num_layers=1,
        num_heads=2,
        embed_dims=16,
        dropout_ratio=0.0,
        loss_decode=SOFTMAX,
    ),
}
LAYERS = {
    'Mask2FormerHead': 'decode_head.cls_embed',
    'MaskFormerHead': 'decode_head.cls_embed',
    'IterativeDecodeHead': 'decode_head.kernel_update_head.1',
    'PointHead': 'decode_head.1.fc_seg',
    'SegmenterMaskTransformerHead': 'decode_head.mask_norm',
}
MASK_HEADS = ['Mask2FormerHead', 'MaskFormerHead']


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def stage1_cfg(head: str) -> ConfigDict:
    own = dict(type=head, **HEADS[head])
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32), seg_pad_val=255),
        backbone=BACKBONE,
        decode_head=own,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if head == 'PointHead':
        first = dict(type='FCNHead', **ONE_MAP, loss_decode=SOFTMAX)
        points = dict(subdivision_steps=1, subdivision_num_points=16, scale_factor=2)
        cfg.update(
            type='CascadeEncoderDecoder',
            num_stages=2,
            decode_head=[first, own],
            train_cfg=dict(num_points=64, oversample_ratio=3, importance_sample_ratio=0.75),
            test_cfg=dict(mode='whole', **points),
        )
    return ConfigDict(copy.deepcopy(cfg))


def stage2_cfg(head: str, **kwargs) -> ConfigDict:
    cfg = stage1_cfg(head)
    options = {'class_prior': PRIOR, 'exp_scale': RHO, **kwargs}
    return ConfigDict(cfg, type=f'Calibrated{cfg.type}', **options)


def build_pair(head: str, **kwargs) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    # As stage 2 is: PyTorch's attention takes other kernels where nothing needs gradients.
    stage1 = MODELS.build(stage1_cfg(head)).requires_grad_(False)
    stage2 = MODELS.build(stage2_cfg(head, **kwargs))
    stage2.load_state_dict(stage1.state_dict())
    return stage1.eval(), stage2.eval()


@torch.no_grad()
def predicted(model: nn.Module) -> Tensor:
    results = model.eval().test_step(batch())
    return torch.stack([result.seg_logits.data for result in results])


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.loss(**model.data_preprocessor(batch(), True))


def grw() -> Tensor:
    """The paper's weights, by their equation."""
    inverse = (np.array(PRIOR) / sum(PRIOR)) ** -RHO
    return torch.tensor(inverse / inverse.sum() * C, dtype=torch.float32)


def test_every_head_of_the_table_is_tested() -> None:
    assert set(HEADS) - {'Mask2FormerHead'} == set(PATHS)


@pytest.mark.parametrize('head', HEADS)
def test_untouched_stage_2_is_stage_1_bit_for_bit(head: str) -> None:
    stage1, stage2 = build_pair(head)
    assert torch.equal(predicted(stage2), predicted(stage1))
    # And by its scores as they are before a softmax, which would hide a shift of them all.
    (calibration,) = calibrations_of(stage2).values()
    with captured(calibration) as passes:
        predicted(stage2)
    for (scores, _), calibrated in passes:
        assert torch.equal(calibrated, scores)


@pytest.mark.parametrize('head', HEADS)
def test_it_predicts_the_same_in_place_and_watched(head: str) -> None:
    _, model = build_pair(head)
    (calibration,) = calibrations_of(model).values()
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.normal_(std=0.1)
    in_place = predicted(model)
    with captured(calibration):  # what hooks may keep is not overwritten
        # Half an ulp of each float32 score, and what is upsampled of them.
        torch.testing.assert_close(predicted(model), in_place, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('head', HEADS)
def test_one_calibration_is_added_and_no_parameter_is_renamed(head: str) -> None:
    stage1, stage2 = build_pair(head)
    assert list(calibrations_of(stage2)) == [f'{LAYERS[head]}.calibration']
    kept = [key for key in stage2.state_dict() if '.calibration.' not in key]
    assert kept == list(stage1.state_dict())


@pytest.mark.parametrize('head', HEADS)
def test_the_calibration_trains_alone_and_has_an_effect(head: str) -> None:
    stage1, model = build_pair(head)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if '.calibration.' in n}
    before = copy.deepcopy(model.state_dict())
    train(model, iterations=2)
    training = {name for name, module in model.named_modules() if module.training}
    assert all('.calibration' in name for name in training)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if '.calibration.' in key}
    assert not torch.equal(predicted(model), predicted(stage1))


@pytest.mark.parametrize('head', HEADS)
def test_of_the_losses_those_of_classes_remain(head: str) -> None:
    _, model = build_pair(head)
    names = {key for key in losses_of(model) if 'loss' in key}
    expected = {'decode.loss_grw'}
    if head in MASK_HEADS:
        numbers = range(2 if head == 'Mask2FormerHead' else 1)
        expected = {'decode.loss_cls', *(f'decode.d{n}.loss_cls' for n in numbers)}
    elif head == 'PointHead':
        expected = {'decode.pointloss_grw'}
    assert names == expected


@pytest.mark.parametrize('head', MASK_HEADS)
def test_mask_classification_has_softmax_cross_entropy_with_grw_and_no_object(head: str) -> None:
    stage1, model = build_pair(head)
    with captured(stage1.decode_head.loss_cls) as judged:
        losses_of(stage1)
    weight = torch.cat([grw(), torch.ones(1)])
    stock = torch.tensor([1.0] * C + [NO_OBJECT])
    found = losses_of(model)
    names = [f'decode.d{n}.loss_cls' for n in range(len(judged) - 1)] + ['decode.loss_cls']
    assert len(judged) == len(names) > 1
    for name, ((scores, labels, *_), _) in zip(names, judged):
        assert {C} < set(labels.tolist())  # both matched queries and those of no object
        terms = -scores.log_softmax(1)[torch.arange(len(labels)), labels]
        expected = (weight * stock)[labels] @ terms / stock[labels].sum()
        torch.testing.assert_close(found[name], 2.0 * expected)


def test_queries_are_matched_by_calibrated_scores() -> None:
    stage1, model = build_pair('MaskFormerHead')
    (calibration,) = calibrations_of(model).values()
    with torch.no_grad():
        calibration.confidence.bias.fill_(50.0)
        calibration.margin.copy_(torch.linspace(-9, 9, C))
    seen = []
    assign = model.decode_head.assigner.assign
    model.decode_head.assigner.assign = lambda pred_instances, **kwargs: (
        seen.append(pred_instances.scores) or assign(pred_instances=pred_instances, **kwargs)
    )
    losses_of(model)
    with captured(stage1.decode_head.cls_embed) as passes:
        losses_of(stage1)
    (_, scores), shift = passes[0], torch.linspace(-9, 9, C)
    expected = scores.flatten(0, 1)[..., :C] + shift
    torch.testing.assert_close(torch.stack(seen)[..., :C], expected)


def test_k_net_has_the_loss_of_its_last_stage() -> None:
    stage1, model = build_pair('IterativeDecodeHead')
    data = stage1.data_preprocessor(batch(), True)
    scores = stage1.decode_head(stage1.extract_feat(data['inputs']))
    label = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
    scores = F.interpolate(scores, label.shape[1:], mode='bilinear', align_corners=False)
    expected = F.cross_entropy(scores, label, grw(), ignore_index=255, reduction='none').mean()
    torch.testing.assert_close(losses_of(model)['decode.loss_grw'], expected)


def test_points_have_their_loss() -> None:
    stage1, model = build_pair('PointHead')
    with captured(stage1.decode_head[1].loss_decode) as judged:
        torch.manual_seed(0)
        data = stage1.data_preprocessor(batch(), True)
        features = stage1.extract_feat(data['inputs'])
        stage1._decode_head_forward_train(features, data['data_samples'])
    ((scores, label), _) = judged[-1]
    expected = F.cross_entropy(scores, label, grw(), ignore_index=255, reduction='none').mean()
    torch.testing.assert_close(losses_of(model)['decode.pointloss_grw'], expected)


@pytest.mark.parametrize('head', HEADS)
def test_samples_of_one_pass_can_be_fitted(head: str) -> None:
    _, model = build_pair(head)
    (calibration,) = calibrations_of(model).values()
    collector = SampleCollector(model)
    assert isinstance(collector, FullCollector) == (head not in [*MASK_HEADS, 'PointHead'])
    with torch.no_grad():  # pixels come image by image, all else at once
        name, samples, elements = next(collector(batch(), np.random.default_rng(0)))
    one_pass = OnePass(collector, {name: samples}, {name: sum(elements.values())}, None, 5e-4)
    one_pass.check_classes()
    fit = one_pass.fit(calibration, name, RHO)
    assert fit.after < fit.before


@pytest.mark.parametrize('head', [*MASK_HEADS, 'PointHead'])
def test_samples_of_queries_and_points_have_the_loss_of_training(head: str) -> None:
    _, model = build_pair(head)
    collector = SampleCollector(model)
    torch.manual_seed(0)
    with torch.no_grad():
        ((name, samples, elements),) = collector(batch(), np.random.default_rng(0))
    weight = class_weights(collector.losses[name], RHO, None)
    (calibration,) = calibrations_of(model).values()
    every, total = np.arange(len(samples)), sum(elements.values())
    found = sampled_loss(calibration, samples.chunks(every), weight, total)
    losses = losses_of(model)
    key, scale = ('pointloss_grw', 1.0) if head == 'PointHead' else ('loss_cls', 2.0)
    # 1e-3: features are in half precision.
    assert scale * found == pytest.approx(losses[f'decode.{key}'].item(), rel=1e-3)


def test_mapped_pixels_of_a_transformer_have_all_their_loss() -> None:
    _, model = build_pair('SegmenterMaskTransformerHead')
    collector = SampleCollector(model)
    with torch.no_grad():
        number, before, after = collector.full_losses(batch(), grw())
    assert before == after
    label = torch.stack([sample.gt_sem_seg.data for sample in batch()['data_samples']])
    assert number == int((label != 255).sum())
    mean = before / label.numel()
    assert mean == pytest.approx(losses_of(model)['decode.loss_grw'].item(), rel=1e-5)


@MODELS.register_module(force=True)
class OwnHead(BaseDecodeHead):
    """A head of one's own, with a classifier, and two losses, that are not mmseg's."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.classify = nn.Conv2d(self.in_channels, self.num_classes, 3, padding=1)
        self.edges = nn.Conv2d(self.in_channels, 1, 1)
        del self.conv_seg

    def forward(self, inputs: list[Tensor]) -> Tensor:
        scores = self.classify(inputs[-1])
        return (scores, self.edges(inputs[-1])) if self.training else scores

    def loss_by_feat(self, outputs: tuple[Tensor, Tensor], data_samples: list) -> dict:
        losses = super().loss_by_feat(outputs[0], data_samples)
        return {**losses, 'loss_edge': outputs[1].square().mean()}


def own_cfg(**kwargs) -> ConfigDict:
    cfg = stage1_cfg('SegmenterMaskTransformerHead')
    cfg.decode_head = dict(type='OwnHead', **{**ONE_MAP, 'channels': 32}, loss_decode=SOFTMAX)
    return ConfigDict(cfg, **kwargs)


def test_a_head_of_ones_own_is_calibrated_by_the_names_of_its_layers() -> None:
    options = dict(type='CalibratedEncoderDecoder', class_prior=PRIOR)
    with pytest.raises(TypeError, match=r"never calls 'cls_seg'; .*calibrated_layers="):
        MODELS.build(own_cfg(**options))
    stage1 = MODELS.build(own_cfg()).requires_grad_(False)
    model = MODELS.build(own_cfg(**options, calibrated_layers=['decode_head.classify']))
    model.load_state_dict(stage1.state_dict())
    assert torch.equal(predicted(model), predicted(stage1))
    train(model)
    assert {key for key in losses_of(model) if 'loss' in key} == {'decode.loss_grw'}
    assert not torch.equal(predicted(model), predicted(stage1))
    with pytest.raises(ValueError, match='a head of your own'):
        SampleCollector(model)


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        ('decode_head.nothing', 'OwnHead has no layer nothing'),
        ('decode_head.edges', '1 outputs are not the scores of 5 classes'),
        ('backbone.layer1', 'a ResLayer cannot be calibrated'),
    ],
)
def test_layers_that_are_none_of_classes_are_refused(layer: str, message: str) -> None:
    options = dict(type='CalibratedEncoderDecoder', class_prior=PRIOR, calibrated_layers=[layer])
    with pytest.raises(TypeError, match=message):
        MODELS.build(own_cfg(**options))


def test_text_classes_are_refused_alike_on_both_routes() -> None:
    model = dict(
        type='MultimodalEncoderDecoder', decode_head=dict(type='SideAdapterCLIPHead', num_classes=5)
    )
    message = '^SideAdapterCLIPHead cannot be calibrated: its classes are text$'
    with pytest.raises(TypeError, match=message):
        calibrated_model(model)
    with pytest.raises(TypeError, match=message):
        MODELS.build(dict(model, type='CalibratedEncoderDecoder', class_prior=PRIOR))


@pytest.mark.parametrize('head', HEADS)
def test_both_routes_take_what_is_known(head: str) -> None:
    cfg = ConfigDict(model=stage1_cfg(head), default_scope='mmseg')
    options = stage2_model(cfg, 'segmentation', ClassPrior.build(PRIOR), RHO, None)
    assert options['type'] == f'mmdisalign.segmentation.Calibrated{cfg.model.type}'


def test_a_model_of_another_type_is_not_replaced() -> None:
    cfg = stage2_cfg('SegmenterMaskTransformerHead', text_encoder=dict())
    with pytest.raises(
        TypeError, match='CalibratedEncoderDecoder has no text_encoder: that is misspelt, or'
    ):
        MODELS.build(cfg)


@pytest.mark.parametrize('head', HEADS)
def test_a_prior_is_needed_and_of_the_same_classes(head: str) -> None:
    with pytest.raises(ValueError, match='set class_prior on the model'):
        MODELS.build(stage2_cfg(head, class_prior=None))
    with pytest.raises(ValueError, match=r'has 3 classes, but the decode head has num_classes=5'):
        MODELS.build(stage2_cfg(head, class_prior=[3, 2, 1]))


@pytest.mark.parametrize(
    'options', [dict(tiled_loss=True), dict(calibration=dict(act_cfg=dict(type='ReLU')))]
)
def test_options_of_cls_seg_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match='is for heads that classify through cls_seg'):
        MODELS.build(stage2_cfg('Mask2FormerHead', **options))


def test_mask_classification_on_sigmoids_is_refused() -> None:
    cfg = stage2_cfg('MaskFormerHead')
    cfg.decode_head.loss_cls.use_sigmoid = True
    with pytest.raises(TypeError, match='its CrossEntropyLoss of classes is on sigmoids'):
        MODELS.build(cfg)


@pytest.mark.parametrize('head', ['Mask2FormerHead', 'PointHead', 'SegmenterMaskTransformerHead'])
def test_a_checkpoint_of_other_classes_is_refused_with_their_number(head: str) -> None:
    stage1, stage2 = build_pair(head)
    state = dict(stage1.state_dict())
    key = f'{LAYERS[head]}.weight'
    state[key] = torch.cat([state[key], state[key][:2]])
    with pytest.raises(RuntimeError, match='the checkpoint has 7 classes, the config 5'):
        stage2.load_state_dict(state)


@pytest.mark.parametrize('head', HEADS)
def test_the_joint_stage_trains_everything(head: str) -> None:
    model = MODELS.build(stage2_cfg(head, stage='joint'))
    assert all(p.requires_grad for p in model.parameters())
    model.train()
    losses = losses_of(model)
    sum(value.sum() for key, value in losses.items() if 'loss' in key).backward()
    (calibration,) = calibrations_of(model).values()
    assert calibration.margin.grad.any()
    assert model.backbone.layer1[0].conv1.weight.grad.any()


@pytest.mark.parametrize('head', HEADS)
def test_amp_on_the_cpu_trains_and_predicts(head: str) -> None:
    _, model = build_pair(head)
    wrapper = build_optim_wrapper(
        model, dict(type='CPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    )
    model.train()
    assert model.train_step(batch(), wrapper)['loss'].dtype == torch.float32
    (calibration,) = calibrations_of(model).values()
    assert calibration.margin.any()
    with torch.autocast('cpu', torch.bfloat16):
        assert predicted(model).isfinite().all()


def test_losses_that_a_stage_1_config_may_have() -> None:
    """Class weights, Dice beside cross-entropy and OHEM: GRW takes their place in the stage."""
    weighted = dict(SOFTMAX, class_weight=[1.0, 2.0, 1.0, 1.0, 1.0])
    for losses in (weighted, [SOFTMAX, dict(type='DiceLoss')], dict(type='OhemCrossEntropy')):
        cfg = stage2_cfg('SegmenterMaskTransformerHead')
        cfg.decode_head.loss_decode = losses
        assert type(MODELS.build(cfg).decode_head.loss_decode).__name__ == 'GRWCrossEntropyLoss'


def test_the_fit_moves_a_calibration_of_queries_towards_their_classes() -> None:
    """A calibration fitted to the samples predicts their classes with less loss than untouched."""
    _, model = build_pair('Mask2FormerHead')
    collector = SampleCollector(model)
    with torch.no_grad():
        ((name, samples, _),) = collector(batch(), np.random.default_rng(0))
    assert set(np.unique(samples.label)) == set(range(C + 1))
    assert set(samples.weight.round(4)) == {1.0, NO_OBJECT}
    calibration = calibrations_of(model)[name]
    every, weight = np.arange(len(samples)), collector.losses[name].class_weight
    assert weight[C] == 1  # the weight of no object is in that of the samples
    fit = fit_calibration(calibration, samples, every, weight, samples.weight.sum())
    assert fit.after < 0.9 * fit.before
