"""What a stage trains, what it must be given, and that nothing else changes."""

from __future__ import annotations

import copy
from typing import Optional

import pytest
import torch
from fitted import assert_same, collected, counted, learn, of_fit, of_model
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmdisalign.segmentation.collect import SampleCollector

NORM = dict(type='BN')
PRIOR = [50, 30, 15, 4, 1]
BACKBONE = dict(
    type='ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=NORM, norm_eval=False
)
ONE_MAP = dict(in_channels=32, in_index=3, channels=8, num_classes=5, norm_cfg=NORM)
FOUR_MAPS = dict(
    in_channels=[4, 8, 16, 32], in_index=[0, 1, 2, 3], channels=8, num_classes=5, norm_cfg=NORM
)
SOFTMAX = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
HEADS = {
    'FCNHead': ONE_MAP,
    'DepthwiseSeparableASPPHead': dict(ONE_MAP, dilations=(1, 2), c1_in_channels=4, c1_channels=4),
    'UPerHead': dict(FOUR_MAPS, pool_scales=(1, 2)),
    'SegformerHead': FOUR_MAPS,
}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def stage1_cfg(head: str = 'FCNHead') -> ConfigDict:
    return ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32), seg_pad_val=255),
        backbone=BACKBONE,
        decode_head=dict(type=head, **HEADS[head], loss_decode=SOFTMAX),
        auxiliary_head=dict(type='FCNHead', **{**ONE_MAP, 'in_channels': 16, 'in_index': 2}),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def cascade_cfg() -> ConfigDict:
    cfg = stage1_cfg()
    ocr = dict(type='OCRHead', **ONE_MAP, ocr_channels=4, loss_decode=SOFTMAX)
    return ConfigDict(
        cfg, type='CascadeEncoderDecoder', num_stages=2, decode_head=[cfg.decode_head, ocr]
    )


def stage2_cfg(cfg: ConfigDict, **kwargs) -> ConfigDict:
    """What the config fragment makes of a stage-1 config."""
    return ConfigDict(
        copy.deepcopy(cfg), type=f'Calibrated{cfg.type}', **{'class_prior': PRIOR, **kwargs}
    )


def build_pair(cfg: ConfigDict, **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    stage1 = MODELS.build(copy.deepcopy(cfg))
    with torch.no_grad():
        for name, buffer in stage1.named_buffers():
            if 'running' in name:
                buffer.uniform_(0.5, 1.5)
    stage2 = MODELS.build(stage2_cfg(cfg, **kwargs))
    stage2.load_state_dict(stage1.state_dict())
    return stage1.eval(), stage2.eval()


def batch(size: int = 2) -> dict:
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (size, 1, 32, 32))
    labels[:, :, :3] = 255
    metainfo = dict(img_shape=(32, 32), ori_shape=(32, 32), pad_shape=(32, 32))
    return dict(
        inputs=[torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(size)],
        data_samples=[
            SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=metainfo) for label in labels
        ],
    )


def train(model: torch.nn.Module, iterations: int = 3, lr: float = 0.5) -> None:
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=0.1))
    )
    for _ in range(iterations):
        model.train()
        model.train_step(batch(), wrapper)


@pytest.mark.parametrize('head', HEADS)
def test_untouched_stage_2_is_stage_1_bit_for_bit(head: str) -> None:
    stage1, stage2 = build_pair(stage1_cfg(head))
    image = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(stage2(image), stage1(image))


def test_cascade_is_calibrated_at_its_last_head() -> None:
    stage1, stage2 = build_pair(cascade_cfg())
    image = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = stage1.encode_decode(image, [dict(img_shape=(64, 48))])
        assert torch.equal(stage2.encode_decode(image, [dict(img_shape=(64, 48))]), expected)
    train(stage2)
    assert stage2.decode_head[1].calibration.magnitude.any()
    assert not hasattr(stage2.decode_head[0], 'calibration')


@pytest.mark.parametrize('cfg', [stage1_cfg(), cascade_cfg()], ids=['plain', 'cascade'])
def test_stage_2_changes_the_calibration_and_not_one_bit_more(cfg: ConfigDict) -> None:
    _, model = build_pair(cfg)
    before = copy.deepcopy(model.state_dict())
    train(model)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if '.calibration.' in key}


def test_only_the_calibration_is_trainable_from_the_moment_it_is_built() -> None:
    model = MODELS.build(stage2_cfg(stage1_cfg()))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if '.calibration.' in name}


def test_what_is_frozen_stays_in_eval_mode() -> None:
    model = MODELS.build(stage2_cfg(stage1_cfg()))
    for switch in (model.train, model.eval, model.train):
        switch()
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {'decode_head.calibration', 'decode_head.calibration.confidence'}


def test_nothing_frozen_takes_part_in_autograd() -> None:
    _, model = build_pair(stage1_cfg())
    graph = []
    for name, module in model.named_modules():
        if 'calibration' not in name and 'loss' not in name and name:
            module.register_forward_hook(
                lambda m, args, out, name=name: graph.append((name, _requires_grad(out)))
            )
    model.train()
    data = model.data_preprocessor(batch(), True)
    model.loss(**data)
    seen = {name for name, _ in graph}
    assert {'backbone', 'decode_head.conv_seg'} <= seen
    assert not any(name.startswith('auxiliary_head') for name in seen)
    # What the calibrated layer returns is calibrated; its own weight is frozen.
    assert [name for name, requires_grad in graph if requires_grad] == ['decode_head.conv_seg']


def _requires_grad(out) -> bool:
    tensors = out if isinstance(out, (tuple, list)) else [out]
    return any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)


def test_joint_stage_trains_everything() -> None:
    _, model = build_pair(stage1_cfg(), stage='joint')
    assert all(p.requires_grad for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    train(model, lr=0.01)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert {'backbone.layer4.1.conv2.weight', 'auxiliary_head.conv_seg.weight'} <= changed
    assert {'decode_head.calibration.margin', 'backbone.layer4.1.bn2.running_mean'} <= changed


def test_joint_stage_replaces_softmax_cross_entropy_alone() -> None:
    cfg = stage1_cfg()
    cfg.decode_head.loss_decode = [dict(SOFTMAX, loss_weight=0.4), dict(type='DiceLoss')]
    joint = MODELS.build(stage2_cfg(cfg, stage='joint'))
    kinds = [type(loss).__name__ for loss in joint.decode_head.loss_decode]
    assert kinds == ['GRWCrossEntropyLoss', 'DiceLoss']
    assert joint.decode_head.loss_decode[0].loss_weight == 0.4
    alone = MODELS.build(stage2_cfg(cfg))
    assert type(alone.decode_head.loss_decode).__name__ == 'GRWCrossEntropyLoss'


def test_joint_stage_does_not_leave_a_prior_unused() -> None:
    cfg = stage1_cfg()
    cfg.decode_head.loss_decode = dict(type='OhemCrossEntropy')
    with pytest.raises(ValueError, match='but the losses are OhemCrossEntropy'):
        MODELS.build(stage2_cfg(cfg, stage='joint'))
    cfg.decode_head.loss_decode = dict(SOFTMAX, type='mmseg.CrossEntropyLoss')
    model = MODELS.build(stage2_cfg(cfg, stage='joint'))
    assert type(model.decode_head.loss_decode).__name__ == 'GRWCrossEntropyLoss'


def test_calibration_needs_a_prior_of_the_model_or_of_its_loss() -> None:
    with pytest.raises(ValueError, match='set class_prior on the model'):
        MODELS.build(stage2_cfg(stage1_cfg(), class_prior=None))
    cfg = stage1_cfg()
    cfg.decode_head.loss_decode = dict(
        type='GRWCrossEntropyLoss', class_prior=PRIOR, exp_scale=0.5, normalizer='valid'
    )
    model = MODELS.build(stage2_cfg(cfg, class_prior=None))
    assert model.decode_head.loss_decode.normalizer == 'valid'
    joint = MODELS.build(stage2_cfg(stage1_cfg(), class_prior=None, stage='joint'))
    assert type(joint.decode_head.loss_decode).__name__ == 'CrossEntropyLoss'


def test_classes_that_were_never_seen_are_an_error_unless_said_how_to_weigh_them() -> None:
    with pytest.raises(ValueError, match='zero frequency: class 4'):
        MODELS.build(stage2_cfg(stage1_cfg(), class_prior=[5, 4, 3, 2, 0]))
    options = dict(class_prior=[5, 4, 3, 2, 0], zero_count='ignore')
    model = MODELS.build(stage2_cfg(stage1_cfg(), **options))
    assert model.decode_head.loss_decode.class_weight[4] == 0


def test_a_head_can_be_calibrated_by_its_own_type() -> None:
    cfg = stage1_cfg()
    cfg.decode_head.type = 'DisAlignFCNHead'
    assert type(MODELS.build(stage2_cfg(cfg)).decode_head).__name__ == 'DisAlignFCNHead'


def test_training_without_stage_1_is_refused() -> None:
    model = MODELS.build(stage2_cfg(stage1_cfg()))
    with pytest.raises(RuntimeError, match='no checkpoint was loaded: set load_from'):
        train(model)


def save(tmp_path, state_dict: dict) -> str:
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict=state_dict), path)
    return str(path)


def test_stock_checkpoint_loads_through_mmengine(tmp_path) -> None:
    stage1, stage2 = build_pair(stage1_cfg())
    load_checkpoint(stage2, save(tmp_path, stage1.state_dict()))
    load_checkpoint(stage2, save(tmp_path, stage2.state_dict()))


def test_stock_checkpoint_loads_below_a_wrapper() -> None:
    stage1, stage2 = build_pair(stage1_cfg())
    wrapper = torch.nn.ModuleDict({'module': stage2})
    wrapper.load_state_dict({f'module.{key}': v for key, v in stage1.state_dict().items()})
    with pytest.raises(RuntimeError, match=r'missing from the checkpoint: module\.auxiliary'):
        wrapper.load_state_dict({})


def break_missing(state: dict) -> None:
    del state['backbone.layer3.0.conv1.weight']


def break_unexpected(state: dict) -> None:
    state['neck.lateral.weight'] = torch.zeros(1)


def break_shape(state: dict) -> None:
    state['decode_head.conv_seg.weight'] = torch.zeros(19, 8, 1, 1)


def break_calibration(state: dict) -> None:
    state['decode_head.calibration.margin'] = torch.zeros(5)


@pytest.mark.parametrize(
    ('breaks', 'message'),
    [
        (break_missing, r'missing from the checkpoint: backbone\.layer3\.0\.conv1\.weight'),
        (break_unexpected, r'unknown to the model: neck\.lateral\.weight'),
        (break_shape, r'has 19 classes, the config 5; .*decode_head\.conv_seg\.weight'),
        (break_calibration, r'missing .*calibration\.confidence\.bias.*calibration\.magnitude'),
    ],
)
@pytest.mark.parametrize('through', ['mmengine', 'pytorch'])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, breaks, message, through) -> None:
    stage1, stage2 = build_pair(stage1_cfg())
    state = dict(stage1.state_dict())
    breaks(state)
    with pytest.raises(RuntimeError, match=message):
        if through == 'mmengine':
            load_checkpoint(stage2, save(tmp_path, state))
        else:
            stage2.load_state_dict(state, strict=False)


def test_plain_segmentor_refuses_a_cascade_and_says_what_to_use() -> None:
    cfg = cascade_cfg()
    del cfg.num_stages
    with pytest.raises(TypeError, match=r'cascade, write type=.*Calibrated\{_base_\.model\.type\}'):
        MODELS.build(ConfigDict(cfg, type='CalibratedEncoderDecoder', class_prior=PRIOR))


def test_bad_stage_and_unknown_head_are_named() -> None:
    with pytest.raises(ValueError, match="'stage2'"):
        MODELS.build(stage2_cfg(stage1_cfg(), stage='stage2'))
    cfg = stage1_cfg()
    cfg.decode_head.type = 'FnHead'
    with pytest.raises(Exception, match='FnHead'):
        MODELS.build(stage2_cfg(cfg))
    cfg.decode_head.type = 'SideAdapterCLIPHead'
    with pytest.raises(TypeError, match='SideAdapterCLIPHead cannot be calibrated'):
        MODELS.build(stage2_cfg(cfg))


def test_amp_on_the_cpu_trains_the_calibration() -> None:
    _, model = build_pair(stage1_cfg())
    wrapper = build_optim_wrapper(
        model, dict(type='CPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    )
    model.train()
    losses = model.train_step(batch(), wrapper)
    assert losses['loss'].dtype == torch.float32
    assert model.decode_head.calibration.margin.any()


def test_the_lines_of_segmentation_over_a_detector_are_told_from_those_that_it_takes() -> None:
    with pytest.raises(TypeError, match=r'a detector takes disalign_det\.py'):
        MODELS.build(dict(type='CalibratedEncoderDecoder', backbone=dict(), bbox_head=dict()))


@pytest.mark.parametrize('thresh', [None, 0.3])
def test_one_pass_chooses_the_hardest_pixels_as_training_does(
    thresh: Optional[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmdisalign.segmentation.collect.MOST_OF_A_CLASS', 10**6)
    cfg = stage1_cfg('SegformerHead')
    cfg.decode_head.sampler = dict(type='OHEMPixelSampler', thresh=thresh, min_kept=200)
    _, model = build_pair(cfg)
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    collector, data = SampleCollector(model), batch(1)
    samples, elements = collected(collector, data)
    untouched = counted(model, collector, samples)
    learn(model)
    # Of the 200 and more, others are the hardest then.
    assert (counted(model, collector, samples) != untouched).sum() > 20
    expected = of_model(model, data)
    assert_same(of_fit(model, collector, samples, elements), expected)
    with torch.no_grad():
        number, _, after = collector.full_losses(
            data, collector.losses[collector.name].class_weight
        )
    assert after / elements[collector.name] == pytest.approx(expected[0], rel=1e-5)  # another order
    assert number == 32 * 32 - 3 * 32
