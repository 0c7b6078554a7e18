"""Calibrated detectors: stage 1 at the start, and nothing but the calibration ever changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads import bbox_heads
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmdisalign.detection  # noqa: F401
from mmdisalign.calibration import CosineLinear
from mmdisalign.detection import bbox_heads as calibrated_heads
from mmdisalign.detection import calibrated, calibrated_classifier, classifiers
from mmdisalign.detection.losses import GRWCrossEntropyLoss
from mmdisalign.detection.roi_heads import calibrated_roi_head

PRIOR = [50, 30, 15, 4, 1]
NAMES = {
    'faster': 'faster-rcnn_r50_fpn.py',
    'mask': 'mask-rcnn_r50_fpn.py',
    'cascade': 'cascade-rcnn_r50_fpn.py',
    'cascade mask': 'cascade-mask-rcnn_r50_fpn.py',
    'cascade htc': '../../htc/htc-without-semantic_r50_fpn_1x_coco.py',
}
ROI = dict(in_channels=4, roi_feat_size=2, num_classes=5)
CLASSIFIERS = ('Linear', 'CosineLinear', 'NormedLinear')
BBOX_HEADS = {
    'BBoxHead': dict(ROI, with_avg_pool=True),
    'ConvFCBBoxHead': dict(ROI, num_shared_fcs=1, num_cls_fcs=1, num_reg_fcs=1, fc_out_channels=8),
    'SCNetBBoxHead': dict(ROI, num_shared_fcs=2, fc_out_channels=8),
    'Shared2FCBBoxHead': dict(ROI, fc_out_channels=8),
    'Shared4Conv1FCBBoxHead': dict(ROI, conv_out_channels=4, fc_out_channels=8),
}
# Those that build their classifier without cls_predictor_cfg, and what their forward takes.
DYNAMIC = dict(type='DynamicConv', in_channels=8, feat_channels=4, out_channels=8)
OWN_CLASSIFIER = {
    'DIIHead': (
        dict(
            num_classes=5,
            num_heads=2,
            in_channels=8,
            feedforward_channels=8,
            dynamic_conv_cfg=dict(DYNAMIC, norm_cfg=dict(type='LN')),
        ),
        [(6, 8, 7, 7), (2, 3, 8)],
    ),
    'DoubleConvFCBBoxHead': (
        dict(ROI, num_convs=1, num_fcs=1, conv_out_channels=8, fc_out_channels=8),
        [(7, 4, 2, 2), (7, 4, 2, 2)],
    ),
    'SABLHead': (
        dict(
            num_classes=5,
            cls_in_channels=4,
            reg_in_channels=4,
            reg_cls_out_channels=4,
            reg_offset_out_channels=4,
        ),
        [(7, 4, 7, 7)],
    ),
}
REFUSED = {'MultiInstanceBBoxHead': dict(ROI, fc_out_channels=8)}


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


def stage1_cfg(name: str) -> ConfigDict:
    """mmdet's own model config, with 5 classes and few channels."""
    root = Path(mmdet.__file__).parent / '.mim/configs/_base_/models'
    model = Config.fromfile(root / NAMES[name]).model
    model.backbone.update(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    roi = model.roi_head
    for key in ('bbox_roi_extractor', 'mask_roi_extractor'):
        if key in roi:
            roi[key].out_channels = 16
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=16, fc_out_channels=32, num_classes=5)
    masks = roi.get('mask_head', [])
    for head in masks if isinstance(masks, list) else [masks]:
        head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=5)
    model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    rcnn = model.train_cfg.rcnn
    for cfg in rcnn if isinstance(rcnn, list) else [rcnn]:
        cfg.sampler.num = 16
    return model


def build_pair(name: str, **kwargs) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    stage1 = MODELS.build(stage1_cfg(name))
    with torch.no_grad():
        for key, buffer in stage1.named_buffers():
            if 'running' in key:
                buffer.uniform_(0.5, 1.5)
    options = dict(class_prior=PRIOR, **kwargs)
    cfg = ConfigDict(stage1_cfg(name), type='CalibratedTwoStageDetector', **options)
    stage2 = MODELS.build(cfg)
    stage2.load_state_dict(stage1.state_dict())
    return stage1.eval(), stage2.eval()


def batch() -> dict:
    torch.manual_seed(1)
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 50]])
        masks = np.zeros((2, 64, 64), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        truth = InstanceData(
            bboxes=HorizontalBoxes(boxes),
            labels=torch.tensor([1, 4]),
            masks=BitmapMasks(masks, 64, 64),
        )
        meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0), img_id=0)
        samples.append(
            DetDataSample(
                gt_instances=truth,
                ignored_instances=InstanceData(
                    bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0).long()
                ),
                metainfo=meta,
            )
        )
    images = [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def train(model: torch.nn.Module, lr: float = 0.5) -> dict:
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=0.1))
    )
    for _ in range(2):
        model.train()
        log = model.train_step(batch(), wrapper)
    return log


@pytest.mark.parametrize('name', NAMES)
def test_untouched_stage_2_is_stage_1_bit_for_bit(name: str) -> None:
    stage1, stage2 = build_pair(name)
    data = stage1.data_preprocessor(batch(), False)
    with torch.no_grad():
        expected, out = (
            model.predict(data['inputs'], copy.deepcopy(data['data_samples']), rescale=False)
            for model in (stage1, stage2)
        )
    for one, other in zip(expected, out):
        assert len(one.pred_instances) > 0
        for key in one.pred_instances.all_keys():
            assert torch.equal(one.pred_instances[key], other.pred_instances[key])


@pytest.mark.parametrize('name', NAMES)
def test_stage_2_changes_the_calibration_and_not_one_bit_more(name: str) -> None:
    _, model = build_pair(name)
    before = copy.deepcopy(model.state_dict())
    train(model)
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {k for k in before if '.calibration.' in k}
    stages = 3 if name.startswith('cascade') else 1
    assert len(changed) == 4 * stages


@pytest.mark.parametrize('name', NAMES)
def test_stage_2_computes_classification_alone(name: str) -> None:
    _, model = build_pair(name)
    ran = []
    for key, module in model.named_modules():
        if 'mask_head' in key or 'loss' in key:
            module.register_forward_hook(lambda m, args, out, key=key: ran.append(key))
    log = train(model)
    assert {key.split('.')[-1] for key in log} == {'loss', 'loss_cls', 'acc'}
    assert ran
    assert all(key.endswith('loss_cls') and 'rpn' not in key for key in ran)
    # Testing still has masks.
    assert model.eval().roi_head.with_mask is (name in ('mask', 'cascade mask', 'cascade htc'))


@MODELS.register_module()
class OtherTermsHead(bbox_heads.Shared2FCBBoxHead):
    """Its terms have names of its own."""

    def loss(self, *args, **kwargs) -> dict:
        losses = super().loss(*args, **kwargs)
        return {'loss_of_what': losses['loss_cls'], 'loss_cls_of_boxes': losses['loss_bbox']}


def test_of_a_loss_the_terms_that_the_calibration_can_change_remain() -> None:
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head.type = 'OtherTermsHead'
    model = MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', class_prior=PRIOR))
    model.load_state_dict(MODELS.build(cfg).state_dict())
    assert set(train(model)) == {'loss', 'loss_of_what'}


def test_what_is_frozen_stays_in_eval_mode_and_out_of_autograd() -> None:
    _, model = build_pair('mask')
    graph = []
    for key, module in model.named_modules():
        if key and 'calibration' not in key and 'loss' not in key and not key.endswith('fc_cls'):
            module.register_forward_hook(
                lambda m, args, out, key=key: graph.append((key, _requires_grad(out)))
            )
    model.train()
    training = {key for key, module in model.named_modules() if module.training}
    assert training and all('calibration' in key for key in training)
    data = model.data_preprocessor(batch(), True)
    model.loss(data['inputs'], data['data_samples'])
    assert {'backbone', 'rpn_head.rpn_cls', 'roi_head.bbox_head.fc_reg'} <= {k for k, _ in graph}
    # The bbox head itself returns the calibrated scores.
    assert {key for key, grad in graph if grad} <= {'roi_head.bbox_head'}


def _requires_grad(out) -> bool:
    tensors = out if isinstance(out, (tuple, list)) else [out]
    return any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)


def test_joint_stage_trains_everything() -> None:
    _, model = build_pair('mask', stage='joint')
    assert {'loss_rpn_cls', 'loss_cls', 'loss_bbox', 'loss_mask'} <= set(train(model, lr=1e-4))
    assert all(p.requires_grad for n, p in model.named_parameters() if 'calibration' in n)


@pytest.mark.parametrize('name', [name for name in NAMES if 'cascade' in name])
def test_each_stage_of_a_cascade_gets_the_boxes_that_the_one_before_refined(name: str) -> None:
    _, model = build_pair(name)
    refined = []

    def counted(refine_bboxes: Callable) -> Callable:
        return lambda *args, **kwargs: refined.append(1) or refine_bboxes(*args, **kwargs)

    for head in model.roi_head.bbox_head:
        head.refine_bboxes = counted(head.refine_bboxes)
    train(model)
    assert len(refined) == 2 * 2  # before the second and the third stage, in two iterations


# mmdet's own HTC fails without a proposal, as soon as its mask branch does not refine the boxes.
@pytest.mark.parametrize('name', [name for name in NAMES if name != 'cascade htc'])
def test_without_a_proposal_every_calibration_still_has_a_gradient_for_ddp(name: str) -> None:
    _, model = build_pair(name)
    model._proposals = lambda features, samples: [
        InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
        for _ in samples
    ]
    data = model.train().data_preprocessor(batch(), True)
    for sample in data['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = model.loss(data['inputs'], data['data_samples'])
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and not p.grad.any() for p in trained)


def test_no_proposals_forward_and_backward() -> None:
    for cls in (calibrated_classifier(torch.nn.Linear), calibrated_classifier(CosineLinear)):
        classifier = cls(7, 6)
        out = classifier(torch.zeros(0, 7))
        assert out.shape == (0, 6)
        out.sum().backward()
        assert not classifier.calibration.magnitude.grad.any()


def test_bbox_head_without_proposals_has_a_loss() -> None:
    _, model = build_pair('faster')
    head = model.roi_head.bbox_head
    scores = head.fc_cls(torch.zeros(0, 32))
    empty = torch.zeros(0)
    losses = head.loss(scores, None, torch.zeros(0, 5), empty.long(), empty, empty, empty)
    losses['loss_cls'].backward()
    assert losses['loss_cls'] == 0


@pytest.mark.parametrize('kind', ['Linear', 'CosineLinear', 'NormedLinear'])
def test_background_passes_through(kind: str) -> None:
    cls = calibrated_classifier(MODELS.get(kind))
    base, classifier = MODELS.get(kind)(7, 6), cls(7, 6)
    missing, unexpected = classifier.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith('calibration.') for key in missing)
    with torch.no_grad():
        for parameter in classifier.calibration.parameters():
            parameter.normal_()
        x = torch.randn(4, 7)
        z, out = base(x), classifier(x)
    own = classifier.calibration
    sigma = own.confidence(x).sigmoid()
    expected = (1 + sigma * own.magnitude) * z[:, :5] + sigma * own.margin
    torch.testing.assert_close(out[:, :5], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(out[:, 5], z[:, 5])


def test_cosine_scores_are_scaled_cosines() -> None:
    classifier = CosineLinear(3, 2, scale=20)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[2.0, 0, 0], [0, 3, 0]]))
        assert classifier(torch.tensor([[5.0, 0, 0]])).tolist() == [[20, 0]]


def test_grw_loss_of_a_bbox_head_by_hand() -> None:
    # Weights 0.4 and 1.6 for the foreground (see test_losses), 1 for background.
    loss = MODELS.build(dict(type='GRWCrossEntropyLoss', class_prior=[4, 1], exp_scale=1.0))
    assert loss.class_weight.tolist() == pytest.approx([0.4, 1.6, 1])
    scores, labels = torch.zeros(4, 3), torch.tensor([1, 1, 0, 2])
    scores[1, 1] = 2.0
    label_weights = torch.tensor([1.0, 0.5, 1, 0])
    equal, other = math.log(3), math.log(2 + math.exp(2)) - 2
    # The last proposal does not count; the second counts half.
    total = 1.6 * equal + 0.5 * 1.6 * other + 0.4 * equal
    value = loss(scores, labels, label_weights, avg_factor=3)
    assert value == pytest.approx(total / (1.6 + 0.5 * 1.6 + 0.4))
    by_count = MODELS.build(
        dict(type='GRWCrossEntropyLoss', class_prior=[4, 1], exp_scale=1.0, normalizer='valid')
    )
    assert by_count(scores, labels, label_weights, avg_factor=3) == pytest.approx(total / 3)


@pytest.mark.parametrize('kind', ['CrossEntropyLoss', 'mmdet.CrossEntropyLoss', CrossEntropyLoss])
def test_softmax_cross_entropy_becomes_grw_however_it_is_named(kind) -> None:
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head.loss_cls = dict(type=kind, use_sigmoid=False, loss_weight=2.0)
    options = dict(class_prior=PRIOR, exp_scale=0.5, normalizer='valid')
    model = MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', **options))
    loss = model.roi_head.bbox_head.loss_cls
    assert isinstance(loss, GRWCrossEntropyLoss)
    assert (loss.exp_scale, loss.normalizer, loss.loss_weight) == (0.5, 'valid', 2.0)


@pytest.mark.parametrize(
    ('loss', 'message'),
    [
        (dict(type='FocalLoss'), 'FocalLoss on sigmoids has a background of its own'),
        (
            dict(type='CrossEntropyLoss', use_sigmoid=True),
            'on sigmoids has a background of its own',
        ),
        (
            dict(type='GRWCrossEntropyLoss', class_prior=PRIOR, exp_scale=0.5),
            'GRWCrossEntropyLoss, has a class_prior of its own: leave that of the model out',
        ),
    ],
)
def test_a_loss_that_the_prior_cannot_weigh_is_an_error(loss: dict, message: str) -> None:
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head.loss_cls = loss
    with pytest.raises((TypeError, ValueError), match=message):
        MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', class_prior=PRIOR))


def test_a_loss_with_class_weights_keeps_them() -> None:
    cfg = stage1_cfg('faster')
    own = [1.0, 2, 3, 4, 5, 0.5]
    cfg.roi_head.bbox_head.loss_cls = dict(type='CrossEntropyLoss', class_weight=own)
    model = MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', class_prior=PRIOR))
    grw = GRWCrossEntropyLoss(PRIOR, 0.8).class_weight
    scores, labels = torch.randn(6, 6), torch.arange(6)
    loss = model.roi_head.bbox_head.loss_cls(scores, labels, torch.ones(6), avg_factor=6)
    each = torch.nn.functional.cross_entropy(scores, labels, reduction='none')
    torch.testing.assert_close(loss, (each * grw * torch.tensor(own)).sum() / 6)


@pytest.mark.parametrize('name', ['faster', 'cascade'])
def test_checkpoints_of_earlier_versions_load(name: str) -> None:
    stage1, model = build_pair(name)
    heads = {'faster': ['bbox_head']}.get(name, [f'bbox_head.{stage}' for stage in range(3)])
    state = stage1.state_dict()
    for head in heads:
        own = f'roi_head.{head}.fc_cls.calibration.'
        state |= {f'{own}magnitude': torch.randn(5), f'{own}margin': torch.randn(5)}
        state |= {
            f'{own}confidence.weight': torch.randn(1, 32),
            f'{own}confidence.bias': torch.zeros(1),
        }
    model.load_state_dict(state)
    x = torch.randn(7, 32)
    for head in heads:
        layer, own = model.get_submodule(f'roi_head.{head}.fc_cls'), f'roi_head.{head}.fc_cls.'
        z = torch.nn.functional.linear(x, layer.weight, layer.bias)
        sigma = (x @ state[f'{own}calibration.confidence.weight'].T).sigmoid()
        alpha, beta = (state[f'{own}calibration.{key}'] for key in ('magnitude', 'margin'))
        torch.testing.assert_close(layer(x)[:, :5], (1 + sigma * alpha) * z[:, :5] + sigma * beta)
        assert torch.equal(layer(x)[:, 5], z[:, 5])


def test_without_class_frequencies_calibration_is_an_error() -> None:
    with pytest.raises(ValueError, match='the calibration stage needs class frequencies'):
        MODELS.build(ConfigDict(stage1_cfg('faster'), type='CalibratedTwoStageDetector'))


def test_a_normalizer_of_a_loss_that_has_none_is_an_error() -> None:
    cfg = ConfigDict(stage1_cfg('faster'), type='CalibratedTwoStageDetector', class_prior=PRIOR)
    cfg.roi_head.bbox_head.loss_cls = dict(type='CrossEntropyLoss', class_weight=[1.0] * 6)
    with pytest.raises(ValueError, match=r"normalizer='valid' is of GRWCrossEntropyLoss"):
        MODELS.build(ConfigDict(cfg, normalizer='valid'))


def test_a_class_without_instances_is_an_error_or_as_zero_count_says() -> None:
    cfg = ConfigDict(stage1_cfg('cascade'), type='CalibratedTwoStageDetector')
    cfg.class_prior = [5, 4, 3, 2, 0]
    with pytest.raises(ValueError, match='zero frequency: class 4'):
        MODELS.build(cfg)
    model = MODELS.build(ConfigDict(cfg, zero_count='ignore'))
    assert model.roi_head.bbox_head[2].loss_cls.class_weight[4] == 0


def head_cfg(**kwargs) -> dict:
    return dict(in_channels=4, fc_out_channels=8, roi_feat_size=2, num_classes=5, **kwargs)


def test_heads_are_registered_under_their_names() -> None:
    for name in ('ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead'):
        assert MODELS.get(f'DisAlign{name}') is calibrated(MODELS.get(name))


def test_no_bbox_head_of_mmdet_is_left_out_of_these_tests() -> None:
    assert sorted([*BBOX_HEADS, *OWN_CLASSIFIER, *REFUSED]) == sorted(bbox_heads.__all__)
    served = [name for m in (calibrated_heads, classifiers) for name in vars(m)]
    served = {name for name in served if name.startswith('DisAlign')}
    assert served and served <= {f'DisAlign{name}' for name in (*BBOX_HEADS, *CLASSIFIERS)}


@pytest.mark.parametrize('classifier', CLASSIFIERS)
@pytest.mark.parametrize('name', BBOX_HEADS)
def test_untouched_bbox_head_scores_as_stage_1_bit_for_bit(name: str, classifier: str) -> None:
    torch.manual_seed(0)
    cls = getattr(bbox_heads, name)
    options = dict(BBOX_HEADS[name], cls_predictor_cfg=dict(type=classifier))
    head, stage2 = cls(**options), calibrated(cls)(**options)
    missing, unexpected = stage2.load_state_dict(head.state_dict(), strict=False)
    assert len(missing) == 4 and all(key.startswith('fc_cls.calibration.') for key in missing)
    assert not unexpected
    rois = torch.randn(7, 4, 2, 2)
    with torch.no_grad():
        expected, out = head.eval()(rois), stage2.eval()(rois)
    assert out[0].shape == (7, 6)
    for one, other in zip(out, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize('name', OWN_CLASSIFIER)
def test_a_bbox_head_with_a_classifier_of_its_own_is_calibrated_as_well(name: str) -> None:
    torch.manual_seed(0)
    cls, (options, shapes) = getattr(bbox_heads, name), OWN_CLASSIFIER[name]
    head, stage2 = cls(**options).eval(), calibrated(cls)(**options).eval()
    missing, unexpected = stage2.load_state_dict(head.state_dict(), strict=False)
    assert len(missing) == 4 and all(key.startswith('fc_cls.calibration.') for key in missing)
    assert not unexpected
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.no_grad():
        assert torch.equal(stage2(*inputs)[0], head(*inputs)[0])
        stage2.fc_cls.calibration.margin.fill_(1.0)
        assert not torch.equal(stage2(*inputs)[0], head(*inputs)[0])


# A loss that makes scores of its own besides those of the classes, and how many.
CHANNELS_OF_ITS_OWN = {
    'SeesawLoss': (dict(num_classes=5), 2),
    'BalancedSigmoidLoss': (dict(class_prior=PRIOR), 0),
}


@pytest.mark.parametrize('loss', CHANNELS_OF_ITS_OWN)
def test_what_a_calibrated_detector_takes_a_calibrated_head_takes(loss: str) -> None:
    options, others = CHANNELS_OF_ITS_OWN[loss]
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head.loss_cls = dict(type=loss, **options)
    prior = {} if 'class_prior' in options else dict(class_prior=PRIOR)
    model = MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', **prior))
    cfg.roi_head.bbox_head.type = 'DisAlignShared2FCBBoxHead'
    head = MODELS.build(cfg).roi_head.bbox_head
    with torch.no_grad():
        for parameter in model.roi_head.bbox_head.fc_cls.calibration.parameters():
            parameter.normal_()
    head.load_state_dict(model.roi_head.bbox_head.state_dict())
    assert head.fc_cls.layout == model.roi_head.bbox_head.fc_cls.layout
    assert head.fc_cls.layout.after == others
    rois = torch.randn(7, 16, 7, 7)
    with torch.no_grad():
        assert torch.equal(head(rois)[0], model.roi_head.bbox_head(rois)[0])


@MODELS.register_module()
class TwoLayersHead(bbox_heads.Shared2FCBBoxHead):
    """Classifies by two layers, and mmdisalign does not know which is the last."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        last = self.fc_cls
        self.fc_cls = torch.nn.Sequential(torch.nn.Linear(last.in_features, 9), torch.nn.ReLU())
        self.fc_cls.append(torch.nn.Linear(9, last.out_features))


@MODELS.register_module()
class OtherNameHead(bbox_heads.Shared2FCBBoxHead):
    """Has its classification layer under another name than mmdet's."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.scores = self.fc_cls
        del self.fc_cls

    def forward(self, x) -> tuple:
        for layer in self.shared_fcs:
            x = layer(x.flatten(1)).relu()
        return self.scores(x), self.fc_reg(x)


ADVICE = r"name its classification layers, such as calibrated_layers=\['bbox_head\.conv_cls'\]"
REFUSED_ALIKE = {
    'focal loss': (
        dict(loss_cls=dict(type='FocalLoss')),
        'Shared2FCBBoxHead cannot be calibrated: FocalLoss on sigmoids has a background of its own',
    ),
    'sigmoids': (
        dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True)),
        'Shared2FCBBoxHead cannot be calibrated: CrossEntropyLoss on sigmoids has a background',
    ),
    'GHM': (
        dict(loss_cls=dict(type='GHMC')),
        'Shared2FCBBoxHead cannot be calibrated: GHMC weighs an element by how many others',
    ),
    'weights of its own': (
        dict(loss_cls=dict(type='EQLv2Loss', num_classes=5)),
        'Shared2FCBBoxHead cannot be calibrated: EQLv2Loss weighs the terms of classes itself',
    ),
    'Gumbel': (
        dict(loss_cls=dict(type='GumbelLoss', num_classes=5)),
        'Shared2FCBBoxHead cannot be calibrated: GumbelLoss weighs the terms of classes itself',
    ),
    'a prior of other classes': (
        dict(loss_cls=dict(type='GRWCrossEntropyLoss', class_prior=[2, 1], exp_scale=0.8)),
        'the class prior of GRWCrossEntropyLoss has 2 classes, but the Shared2FCBBoxHead has num_',
    ),
    'a layer with another layout': (
        dict(
            loss_cls=dict(type='SeesawLoss', num_classes=5),
            cls_predictor_cfg=dict(type='DisAlignLinear'),
        ),
        r'fc_cls: it is calibrated as ScoreLayout\(num_classes=6, .* not as .*num_classes=5, ',
    ),
    'several layers': (
        dict(type='TwoLayersHead'),
        f'TwoLayersHead cannot be calibrated: its fc_cls is a Sequential, not .*; {ADVICE}',
    ),
    'another name': (
        dict(type='OtherNameHead'),
        'OtherNameHead cannot be calibrated: it has no fc_cls, where its base has its class',
    ),
    'several objects': (
        dict(type='MultiInstanceBBoxHead'),
        'MultiInstanceBBoxHead cannot be calibrated: it scores several objects of a proposal',
    ),
}


@pytest.mark.parametrize('what', REFUSED_ALIKE)
def test_detectors_and_heads_refuse_the_same_in_the_same_sentence(what: str) -> None:
    options, sentence = REFUSED_ALIKE[what]
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head = {**cfg.roi_head.bbox_head, **options}
    with pytest.raises((TypeError, ValueError), match=sentence):
        MODELS.build(ConfigDict(cfg, type='CalibratedTwoStageDetector', class_prior=PRIOR))
    head = dict(cfg.roi_head.bbox_head)
    MODELS.build(head)  # mmdet takes it
    with pytest.raises((TypeError, ValueError), match=sentence):
        calibrated(MODELS.get(head.pop('type')))(**head)


def test_a_layer_that_is_named_is_calibrated() -> None:
    cfg = stage1_cfg('faster')
    options = dict(type='CalibratedTwoStageDetector', class_prior=PRIOR)
    for kind, name in (('TwoLayersHead', 'fc_cls.-1'), ('OtherNameHead', 'scores')):
        cfg.roi_head.bbox_head.type = kind
        layers = [f'roi_head.bbox_head.{name}']
        model = MODELS.build(ConfigDict(cfg, calibrated_layers=layers, **options))
        model.load_state_dict(MODELS.build(cfg).state_dict())
        assert 'loss_cls' in train(model)


def test_what_has_no_classification_layer_is_refused() -> None:
    for name in ('StandardRoIHead', 'FCNMaskHead'):
        with pytest.raises(TypeError, match=f'{name} cannot be calibrated: no .*; {ADVICE}'):
            calibrated(MODELS.get(name))
    with pytest.raises(
        TypeError, match='SCNetRoIHead cannot be calibrated: it does not run without'
    ):
        calibrated_roi_head(MODELS.get('SCNetRoIHead'))


@pytest.mark.parametrize('classifier', ['Linear', 'DisAlignLinear'])
def test_a_calibrated_head_reads_what_the_released_code_and_earlier_versions_wrote(
    classifier: str,
) -> None:
    head = calibrated(MODELS.get('Shared2FCBBoxHead'))(
        **head_cfg(cls_predictor_cfg=dict(type=classifier))
    )
    state = MODELS.build(dict(type='Shared2FCBBoxHead', **head_cfg())).state_dict()
    scale, bias, weight = torch.randn(5), torch.randn(5), torch.randn(1, 8)
    own = {'magnitude': scale - 1, 'margin': bias, 'confidence.weight': weight}
    own['confidence.bias'] = torch.zeros(1)
    released = {'logit_scale': scale, 'logit_bias': bias, 'confidence_layer.weight': weight}
    released['confidence_layer.bias'] = torch.zeros(1)
    before = {f'calibration.{key}': value for key, value in own.items()}
    for written in (before, released):
        head.load_state_dict(state | {f'fc_cls.{key}': value for key, value in written.items()})
        found = head.fc_cls.calibration.state_dict()
        assert all(torch.equal(found[key], value) for key, value in own.items())
        head.fc_cls.calibration.magnitude.data.zero_()


def test_a_prior_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match='prior has 3 classes, but Shared2FCBBoxHead has 5'):
        MODELS.build(
            ConfigDict(
                stage1_cfg('faster'), type='CalibratedTwoStageDetector', class_prior=[1, 2, 3]
            )
        )


def test_a_checkpoint_of_other_classes_is_refused() -> None:
    _, model = build_pair('faster')
    state = dict(model.state_dict())
    state['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(81, 32)
    with pytest.raises(
        RuntimeError, match=r'the checkpoint has 80 classes, the config 5; .*fc_cls\.weight'
    ):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('retinanet/retinanet_r18_fpn_1x_coco.py', 'is for a detector with a roi_head; of any'),
        ('tridentnet/tridentnet_r50-caffe_1x_coco.py', 'its branches train together'),
    ],
)
def test_the_two_stage_detector_says_what_it_is_not_for(name: str, message: str) -> None:
    model = get_config(f'mmdet::{name}').model
    with pytest.raises(TypeError, match=message):
        MODELS.build(dict(model, type='CalibratedTwoStageDetector'))


def test_both_ways_to_write_stage_2_of_a_two_stage_detector_are_one(tmp_path: Path) -> None:
    model = get_config('mmdet::faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py').model
    model.data_preprocessor.batch_augments = None
    prior = dict(class_prior=list(range(240, 80, -2)))
    torch.manual_seed(0)
    written, named = (
        MODELS.build(dict(copy.deepcopy(model), type=kind, **prior)).eval()
        for kind in ('CalibratedTwoStageDetector', 'mmdisalign.detection.CalibratedFasterRCNN')
    )
    with torch.no_grad():
        for parameter in written.roi_head.bbox_head.fc_cls.calibration.parameters():
            parameter.normal_(std=0.3)
    # A checkpoint of either, as earlier versions wrote it, is one of the other.
    for detector in (written, named):
        detector.load_state_dict(written.state_dict())
    images = torch.rand(1, 3, 64, 64)
    truth = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 50]]), labels=torch.tensor([3]))
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
    losses = []
    for detector in (written, named):
        sample = DetDataSample(gt_instances=copy.deepcopy(truth), metainfo=meta)
        torch.manual_seed(1)
        losses.append(detector.loss(images, [sample]))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[1][key], value) for key, value in losses[0].items())


def test_a_calibrated_type_over_a_model_of_another_type_is_named() -> None:
    model = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py').model
    message = 'CalibratedMaskRCNN has no bbox_head: that is misspelt, or the model of stage 1'
    with pytest.raises(TypeError, match=message):
        MODELS.build(dict(model, type='mmdisalign.detection.CalibratedMaskRCNN'))
