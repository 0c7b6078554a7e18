"""What one pass fits to is what stage 2 trains with, for each family of mmdet's losses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fitted import assert_same, collected, counted, learn, of_fit, of_model
from mmdet.models.necks.ssd_neck import L2Norm
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmdisalign.detection import calibrated_model, collect_layers, fitted_losses
from mmdisalign.detection.collect import SampleCollector
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.fitting import Samples
from mmdisalign.onepass.one_pass import OnePass

PRIOR = [50, 30, 15, 4, 1]
BACKBONE = dict(type='ResNet', depth=18, base_channels=8, init_cfg=None)
FPN = dict(in_channels=[8, 16, 32, 64], out_channels=16)
HEAD = dict(num_classes=5, in_channels=16, feat_channels=32)
GROUPS = dict(type='GN', num_groups=8)
STRIDES = [8, 16, 32, 64, 128]
SSD = dict(
    _delete_=True,
    type='SSDHead',
    num_classes=5,
    in_channels=[16] * 5,
    anchor_generator=dict(
        type='SSDAnchorGenerator',
        scale_major=False,
        min_sizes=[16, 32, 48, 64, 80],
        max_sizes=[32, 48, 64, 80, 96],
        strides=STRIDES,
        ratios=[[2]] * 5,
    ),
)
SSD_NECK = dict(
    type='SSDNeck', level_strides=(2, 2, 2), level_paddings=(1, 1, 1), in_channels=(16, 32)
)


def two_stage(loss: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Mask R-CNN with a loss."""
    bbox_head = dict(num_classes=5, in_channels=16, fc_out_channels=16)
    return (
        'seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py',
        dict(
            backbone=BACKBONE,
            neck=FPN,
            rpn_head=dict(in_channels=16, feat_channels=16),
            roi_head=dict(
                bbox_roi_extractor=dict(out_channels=16),
                bbox_head=dict(bbox_head, loss_cls=dict(loss, _delete_=True)),
                mask_roi_extractor=dict(out_channels=16),
                mask_head=dict(num_classes=5, in_channels=16, conv_out_channels=8),
            ),
        ),
    )


# A stock config, and what makes it small.
FAMILIES = {
    'SSD': (
        'ssd/ssd300_coco.py',
        dict(
            backbone=dict(BACKBONE, _delete_=True, out_indices=(1, 2)),
            neck=dict(SSD_NECK, _delete_=True, out_channels=(16, 32, 16, 16, 16)),
            bbox_head=dict(SSD, in_channels=[16, 32, 16, 16, 16]),
        ),
    ),
    'SSD, all levels alike': (
        'ssd/ssd300_coco.py',
        dict(
            backbone=dict(BACKBONE, _delete_=True, out_indices=(0, 1, 2, 3)),
            neck=dict(FPN, type='FPN', _delete_=True, start_level=1, num_outs=5),
            bbox_head=SSD,
        ),
    ),
    'PISA': (
        'pisa/ssd300_pisa_coco.py',
        dict(
            backbone=dict(BACKBONE, _delete_=True, out_indices=(0, 1, 2, 3)),
            neck=dict(FPN, type='FPN', _delete_=True, start_level=1, num_outs=5),
            bbox_head=dict(SSD, type='PISASSDHead'),
        ),
    ),
    'YOLACT': (
        'yolact/yolact_r50_1xb8-55e_coco.py',
        dict(
            backbone=BACKBONE,
            neck=FPN,
            bbox_head=dict(HEAD, num_protos=4),
            mask_head=dict(
                in_channels=16,
                num_protos=4,
                num_classes=5,
                proto_channels=(8, 8, 8, None, 8, 4),
            ),
        ),
    ),
    'TOOD': (
        'tood/tood_r50_fpn_1x_coco.py',
        dict(backbone=BACKBONE, neck=FPN, bbox_head=dict(HEAD, stacked_convs=2, norm_cfg=GROUPS)),
    ),
    'TOOD with anchors': (
        'tood/tood_r50_fpn_anchor-based_1x_coco.py',
        dict(backbone=BACKBONE, neck=FPN, bbox_head=dict(HEAD, stacked_convs=2, norm_cfg=GROUPS)),
    ),
    'YOLOF': (
        'yolof/yolof_r50-c5_8xb8-1x_coco.py',
        dict(
            backbone=dict(BACKBONE, style='pytorch'),
            neck=dict(in_channels=64, out_channels=16, block_mid_channels=8),
            bbox_head=dict(num_classes=5, in_channels=16),
        ),
    ),
    'Seesaw': two_stage(dict(type='SeesawLoss', num_classes=5)),
    'Seesaw, PCB': two_stage(dict(type='SeesawPCBLoss', num_classes=5)),
    'IIF': two_stage(dict(type='IIFLoss', class_prior=PRIOR)),
    'PCB': two_stage(dict(type='PCBLoss', num_classes=5)),
    'SEQL': two_stage(dict(type='SoftmaxEQLLoss', class_prior=PRIOR, num_images=100, lambda_=0.1)),
    'CenterNet': (
        'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
        dict(
            backbone=BACKBONE,
            neck=dict(in_channels=64, num_deconv_filters=(16, 16, 16)),
            bbox_head=HEAD,
        ),
    ),
    'CenterNet of many levels': (
        'centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py',
        dict(backbone=BACKBONE, neck=FPN, bbox_head=dict(HEAD, stacked_convs=1, norm_cfg=GROUPS)),
    ),
    'CornerNet': (
        'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
        dict(
            backbone=dict(
                downsample_times=2,
                num_stacks=1,
                stage_channels=[16] * 3,
                stage_blocks=[1] * 3,
                feat_channel=16,
            ),
            bbox_head=dict(num_classes=5, in_channels=16, num_feat_levels=1),
        ),
    ),
}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


@pytest.fixture(autouse=True)
def every_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_layers, 'NEGATIVES', 10**9)


def stage2(family: str) -> nn.Module:
    name, smaller = FAMILIES[family]
    cfg = get_config(f'mmdet::{name}')
    cfg.merge_from_dict(dict(model=copy.deepcopy(smaller)))
    cfg.model.data_preprocessor.batch_augments = None
    torch.manual_seed(0)
    options = dict(type=calibrated_model(cfg.model), class_prior=PRIOR, exp_scale=0.7)
    model = MODELS.build(ConfigDict({**cfg.model, **options})).eval()
    for module in model.modules():
        if isinstance(module, L2Norm):  # it begins with what is in memory
            nn.init.constant_(module.weight, 20)
    settle(model)
    state = model.state_dict()
    for found in model._heads:
        for name in found.layers:  # scores that differ
            torch.nn.init.normal_(state[f'{name}.weight'], std=0.3)
    seesaw = [name for name in state if name.endswith('cum_samples')]
    state.update({name: torch.tensor([900.0, 300, 40, 5, 1, 9000]) for name in seesaw})
    model.load_state_dict({k: v for k, v in state.items() if 'calibration.' not in k}, strict=False)
    return model


def settle(model: nn.Module) -> None:
    """Give norms the statistics of an image, so that features are neither nothing nor infinite."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train()
            norm.momentum = 1.0
    with torch.no_grad():
        model.extract_feat(model.data_preprocessor(batch(), True)['inputs'])
    model.eval()


def batch() -> dict:
    torch.manual_seed(2)
    boxes = torch.tensor([[8.0, 8, 72, 80], [40, 20, 120, 110], [62, 60, 90, 100]])
    masks = np.zeros((3, 128, 128), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    shape = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (128, 128))
    sample = DetDataSample(metainfo=dict(shape, scale_factor=(1.0, 1.0), border=(0, 128, 0, 128)))
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes),
        labels=torch.tensor([0, 3, 1]),
        masks=BitmapMasks(masks, 128, 128),
    )
    sample.ignored_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.long)
    )
    return dict(inputs=[torch.randint(0, 255, (3, 128, 128)).byte()], data_samples=[sample])


# Elements and their labels do not depend on the scores, or those that do are chosen anew.
FREE = [name for name in FAMILIES if name not in ('SSD', 'PISA', 'TOOD', 'TOOD with anchors')]


@pytest.mark.parametrize('family', FREE)
def test_the_fit_to_all_elements_has_the_loss_and_the_gradient_of_the_model(family: str) -> None:
    model = stage2(family)
    collector = SampleCollector(model)
    samples, elements = collected(collector, batch())
    assert_all_labels(samples)
    learn(model)
    assert_same(of_fit(model, collector, samples, elements), of_model(model, batch()))


@pytest.mark.parametrize('family', ['TOOD', 'TOOD with anchors'])
def test_what_the_scores_of_stage_1_assign_is_held(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stage2(family)
    collector, assign = SampleCollector(model), model.bbox_head.get_targets
    assigned = []

    def get_targets(*args: Any, **kwargs: Any) -> Any:
        assigned.append(assign(*args, **kwargs))
        return assigned[0]

    monkeypatch.setattr(model.bbox_head, 'get_targets', get_targets)
    samples, elements = collected(collector, batch())
    assert_all_labels(samples)
    learn(model)
    assert_same(of_fit(model, collector, samples, elements), of_model(model, batch()))


def test_pisa_weighs_its_positives_as_at_the_end_of_stage_1() -> None:
    model = stage2('PISA')
    collector = SampleCollector(model)
    samples, elements = collected(collector, batch())
    (own,) = samples.values()
    positive = own.label < 5
    assert own.weight[positive].std() > 0.1
    loss, gradient = of_fit(model, collector, samples, elements)
    # Its own divisor is the number of positives, not their weight.
    factor = own.weight[positive].sum() / positive.sum()
    assert_same((loss * factor, gradient * factor), of_model(model, batch()))


@pytest.mark.parametrize('family', ['SSD, all levels alike', 'YOLACT'])
def test_the_hardest_negatives_are_chosen_anew(family: str) -> None:
    model = stage2(family)
    collector = SampleCollector(model)
    samples, _ = collected(collector, batch())
    (own,) = samples.values()
    before = counted(model, collector, samples)
    assert before.sum() == pytest.approx(4 * (own.label < 5).sum())  # three for each positive
    learn(model)
    after = counted(model, collector, samples)
    assert after.sum() == pytest.approx(before.sum())
    assert (after != before).sum() > 5


def test_each_level_keeps_its_number_of_the_hardest_negatives() -> None:
    model = stage2('SSD')
    collector = SampleCollector(model)
    samples, elements = collected(collector, batch())
    assert len(samples) == 2
    positives = {name: (own.label < 5).sum() for name, own in samples.items()}
    numbers = {
        name: counted(model, collector, {name: own}).sum() - positives[name]
        for name, own in samples.items()
    }
    assert sum(numbers.values()) == pytest.approx(3 * sum(positives.values()))

    def of_levels() -> tuple[float, Any]:
        """The sum of both, each by itself, over what the head divides by."""
        parts = []
        for name, own in samples.items():
            loss, gradient = of_fit(model, collector, {name: own}, elements)
            share = max(1, positives[name]) / sum(positives.values())
            parts.append((loss * share, gradient * share))
        return sum(loss for loss, _ in parts), sum(gradient for _, gradient in parts)

    assert_same(of_levels(), of_model(model, batch()))
    learn(model)
    # The head chooses from all levels together, which is at least as much.
    found, whole = of_levels()[0], of_model(model, batch())[0]
    assert 0.9 * whole < found <= whole * (1 + 1e-3)


def test_few_of_the_negatives_tell_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stage2('YOLACT')
    collector = SampleCollector(model)
    whole, elements = collected(collector, batch())
    monkeypatch.setattr(collect_layers, 'NEGATIVES', 50)
    few, _ = collected(collector, batch())
    ((name, own),) = few.items()
    positives = (own.label < 5).sum()
    assert len(own) == (1 + 2 * 3) * positives + 50  # twice the hard ones, and 50 of the others
    assert own.weight.sum() == pytest.approx(len(whole[name]))
    learn(model)
    expected = of_fit(model, collector, whole, elements)[0]
    # Those that have become hard are among the 50 or stand for others: an estimate.
    assert of_fit(model, collector, few, elements)[0] == pytest.approx(expected, rel=0.05)


def test_seesaw_trains_with_its_two_losses_alone() -> None:
    model, data = stage2('Seesaw'), batch()
    data = model.data_preprocessor(data, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    found = {name for name in losses if 'loss' in name}
    assert found == {'loss_cls_objectness', 'loss_cls_classes'}


def test_seesaw_is_fitted_to_where_training_would_stay() -> None:
    model = stage2('Seesaw')
    collector = SampleCollector(model)
    samples, elements = collected(collector, batch())
    (name,) = samples
    before = of_fit(model, collector, samples, elements)[1].norm()
    whole = OnePass(collector, samples, elements, None, weight_decay=0.01)
    fit = whole.fit(calibrations_of(model)[name], name, 0.7)
    assert fit.converged and fit.after < fit.before
    _, gradient = of_fit(model, collector, samples, elements)
    parameters = torch.cat([p.flatten() for p in calibrations_of(model)[name].parameters()])
    # A step of 1 along a gradient of 1e-3 changes the loss by 1e-6, the tolerance of the fit.
    assert (gradient + 0.01 * parameters).norm() < 0.01 * before


def test_probabilities_of_seesaw_are_compared() -> None:
    model = stage2('Seesaw')
    loss = next(iter(SampleCollector(model).losses.values()))
    # The class scores are near each other; by objectness, one is an object and one is not.
    scores = torch.tensor([[0.0, 1, 0, 0, 0, 2, -2], [0.0, 1, 0, 0, 0, -2, 2]])
    assert loss.class_scores(scores).argmax(dim=1).tolist() == [1, 5]


def test_what_one_pass_does_not_know_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(fitted_losses.VIEWS, 'YOLOFHead')
    with pytest.raises(ValueError, match='something computed from it'):
        collected(SampleCollector(stage2('YOLOF')), batch())
    model = stage2('YOLACT')
    model.bbox_head.loss_cls = nn.Identity()
    with pytest.raises(ValueError, match='YOLACTHead cannot be fitted in one pass: its loss is'):
        SampleCollector(model)


def test_a_loss_whose_elements_weigh_each_other_is_refused(monkeypatch) -> None:
    ghm = dict(type='GHMC', use_sigmoid=True, _delete_=True)
    name, smaller = FAMILIES['YOLOF']
    smaller = dict(smaller, bbox_head=dict(smaller['bbox_head'], loss_cls=ghm))
    monkeypatch.setitem(FAMILIES, 'YOLOF', (name, smaller))
    with pytest.raises(TypeError, match='YOLOFHead cannot be calibrated: GHMC weighs an element'):
        stage2('YOLOF')


def assert_all_labels(samples: dict[str, Samples]) -> None:
    """There are elements of a class, and of none."""
    label = np.concatenate([own.label for own in samples.values()])
    assert (label < 5).any() and (label == 5).any()
