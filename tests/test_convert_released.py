"""Checkpoints of the released detectors: names, values, and mmdet's Mask R-CNN that loads them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip('mmdet')

from mmdisalign.detection.released import (
    convert_released_detector,
    load_released,
    mmdet_name,
)

NUM_CLASSES = 6
PREDICTOR = 'roi_heads.box_predictor.'
CLASSIFIER = 'roi_head.bbox_head.fc_cls.'


def shapes_of_resnet() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of cvpods' ResNet-50: its resnet.py, with a FrozenBN in each convolution."""

    def convolution(name: str, outputs: int, inputs: int, size: int) -> Iterator:
        yield f'{name}.weight', (outputs, inputs, size, size)
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            yield f'{name}.norm.{part}', (outputs,)

    yield from convolution('stem.conv1', 64, 3, 7)
    inputs = 64
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        width = 2 ** (4 + stage)
        for block in range(blocks):
            name = f'res{stage}.{block}'
            if block == 0:
                yield from convolution(f'{name}.shortcut', 4 * width, inputs, 1)
            yield from convolution(f'{name}.conv1', width, inputs, 1)
            yield from convolution(f'{name}.conv2', width, width, 3)
            yield from convolution(f'{name}.conv3', 4 * width, width, 1)
            inputs = 4 * width


def shapes_of_mask_rcnn(calibrated: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released Mask R-CNN: cvpods' fpn.py, rpn.py, roi_heads."""
    shapes = {f'backbone.bottom_up.{name}': shape for name, shape in shapes_of_resnet()}
    weights = {'roi_heads.mask_head.deconv': (256, 256, 2, 2)}
    for level in (2, 3, 4, 5):
        weights[f'backbone.fpn_lateral{level}'] = (256, 2 ** (6 + level), 1, 1)
        weights[f'backbone.fpn_output{level}'] = (256, 256, 3, 3)
        weights[f'roi_heads.mask_head.mask_fcn{level - 1}'] = (256, 256, 3, 3)
    weights['roi_heads.mask_head.predictor'] = (NUM_CLASSES, 256, 1, 1)
    weights['proposal_generator.rpn_head.conv'] = (256, 256, 3, 3)
    weights['proposal_generator.rpn_head.objectness_logits'] = (3, 256, 1, 1)
    weights['proposal_generator.rpn_head.anchor_deltas'] = (12, 256, 1, 1)
    weights['roi_heads.box_head.fc1'] = (1024, 256 * 7 * 7)
    weights['roi_heads.box_head.fc2'] = (1024, 1024)
    weights[f'{PREDICTOR}cls_score'] = (NUM_CLASSES + 1, 1024)
    weights[f'{PREDICTOR}bbox_pred'] = (4 * NUM_CLASSES, 1024)
    if calibrated:
        weights[f'{PREDICTOR}confidence_layer'] = (1, 1024)
        shapes[f'{PREDICTOR}logit_scale'] = shapes[f'{PREDICTOR}logit_bias'] = (NUM_CLASSES,)
    for name, shape in weights.items():
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, shape[:1]
    for level in range(5):
        shapes[f'proposal_generator.anchor_generator.cell_anchors.{level}'] = (3, 4)
    return shapes


def small_predictor(features: int = 8, cosine: bool = False) -> dict[str, Tensor]:
    """Random weights of a released box predictor on few features."""
    shapes = {
        'cls_score.weight': (NUM_CLASSES + 1, features),
        'cls_score.scale' if cosine else 'cls_score.bias': (1,) if cosine else (NUM_CLASSES + 1,),
        'bbox_pred.weight': (4 * NUM_CLASSES, features),
        'bbox_pred.bias': (4 * NUM_CLASSES,),
        'logit_scale': (NUM_CLASSES,),
        'logit_bias': (NUM_CLASSES,),
        'confidence_layer.weight': (1, features),
        'confidence_layer.bias': (1,),
    }
    torch.manual_seed(0)
    return {PREDICTOR + name: torch.randn(shape) for name, shape in shapes.items()}


def released_scores(weights: dict[str, Tensor], x: Tensor, logits: Tensor) -> Tensor:
    """What the released box predictor makes of its classifier's logits (N, C + 1)."""
    part = {name.removeprefix(PREDICTOR): weight for name, weight in weights.items()}
    sigma = torch.sigmoid(x @ part['confidence_layer.weight'].T + part['confidence_layer.bias'])
    z, background = logits[:, :-1], logits[:, -1:]
    aligned = sigma * (z * part['logit_scale'] + part['logit_bias']) + (1 - sigma) * z
    return torch.cat([aligned, background], dim=1)


NAMES = {
    'backbone.bottom_up.stem.conv1.norm.running_mean': 'backbone.bn1.running_mean',
    'backbone.bottom_up.stem.conv1.weight': 'backbone.conv1.weight',
    'backbone.bottom_up.res2.0.shortcut.weight': 'backbone.layer1.0.downsample.0.weight',
    'backbone.bottom_up.res2.0.shortcut.norm.bias': 'backbone.layer1.0.downsample.1.bias',
    'backbone.bottom_up.res4.22.conv2.weight': 'backbone.layer3.22.conv2.weight',
    'backbone.bottom_up.res5.2.conv3.norm.running_var': 'backbone.layer4.2.bn3.running_var',
    'backbone.fpn_lateral2.bias': 'neck.lateral_convs.0.conv.bias',
    'backbone.fpn_output5.weight': 'neck.fpn_convs.3.conv.weight',
    'proposal_generator.rpn_head.conv.weight': 'rpn_head.rpn_conv.weight',
    'proposal_generator.rpn_head.objectness_logits.bias': 'rpn_head.rpn_cls.bias',
    'proposal_generator.rpn_head.anchor_deltas.weight': 'rpn_head.rpn_reg.weight',
    'roi_heads.box_head.fc1.weight': 'roi_head.bbox_head.shared_fcs.0.weight',
    'roi_heads.box_predictor.cls_score.weight': 'roi_head.bbox_head.fc_cls.weight',
    'roi_heads.box_predictor.bbox_pred.bias': 'roi_head.bbox_head.fc_reg.bias',
    'roi_heads.mask_head.mask_fcn4.bias': 'roi_head.mask_head.convs.3.conv.bias',
    'roi_heads.mask_head.deconv.weight': 'roi_head.mask_head.upsample.weight',
    'roi_heads.mask_head.predictor.weight': 'roi_head.mask_head.conv_logits.weight',
}


@pytest.mark.parametrize('name', NAMES)
def test_names(name: str) -> None:
    assert mmdet_name(name) == NAMES[name]


@pytest.mark.parametrize('calibrated', [False, True])
def test_mask_rcnn_of_mmdet_loads_every_tensor(calibrated: bool) -> None:
    """On the meta device, since names and shapes are all that matters."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.hub import get_config

    register_all_modules(init_default_scope=False)
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py').model
    cfg.backbone.init_cfg = None
    for head in ('bbox_head', 'mask_head'):
        cfg.roi_head[head].num_classes = NUM_CLASSES
    released = {
        name: torch.empty(shape, device='meta')
        for name, shape in shapes_of_mask_rcnn(calibrated).items()
    }
    converted = convert_released_detector(released)
    with torch.device('meta'):
        model = MODELS.build(Config(dict(_scope_='mmdet', **cfg)))
    missing, unexpected = model.load_state_dict(converted, strict=False, assign=True)
    assert missing == []
    calibration = ('confidence.bias', 'confidence.weight', 'magnitude', 'margin')
    expected = [f'{CLASSIFIER}calibration.{name}' for name in calibration if calibrated]
    assert sorted(unexpected) == expected


def test_anchors_that_are_not_converted_are_those_of_mmdet() -> None:
    """cvpods: sizes 32 to 512, one a level, ratios height / width of 0.5, 1, 2, offset 0."""
    from mmdet.models.task_modules import AnchorGenerator

    generator = AnchorGenerator(strides=[4, 8, 16, 32, 64], ratios=[0.5, 1.0, 2.0], scales=[8])
    for size, anchors in zip((32, 64, 128, 256, 512), generator.base_anchors):
        ratios = torch.tensor([0.5, 1.0, 2.0])
        half = torch.stack([size / ratios.sqrt(), size * ratios.sqrt()], dim=1) / 2
        torch.testing.assert_close(anchors, torch.cat([-half, half], dim=1))


@pytest.mark.parametrize('classifier', ['DisAlignLinear', 'DisAlignCosineLinear'])
def test_calibrated_classifiers_give_the_released_scores(classifier: str) -> None:
    from mmdet.registry import MODELS

    import mmdisalign.detection  # noqa: F401

    weights = small_predictor(cosine='Cosine' in classifier)
    module = MODELS.build(
        dict(_scope_='mmdet', type=classifier, in_features=8, out_features=NUM_CLASSES + 1)
    )
    converted = convert_released_detector(weights)
    own = {
        name.removeprefix(CLASSIFIER): value
        for name, value in converted.items()
        if name.startswith(CLASSIFIER)
    }
    module.load_state_dict(own)
    x = torch.randn(5, 8)
    weight = weights[f'{PREDICTOR}cls_score.weight']
    if 'Cosine' in classifier:
        unit = torch.nn.functional.normalize
        logits = weights[f'{PREDICTOR}cls_score.scale'] * unit(x) @ unit(weight).T
    else:
        logits = x @ weight.T + weights[f'{PREDICTOR}cls_score.bias']
    torch.testing.assert_close(module(x), released_scores(weights, x, logits))


def test_unknown_names_are_an_error_that_has_them() -> None:
    weights = small_predictor()
    before = dict(weights)
    convert_released_detector(weights)
    assert weights.keys() == before.keys()
    for name in ('backbone.bottom_up.res3.0.conv2_offset.weight', 'roi_heads.box_head.0.fc1.bias'):
        with pytest.raises(ValueError, match=name):
            convert_released_detector({**weights, name: torch.zeros(1)})
    many = {f'layer{i}.weight': torch.zeros(1) for i in range(30)}
    with pytest.raises(ValueError, match=r'layer0\.weight.* and 22 more'):
        convert_released_detector(many)


def test_a_backbone_is_no_detector() -> None:
    with pytest.raises(ValueError, match=r'no roi_heads\.box_predictor\.cls_score'):
        convert_released_detector({'backbone.bottom_up.stem.conv1.weight': torch.zeros(1)})


class Exploit:
    def __reduce__(self):
        return print, ('code ran',)


def test_what_can_run_code_is_read_on_trust_alone(tmp_path: Path) -> None:
    weights = small_predictor()
    arrays = {name: weight.numpy() for name, weight in weights.items()}
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps({'model': arrays, 'author': Exploit()}))
    torch.save({'model': weights, 'scheduler': Exploit()}, tmp_path / 'full.pth')
    torch.save({'model': weights}, tmp_path / 'plain.pth')
    torch.save(weights, tmp_path / 'bare.pth')
    for name in ('model.pkl', 'full.pth'):
        with pytest.raises(ValueError, match=rf'{name}.*--trust'):
            load_released(tmp_path / name)
    for name, trust in (('model.pkl', 1), ('full.pth', 1), ('plain.pth', 0), ('bare.pth', 0)):
        converted = convert_released_detector(load_released(tmp_path / name, trust=bool(trust)))
        margin = converted[f'{CLASSIFIER}calibration.margin']
        np.testing.assert_array_equal(margin, arrays[f'{PREDICTOR}logit_bias'])


def test_a_file_without_a_state_dict_is_named(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    for name in ('list.pth', 'text.pth'):
        with pytest.raises(ValueError, match=name):
            load_released(tmp_path / name)


def test_the_tool(tmp_path: Path, repo: Path) -> None:
    torch.save({'model': small_predictor()}, tmp_path / 'in.pth')
    command = [sys.executable, 'tools/convert_released.py', tmp_path / 'in.pth']
    run = subprocess.run(
        [*command, tmp_path / 'out.pth'], cwd=repo, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert f'{NUM_CLASSES} classes, calibrated' in run.stdout
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert content['state_dict'].keys() == convert_released_detector(small_predictor()).keys()
