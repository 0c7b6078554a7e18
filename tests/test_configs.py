"""Every config that ships builds, and the README's five lines make stage 2 of other models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mmseg
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import METRICS, MODELS

REPO = Path(__file__).resolve().parent.parent
CONFIGS = sorted(
    path.relative_to(REPO / 'configs').as_posix()
    for path in (REPO / 'configs').rglob('*.py')
    if path.parent.name != '_base_'
)
ADE20K = [name for name in CONFIGS if 'ade20k' in name]


def build(cfg: Config, device: str = 'meta') -> torch.nn.Module:
    init_default_scope('mmseg')
    with torch.device(device):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work_dirs/demo').mkdir(parents=True)
    (tmp_path / 'work_dirs/demo/prior.json').write_text(json.dumps(list(range(12, 0, -1))))
    cfg = Config.fromfile(REPO / 'configs' / name)
    model = build(cfg)
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
def test_the_readmes_five_lines_calibrate_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_1: str, head: str
) -> None:
    lines = readme_lines()
    assert len(lines.splitlines()) == 5
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


def test_a_cascade_is_calibrated_by_the_cascades_type(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage_1 = 'mmseg::ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512.py'
    kind = 'mmdisalign.segmentation.CalibratedCascadeEncoderDecoder'
    lines = readme_lines().replace('my_stage1.py', stage_1).replace('my_prior.json', 'ade20k')
    (tmp_path / 'stage2.py').write_text(lines + f"\nmodel.update(type='{kind}')\n")
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
