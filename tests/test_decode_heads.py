"""Every mmseg head that classifies through cls_seg, calibrated without a line of its forward."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models import decode_heads
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmdisalign.segmentation import CalibratedHeadMixin, calibrated
from mmdisalign.segmentation import decode_heads as calibrated_heads

NORM = dict(type='BN')
ONE_MAP = dict(in_channels=16, in_index=0, channels=8)
FOUR_MAPS = dict(in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=8)

HEADS = {
    'ANNHead': dict(
        in_channels=[16, 16], in_index=[0, 1], channels=8, project_channels=8,
        query_scales=(1,), key_pool_scales=(1, 3),
    ),
    'APCHead': dict(**ONE_MAP, pool_scales=(1, 2), fusion=True),
    'ASPPHead': dict(**ONE_MAP, dilations=(1, 2)),
    'CCHead': dict(**ONE_MAP, recurrence=1),
    'DAHead': dict(**ONE_MAP, pam_channels=4),
    'DDRHead': dict(in_channels=16, channels=8),
    'DepthwiseSeparableASPPHead': dict(
        **ONE_MAP, dilations=(1, 2), c1_in_channels=16, c1_channels=4
    ),
    'DepthwiseSeparableFCNHead': dict(**ONE_MAP, num_convs=1, concat_input=False),
    'DMHead': dict(**ONE_MAP, filter_sizes=(1, 3), fusion=True),
    'DNLHead': dict(**ONE_MAP, reduction=2, use_scale=True),
    'DPTHead': dict(
        **FOUR_MAPS, input_transform='multiple_select', embed_dims=16,
        post_process_channels=[4] * 4, readout_type='project',
    ),
    'EMAHead': dict(**ONE_MAP, ema_channels=8, num_bases=4, num_stages=1),
    'EncHead': dict(
        **FOUR_MAPS, num_codes=4, use_se_loss=True,
        loss_se_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
    'FCNHead': dict(**ONE_MAP, num_convs=1),
    'FPNHead': dict(**FOUR_MAPS, feature_strides=[4, 4, 4, 4]),
    'GCHead': dict(**ONE_MAP, ratio=0.5),
    'LightHamHead': dict(
        **FOUR_MAPS, ham_channels=8,
        ham_kwargs=dict(MD_S=1, MD_R=4, train_steps=1, eval_steps=1, inv_t=100, rand_init=False),
    ),
    'ISAHead': dict(**ONE_MAP, isa_channels=8, down_factor=(4, 4)),
    'LRASPPHead': dict(
        in_channels=(16, 16, 16), in_index=(0, 1, 2), channels=8, branch_channels=(4, 4),
        input_transform='multiple_select',
    ),
    'NLHead': dict(**ONE_MAP, reduction=2),
    'OCRHead': dict(**ONE_MAP, ocr_channels=4),
    'PIDHead': dict(in_channels=16, channels=8),
    'PSAHead': dict(**ONE_MAP, mask_size=(7, 7)),
    'PSPHead': dict(**ONE_MAP, pool_scales=(1, 2)),
    'SegformerHead': dict(**FOUR_MAPS),
    'SETRMLAHead': dict(**FOUR_MAPS, mla_channels=2),
    'SETRUPHead': dict(**ONE_MAP, num_convs=1),
    'UPerHead': dict(**FOUR_MAPS, pool_scales=(1, 2)),
}  # fmt: skip
# calibrated() takes it, but no name is kept for it: in mmseg's configs it is an auxiliary head.
UNNAMED = {'STDCHead': dict(**ONE_MAP, num_convs=1)}
GRW = dict(type='GRWCrossEntropyLoss', class_prior=[50, 30, 15, 4, 1], exp_scale=0.5)


def build_pair(name: str, **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A stage-1 head, and its calibrated head with the same weights, both in eval mode."""
    torch.manual_seed(0)
    cls = getattr(decode_heads, name)
    options = dict({**HEADS, **UNNAMED}[name], num_classes=5, norm_cfg=NORM)
    head = cls(**options)
    stage2 = calibrated(cls)(**{**options, 'loss_decode': GRW, **kwargs})
    missing, unexpected = stage2.load_state_dict(head.state_dict(), strict=False)
    assert all(key.startswith('calibration.') for key in missing)
    assert not unexpected
    return head.eval(), stage2.eval()


def inputs_of(name: str) -> tuple:
    torch.manual_seed(1)
    # LRASPPHead pools over 49 positions.
    size = 64 if name == 'LRASPPHead' else 16
    maps = [torch.randn(2, 16, size, size) for _ in range(4)]
    if name in ('DDRHead', 'PIDHead'):
        return (maps[0],)
    if name == 'OCRHead':
        return maps, torch.randn(2, 5, 16, 16)
    if name == 'DPTHead':  # each map of a ViT comes with its class token
        return ([(one, torch.randn(2, 16)) for one in maps],)
    return (maps,)


def main_output(outputs) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def samples() -> list[SegDataSample]:
    label = torch.randint(0, 5, (2, 1, 32, 32))
    label[:, :, :4] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in label]


@pytest.mark.parametrize('name', [*HEADS, *UNNAMED])
def test_untouched_calibration_is_the_stage_1_head_bit_for_bit(name: str) -> None:
    head, stage2 = build_pair(name)
    with torch.no_grad():
        expected, out = head(*inputs_of(name)), stage2(*inputs_of(name))
    assert torch.equal(main_output(out), main_output(expected))


def test_no_head_that_is_served_is_left_out_of_these_tests() -> None:
    served = {name for name in vars(calibrated_heads) if name.startswith('DisAlign')}
    tested = {calibrated(getattr(decode_heads, name)) for name in HEADS}
    assert served == {cls.__name__ for cls in tested}
    assert tested == {getattr(calibrated_heads, name) for name in served}
    assert {name for name in decode_heads.__all__ if _takes(name)} == {*HEADS, *UNNAMED}


def _takes(name: str) -> bool:
    try:
        return bool(calibrated(getattr(decode_heads, name)))
    except TypeError:
        return False


@pytest.mark.parametrize('name', HEADS)
def test_calibration_loss_trains_the_calibration_of_every_head(name: str) -> None:
    _, head = build_pair(name)
    head.requires_grad_(False)
    head.calibration.requires_grad_(True)
    losses = head.calibration_loss(*inputs_of(name), batch_data_samples=samples())
    losses['loss_grw'].backward()
    trained = {n for n, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    # At the identity, alpha = beta = 0, no gradient reaches the confidence yet.
    assert trained == {'calibration.magnitude', 'calibration.margin'}


def test_what_a_hook_keeps_of_the_calibration_is_not_overwritten() -> None:
    _, head = build_pair('FCNHead')
    kept = []
    with torch.no_grad():
        head.calibration.margin.normal_()
        without = head(*inputs_of('FCNHead'))
        head.calibration.register_forward_hook(lambda module, args, out: kept.extend(args))
        out = head(*inputs_of('FCNHead'))
        scores, features = kept
        assert torch.equal(scores, torch.nn.Conv2d.forward(head.conv_seg, features))
    # One float32 rounding of a product may differ.
    torch.testing.assert_close(out, without, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['FCNHead', 'UPerHead', 'SegformerHead', 'OCRHead'])
def test_calibrated_scores_follow_the_formula(name: str) -> None:
    head, stage2 = build_pair(name)
    features = []
    stage2.conv_seg.register_forward_hook(lambda module, args, out: features.append(args[0]))
    with torch.no_grad():
        for parameter in stage2.calibration.parameters():
            parameter.normal_()
        z, out = head(*inputs_of(name)), stage2(*inputs_of(name))
    own = stage2.calibration
    weight, bias = own.confidence.weight.view(1, -1, 1, 1), own.confidence.bias
    sigma = ((features[0] * weight).sum(1, keepdim=True) + bias).sigmoid()
    alpha, beta = own.magnitude.view(1, -1, 1, 1), own.margin.view(1, -1, 1, 1)
    # 1e-5: the sum over 8 to 32 channels in float32, in another order.
    torch.testing.assert_close(out, (1 + sigma * alpha) * z + sigma * beta, rtol=1e-5, atol=1e-5)


def test_heads_are_registered_under_their_names() -> None:
    for name in HEADS:
        short = 'HamHead' if name == 'LightHamHead' else name
        assert MODELS.get(f'DisAlign{short}') is calibrated(getattr(decode_heads, name))


def test_a_calibrated_class_stays_as_it_is() -> None:
    cls = calibrated(decode_heads.FCNHead)
    assert calibrated(cls) is cls
    assert issubclass(cls, CalibratedHeadMixin)


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('PointHead', "replaces 'cls_seg'"),
        ('SegmenterMaskTransformerHead', "never calls 'cls_seg'"),
        ('VPDDepthHead', "never calls 'cls_seg'"),
        ('MaskFormerHead', 'not an mmseg BaseDecodeHead'),
        ('Mask2FormerHead', 'not an mmseg BaseDecodeHead'),
        ('SideAdapterCLIPHead', "never calls 'cls_seg'"),
        ('IterativeDecodeHead', "another head's 'cls_seg'"),
    ],
)
def test_other_heads_are_refused_by_name_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(TypeError, match=f'^{name} cannot be calibrated: .*{reason}'):
        calibrated(getattr(decode_heads, name))


def test_a_binary_head_is_refused() -> None:
    with pytest.raises(TypeError, match=r'FCNHead cannot be calibrated: .*single output'):
        calibrated(decode_heads.FCNHead)(
            **ONE_MAP, num_classes=2, out_channels=1, threshold=0.5, norm_cfg=NORM
        )


def test_a_prior_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r'has 3 classes, but the decode head has num_classes=5'):
        build_pair('FCNHead', loss_decode=dict(GRW, class_prior=[1, 2, 3]))


class ReleasedFCNHead(decode_heads.FCNHead):
    """What the released segmentation code computes, on today's FCNHead."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        from mmcv.cnn import ConvModule

        self.logit_scale = torch.nn.Parameter(torch.randn(1, self.num_classes, 1, 1))
        self.logit_bias = torch.nn.Parameter(torch.randn(1, self.num_classes, 1, 1))
        self.confidence_layer = ConvModule(
            self.channels, 1, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg
        )

    def cls_seg(self, feat):
        confidence, z = self.confidence_layer(feat).sigmoid(), super().cls_seg(feat)
        return confidence * (z * self.logit_scale + self.logit_bias) + (1 - confidence) * z


def test_released_checkpoints_load_and_give_the_same_outputs() -> None:
    options = dict(HEADS['FCNHead'], num_classes=5, norm_cfg=NORM)
    released = ReleasedFCNHead(**options)
    for parameter in released.confidence_layer.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    calibration = dict(norm_cfg=NORM, act_cfg=dict(type='ReLU'))
    head = calibrated(decode_heads.FCNHead)(**options, loss_decode=GRW, calibration=calibration)
    head.load_state_dict(released.state_dict())
    with torch.no_grad():
        expected, out = released.eval()(*inputs_of('FCNHead')), head.eval()(*inputs_of('FCNHead'))
    # 1e-5: the same formula in another order of operations.
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
