"""Every config that ships builds, and the README's lines make stage 2 of other models.

Those for classification are in test_cls_configs.py.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
import yaml
from mmdet.registry import MODELS as DETECTORS_REGISTRY
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import METRICS, MODELS
from test_cls_configs import is_classification, shipped_configs

from mmdisalign.detection.layers import scoring_heads

REPO = Path(__file__).resolve().parent.parent
CONFIGS = [name for name in shipped_configs() if not is_classification(name)]
ADE20K = [name for name in CONFIGS if 'ade20k' in name]
LVIS = [name for name in CONFIGS if 'lvis' in name]
# Those of a loss, by the beginning of their names, and the type of that.
LOSSES = {
    'droploss': 'DropLoss',
    'efl': 'EqualizedFocalLoss',
    'eql': 'EQLLoss',
    'eqlv2': 'EQLv2Loss',
    'eqlv2-pcb': 'EQLv2PCBLoss',
    'gol': 'DropLoss',
    'grad-libra': 'GradLibraLoss',
    'gumbel': 'GumbelLoss',
    'iif': 'IIFLoss',
    'pcb': 'PCBLoss',
    'seesaw': 'SeesawLoss',
    'seesaw-pcb': 'SeesawPCBLoss',
    'softmax-eql': 'SoftmaxEQLLoss',
}
OF_LOSSES = [name for name in LVIS if Path(name).name.split('_')[0] in LOSSES]


def build(cfg: Config, device: str = 'meta') -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    registry = DETECTORS_REGISTRY if cfg.default_scope == 'mmdet' else MODELS
    with torch.device(device):
        return registry.build(cfg.model)


def write_annotations(path: Path, num_classes: int) -> None:
    """An annotation file with an instance of each class."""
    images = [dict(id=1, height=9, width=9)]
    categories = [dict(id=i + 1, name=str(i)) for i in range(num_classes)]
    region = dict(bbox=[0, 0, 2, 2], area=4, segmentation=[[0, 0, 2, 0, 2, 2, 0, 2]])
    annotations = [dict(id=i, image_id=1, category_id=i + 1, **region) for i in range(num_classes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, categories=categories, annotations=annotations)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('name', OF_LOSSES)
def test_every_config_of_a_loss_builds(name: str) -> None:
    cfg = Config.fromfile(REPO / 'configs' / name)
    assert len((REPO / 'configs' / name).read_text().splitlines()) <= 12
    model = build(cfg, 'cpu')
    head = model.bbox_head if hasattr(model, 'bbox_head') else model.roi_head.bbox_head
    assert head.num_classes == (1230 if 'v0.5' in name else 1203)
    assert type(head.loss_cls).__name__ == LOSSES[Path(name).name.split('_')[0]]
    (found,) = scoring_heads(head)
    (layer,) = found.layers.values()
    scores = getattr(head.loss_cls, 'num_scores', layer.weight.shape[0])
    assert layer.weight.shape[0] == scores * (9 if 'retinanet' in name else 1)
    if hasattr(head.loss_cls, 'tail'):  # classes in up to 100 images are rare or common
        rare, common = (454, 461) if 'v0.5' in name else (337, 461)
        assert 0 <= int(head.loss_cls.tail.sum()) - rare - common <= 25
    repeats = cfg.train_dataloader.dataset.type == 'ClassBalancedDataset'
    assert repeats is ('sample1e-3' in name)
    epochs = 12 if '1x' in name else 24
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].end) == (epochs, epochs)
    assert cfg.val_evaluator.type == 'mmdisalign.detection.LongTailLVISMetric'


@pytest.mark.parametrize('name', [name for name in LVIS if name not in OF_LOSSES])
def test_every_detector_config_builds(name: str) -> None:
    cfg = Config.fromfile(REPO / 'configs' / name)
    model = build(cfg)
    num_classes = 1230 if 'v0.5' in name else 1203
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]
    assert len(heads) == (3 if 'cascade' in name else 1)
    assert {head.num_classes for head in heads} == {num_classes}
    classifier = 'CosineLinear' if 'cosine' in name else 'Linear'
    if 'disalign' in name:
        classifier = f'Calibrated{classifier}'
        assert model.calibrating
    assert {type(head.fc_cls).__name__ for head in heads} == {classifier}
    dataset = cfg.train_dataloader.dataset
    if '_scp_' in name:
        assert dataset.type == 'MultiImageMixDataset'
        assert dataset.pipeline[0].type == 'CopyPaste'
        assert [step.type for step in dataset.pipeline][-1] == 'PackDetInputs'
        dataset = dataset.dataset
        assert 'PackDetInputs' not in [step.type for step in dataset.dataset.pipeline]
    repeats = dataset.type == 'ClassBalancedDataset'
    assert repeats is ('sample1e-3' in name or name == 'lvis_disalign.py')


@cache
def lvis_config(name: str) -> Config:
    """A config below ``configs``, read once: it takes a second."""
    return Config.fromfile(REPO / 'configs' / name)


@pytest.mark.parametrize('name', [name for name in LVIS if 'disalign' in name])
def test_lvis_configs_are_the_released_stage_2(name: str) -> None:
    cfg = lvis_config(name)
    assert cfg.model.exp_scale == 0.8
    assert cfg.model.class_prior == ('lvis_v0.5' if 'v0.5' in name else 'lvis_v1')
    assert cfg.train_cfg.max_iters == 9000
    assert cfg.param_scheduler[1].milestones == [8000]
    assert cfg.optim_wrapper.optimizer.lr == 0.02
    assert cfg.train_dataloader.batch_size == 2
    test = cfg.model.test_cfg.rcnn
    assert (test.score_thr, test.max_per_img) == (0.0001, 300)
    assert cfg.test_evaluator.type.endswith('LongTailLVISMetric')


def test_lvis_configs_start_from_what_mmdet_published_or_from_their_stage_1() -> None:
    index = Path(mmdet.__file__).parent / '.mim/configs/lvis/metafile.yml'
    models = yaml.safe_load(index.read_text())['Models']
    weights = {model['Name']: model['Weights'] for model in models}
    published = set()
    for name in LVIS:
        if 'disalign' not in name:
            continue
        text = (REPO / 'configs' / name).read_text()
        if name == 'lvis_disalign.py':
            text = (REPO / 'configs' / re.search(r"'\./(.*)'", text)[1]).read_text()
        load_from = lvis_config(name).load_from
        base = re.search(r'mmdet::lvis/(.*)\.py', text)
        if base:
            assert load_from == weights[base[1]]
            published.add(base[1])
        else:
            stage_1 = re.search(r"'\./([^']*)\.py'", text)[1]
            epochs = 24 if 'v0.5' in name else 12
            assert load_from == f'work_dirs/{stage_1}/epoch_{epochs}.pth'
    assert published == set(weights)


@pytest.mark.parametrize(
    'stage_1',
    [
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
        'htc/htc_r50_fpn_1x_coco',
    ],
)
def test_the_docs_lines_calibrate_other_detectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_1: str
) -> None:
    text = (REPO / 'docs/detection.md').read_text()
    lines = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    (tmp_path / 'my_stage1.py').write_text(f"_base_ = 'mmdet::{stage_1}.py'\n")
    (tmp_path / 'my_stage2.py').write_text(lines)
    write_annotations(tmp_path / 'annotations/train.json', 80)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile('my_stage2.py')
    model = build(cfg)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if '.calibration.' in n}
    assert len(trainable) == 4 * (3 if 'cascade' in stage_1 or 'htc' in stage_1 else 1)
    assert cfg.val_evaluator == cfg.test_evaluator
    assert set(cfg.val_evaluator) == {'type', 'ann_file', 'metric', 'class_prior'}


@pytest.mark.parametrize('name', [name for name in CONFIGS if name not in LVIS])
def test_every_other_config_builds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = tmp_path / 'work_dirs/demo'
    for split in ('train', 'val'):
        path = demo / f'instances/scenes/annotations/scenes_{split}.json'
        write_annotations(path, 11)
    (demo / 'segmentation').mkdir()
    (demo / 'segmentation/prior.json').write_text(json.dumps(list(range(12, 0, -1))))
    cfg = Config.fromfile(REPO / 'configs' / name)
    model = build(cfg)
    if cfg.default_scope == 'mmdet':
        assert model.roi_head.bbox_head.num_classes == 11
    else:
        assert model.decode_head.num_classes == (150 if 'ade20k' in name else 12)
    METRICS.build(cfg.val_evaluator)


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_configs_are_the_released_stage_2(name: str) -> None:
    cfg = Config.fromfile(REPO / 'configs' / name)
    model = build(cfg)
    assert type(model).__name__ == 'CalibratedEncoderDecoder'
    assert model.decode_head.loss_decode.exp_scale == 0.2
    assert model.decode_head.loss_decode.normalizer == 'elements'
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (4000, 800)
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005
    )
    assert cfg.param_scheduler[0].end == 4000
    assert len(cfg.param_scheduler) == 1
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.default_hooks.checkpoint.interval == 800
    assert cfg.test_evaluator.class_prior == 'ade20k'


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_configs_start_from_what_mmseg_published(name: str) -> None:
    """The checkpoint is in mmseg's model index, under the config that ours inherits."""
    text = (REPO / 'configs' / name).read_text()
    if name == 'ade20k_disalign.py':
        text = (REPO / 'configs' / re.search(r"'\./(.*)'", text)[1]).read_text()
    base = re.search(r'mmseg::([\w/.+-]+)\.py', text)[1]
    folder = Path(mmseg.__file__).parent / '.mim/configs' / Path(base).parent
    index = yaml.safe_load((folder / 'metafile.yaml').read_text())
    weights = {model['Name']: model['Weights'] for model in index['Models']}
    assert Config.fromfile(REPO / 'configs' / name).load_from == weights[Path(base).name]


def readme_lines() -> str:
    return re.search(r'```python\n(.*?)```', (REPO / 'README.md').read_text(), re.DOTALL)[1]


@pytest.mark.parametrize(
    ('stage_1', 'head'),
    [
        ('upernet/upernet_r50_4xb4-160k_ade20k-512x512', 'DisAlignUPerHead'),
        ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', 'DisAlignSegformerHead'),
        ('pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024', 'DisAlignPSPHead'),
    ],
)
def test_the_readmes_lines_calibrate_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_1: str, head: str
) -> None:
    lines = readme_lines()
    assert len(ast.parse(lines).body) == 5
    num_classes = 19 if 'cityscapes' in stage_1 else 150
    (tmp_path / 'my_stage1.py').write_text(f"_base_ = 'mmseg::{stage_1}.py'\n")
    (tmp_path / 'my_stage2.py').write_text(lines)
    (tmp_path / 'my_prior.json').write_text(json.dumps(list(range(1, num_classes + 1))))
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile('my_stage2.py')
    model = build(cfg, 'cpu')  # Segformer computes with tensors when it is built
    assert type(model.decode_head).__name__ == head
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if '.calibration.' in n}
    # Nothing of stage 1's optimiser is left, such as Segformer's betas and per-parameter settings.
    assert set(cfg.optim_wrapper) == {'type', 'optimizer'}
    assert type(METRICS.build(cfg.val_evaluator)).__name__ == 'LongTailIoUMetric'


def test_the_readmes_lines_calibrate_a_cascade(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage_1 = 'mmseg::ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512.py'
    lines = readme_lines().replace('my_stage1.py', stage_1).replace('my_prior.json', 'ade20k')
    (tmp_path / 'stage2.py').write_text(lines)
    model = build(Config.fromfile('stage2.py'))
    assert type(model.decode_head[-1]).__name__ == 'DisAlignOCRHead'


def test_inherited_by_path_and_by_package_is_the_same(tmp_path: Path) -> None:
    path = REPO / 'configs/ade20k_disalign.py'
    (tmp_path / 'by_path.py').write_text(f"_base_ = '{path}'\n")
    (tmp_path / 'by_package.py').write_text(
        "_base_ = [__import__('mmdisalign').config_path('ade20k_disalign.py')]\n"
    )
    by_path, by_package = (
        Config.fromfile(tmp_path / f'{name}.py') for name in ('by_path', 'by_package')
    )
    assert by_path.to_dict() == by_package.to_dict() == Config.fromfile(path).to_dict()


def test_the_tta_fragment_is_the_papers() -> None:
    own = Config.fromfile(REPO / 'configs/_base_/tta_seg.py')
    ade20k = Config.fromfile(REPO / 'configs/ade20k_disalign.py')
    scales = [[t.scale_factor for t in cfg.tta_pipeline[1].transforms[0]] for cfg in (own, ade20k)]
    assert scales[0] == scales[1] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def test_a_coco_checkpoint_is_refused_by_the_lvis_config_with_the_classes_named(
    tmp_path: Path,
) -> None:
    (tmp_path / 'coco.py').write_text("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n")
    coco = build(Config.fromfile(tmp_path / 'coco.py'), 'cpu').state_dict()
    model = build(Config.fromfile(REPO / 'configs/lvis_disalign.py'), 'cpu')
    with pytest.raises(RuntimeError, match='the checkpoint has 80 classes, the config 1203'):
        model.load_state_dict(coco, strict=False)
