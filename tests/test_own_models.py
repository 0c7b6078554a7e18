"""A model of one's own is calibrated as it is, or refused: nothing it does is replaced unseen."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from test_segmentors import batch, build_pair, cascade_cfg, stage1_cfg, stage2_cfg, train

from mmdisalign.engine import read_config
from mmdisalign.onepass.one_pass import build_stage2
from mmdisalign.segmentation import calibrated_model
from mmdisalign.segmentation.collect import SampleCollector


@MODELS.register_module()
class DoublingSegmentor(EncoderDecoder):
    """Its losses are twice mmseg's, and it takes one argument more."""

    def __init__(self, *, factor: float = 2.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def loss(self, inputs, data_samples) -> dict:
        losses = super().loss(inputs, data_samples)
        return {key: self.factor * value for key, value in losses.items() if 'loss' in key}


@MODELS.register_module()
class NamingSegmentor(EncoderDecoder):
    """It says who has predicted."""

    def predict(self, inputs, data_samples=None) -> list:
        predicted = super().predict(inputs, data_samples)
        for sample in predicted:
            sample.set_metainfo({'by': 'NamingSegmentor'})
        return predicted


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def own_cfg(kind: type):
    return stage1_cfg() | dict(type=kind.__name__)


def losses_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return model.loss(**model.data_preprocessor(batch(), True))


def calibrated(kind: type) -> torch.nn.Module:
    cfg = own_cfg(kind)
    # As the lines of the docs name it; MODELS would make it only if it had been named before.
    name = f'Calibrated{kind.__name__}'
    assert getattr(importlib.import_module('mmdisalign.segmentation'), name).__name__ == name
    return build_pair(cfg)[1]


def test_a_segmentor_of_ones_own_predicts_as_it_does() -> None:
    model = calibrated(NamingSegmentor)
    assert isinstance(model, NamingSegmentor)
    assert [sample.by for sample in model.eval().test_step(batch())] == ['NamingSegmentor'] * 2
    assert not model.has_own_loss
    assert SampleCollector(model).losses


def test_a_loss_of_ones_own_trains_the_calibration_alone() -> None:
    model, plain = calibrated(DoublingSegmentor), build_pair(stage1_cfg())[1]
    # Of the two losses, that of the auxiliary head, which is frozen, is left out.
    own, expected = losses_of(model), losses_of(plain)
    assert own.keys() == {'decode.loss_grw'}
    torch.testing.assert_close(own['decode.loss_grw'], 2 * expected['decode.loss_grw'])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model)
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {key for key in before if '.calibration.' in key}


def test_an_argument_of_ones_own_is_taken_and_another_is_named() -> None:
    calibrated(DoublingSegmentor)
    own = own_cfg(DoublingSegmentor)
    assert MODELS.build(stage2_cfg(own, factor=3.0)).factor == 3
    with pytest.raises(TypeError, match='CalibratedDoublingSegmentor has no fctor'):
        MODELS.build(stage2_cfg(own, fctor=3.0))


def test_one_pass_does_not_fit_another_loss_than_that_of_training() -> None:
    with pytest.raises(ValueError, match=r'has its own losses.*use train\.py'):
        SampleCollector(calibrated(DoublingSegmentor))
    with pytest.raises(ValueError, match='tiled_loss is of the losses of mmseg'):
        MODELS.build(stage2_cfg(own_cfg(DoublingSegmentor), tiled_loss=True))


class DoublingMixin:
    def loss(self, inputs, data_samples) -> dict:
        return {k: 2 * value for k, value in super().loss(inputs, data_samples).items()}


@MODELS.register_module()
class MixedInSegmentor(DoublingMixin, EncoderDecoder):
    """One whose losses are those of a class that knows nothing of segmentors."""


def test_a_loss_of_a_mixin_is_ones_own() -> None:
    model, plain = calibrated(MixedInSegmentor), build_pair(stage1_cfg())[1]
    assert model.has_own_loss
    own, expected = losses_of(model), losses_of(plain)
    torch.testing.assert_close(own['decode.loss_grw'], 2 * expected['decode.loss_grw'])


def test_what_one_pass_refuses_it_refuses_before_weights_are_loaded() -> None:
    calibrated(DoublingSegmentor)
    for cfg, message in (
        (stage2_cfg(own_cfg(DoublingSegmentor)), 'has its own losses'),
        (stage2_cfg(stage1_cfg(), calibration=dict(norm_cfg=dict(type='BN'))), 'for its confid'),
    ):
        with pytest.raises(ValueError, match=message):
            build_stage2(cfg, 'there_is_none.pth', 0, SampleCollector)


def test_both_routes_name_the_same_type() -> None:
    for cfg in (stage1_cfg(), cascade_cfg(), own_cfg(NamingSegmentor)):
        assert calibrated_model(cfg) == f'mmdisalign.segmentation.Calibrated{cfg.type}'


STAGE_1 = {
    'segmentation': ('mmseg', 'NamingSegmentor', 'predict'),
    'detection': ('mmdet', 'TridentFasterRCNN', 'loss'),
    'classification': ('mmpretrain', 'TimmClassifier', 'loss'),
}
FRAGMENTS = {'segmentation': 'seg', 'detection': 'det', 'classification': 'cls'}


@pytest.mark.parametrize('plugin', STAGE_1)
def test_a_type_written_over_another_that_does_more_is_named(tmp_path: Path, plugin: str) -> None:
    scope, kind, method = STAGE_1[plugin]
    (tmp_path / 'stage1.py').write_text(
        f"default_scope = '{scope}'\nmodel = dict(type='{kind}')\n"
        'train_cfg = optim_wrapper = dict()\n'
    )
    path = f"__import__('mmdisalign').config_path('_base_/disalign_{FRAGMENTS[plugin]}.py')"
    lines = f"_base_ = ['stage1.py', {path}]\nmodel = dict({{}}, class_prior=[2, 1])\n"
    (tmp_path / 'old.py').write_text(lines.format('_base_.disalign.model'))
    with pytest.raises(TypeError, match=rf'{kind} has its own.* {method}.*_base_\.model\.type'):
        read_config(tmp_path / 'old.py')
    # The docs' lines keep it, or their type says why it cannot be.
    name = f"type=f'mmdisalign.{plugin}.Calibrated{{_base_.model.type}}'"
    (tmp_path / 'new.py').write_text(lines.format(name))
    cfg = read_config(tmp_path / 'new.py')
    assert cfg.model.type == f'mmdisalign.{plugin}.Calibrated{kind}'


@pytest.mark.parametrize('name', ['ade20k_disalign', 'lvis_disalign', 'imagenet_lt_disalign'])
def test_the_old_lines_go_on_to_work_over_what_they_keep(repo: Path, name: str) -> None:
    cfg = read_config(repo / f'configs/{name}.py')
    assert cfg.to_dict() == Config.fromfile(repo / f'configs/{name}.py').to_dict()
