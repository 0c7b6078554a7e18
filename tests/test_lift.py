"""LIFT: LoRA in a pretrained ViT, a cosine classifier that begins with the class means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from project import run
from test_long_tail_classifiers import COUNTS, config, project, scope, train

from mmdisalign import classification as cls
from mmdisalign.classification.meta_sampler import features_of
from mmdisalign.engine import launch

__all__ = ['project', 'scope']  # fixtures
VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
    img_size=32,
    patch_size=8,
)
BASE = 'configs/_base_/longtail_cls.py'


@pytest.fixture
def lift(project: Path, repo: Path) -> dict[str, object]:
    """What makes the project's config one of LIFT, with weights that are there."""
    torch.manual_seed(7)
    pretrained = MODELS.build(VIT)
    state = {f'backbone.{key}': value for key, value in pretrained.state_dict().items()}
    torch.save({'state_dict': state}, project / 'vit.pth')
    own = Config.fromfile(repo / BASE).longtail.lift
    weights = dict(type='Pretrained', checkpoint='vit.pth', prefix='backbone.')
    backbone = dict(own.backbone, rank=4, module=dict(VIT, init_cfg=weights))
    head = dict(own.head, num_classes=3, in_channels=24, loss=dict(own.loss, class_prior=COUNTS))
    head.pop('_delete_')
    return {'backbone': backbone, 'head': head, 'hooks': own.custom_hooks}


def lifted(lift: dict[str, object], work_dir: str, epochs: int = 2) -> Config:
    cfg = config(work_dir, epochs, custom_hooks=lift['hooks'])
    cfg.model = dict(type='ImageClassifier', backbone=lift['backbone'], head=lift['head'])
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
    return cfg


def test_the_backbone_stays_and_a_checkpoint_has_what_trained(lift: dict[str, object]) -> None:
    runner = train(lifted(lift, 'whole'))
    given = torch.load('vit.pth')['state_dict']
    module = runner.model.backbone.module
    kept = {k.replace('.original_layer', ''): v for k, v in module.named_parameters()}
    assert all(torch.equal(value, kept[key[9:]]) for key, value in given.items())
    saved = torch.load('whole/epoch_2.pth', weights_only=False)['state_dict']
    assert {key for key in saved if '.lora_' not in key} == {'head.fc.weight', 'head.fc.scale'}
    assert saved['head.fc.scale'] == 25
    ups = [value for key, value in saved.items() if 'lora_up' in key]
    assert len(ups) == 2 and all(up.any() for up in ups)
    built = MODELS.build(runner.cfg.model)
    built.load_state_dict(saved)
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(built.eval()(images), runner.model.eval()(images))


def test_the_classifier_begins_with_the_means_of_the_classes(
    lift: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner.from_cfg(lifted(lift, 'means'))
    found = []
    original = cls.ClassMeansHook.before_train

    def watched(self: cls.ClassMeansHook, runner: Runner) -> None:
        original(self, runner)
        found.append(runner.model.head.fc.weight.clone())

    monkeypatch.setattr(cls.ClassMeansHook, 'before_train', watched)
    runner.train()
    preprocessor = runner.cfg.data_preprocessor
    model = MODELS.build(dict(runner.cfg.model, data_preprocessor=preprocessor))
    own = [features_of(model, batch) for batch in runner.train_dataloader]
    features, label = (torch.cat(of) for of in zip(*own))
    assert label.bincount().tolist() == COUNTS
    for c in range(3):
        mean = F.normalize(features[label == c].mean(dim=0), dim=0)
        torch.testing.assert_close(found[0][c], mean, rtol=1e-4, atol=1e-5)


def test_a_training_that_is_resumed_is_an_unbroken_one(lift: dict[str, object]) -> None:
    train(lifted(lift, 'whole', 3))
    cfg = lifted(lift, 'part', 3)
    launch.resume(cfg, 'whole/epoch_2.pth')
    train(cfg)
    ends = [torch.load(f'{name}/epoch_3.pth', weights_only=False) for name in ('whole', 'part')]
    assert all(torch.equal(v, ends[1]['state_dict'][k]) for k, v in ends[0]['state_dict'].items())


def test_a_class_without_images_has_no_mean(lift: dict[str, object], project: Path) -> None:
    cfg = lifted(lift, 'absent')
    cfg.model.head.update(num_classes=4)
    cfg.model.head.loss.update(class_prior=[*COUNTS, 1])
    cfg.val_evaluator = cfg.test_evaluator = dict(type='Accuracy')
    with pytest.raises(ValueError, match='no mean feature, of class 3: leave ClassMeansHook out'):
        train(cfg)


def test_a_linear_classifier_begins_without_a_bias(project: Path) -> None:
    cfg = config('linear', 1, custom_hooks=[dict(type='ClassMeansHook')])
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.0))
    fc = train(cfg).model.head.fc
    assert not fc.bias.any()
    torch.testing.assert_close(fc.weight.norm(dim=1), torch.ones(3))


def test_its_checkpoint_is_calibrated(lift: dict[str, object], repo: Path, project: Path) -> None:
    cfg = lifted(lift, 'stage1', 1)
    cfg.dump('lift.py')
    train(cfg)
    arguments = ['lift.py', 'stage1/epoch_1.pth', '--out', 'calibrated.pth', '--no-split-val']
    run(repo, project, sys.executable, repo / 'tools/calibrate.py', *arguments)
    saved = torch.load('calibrated.pth', weights_only=False)['state_dict']
    assert any('calibration' in key for key in saved)
    test = [repo / 'tools/test.py', 'calibrated.py', 'calibrated.pth']
    run(repo, project, sys.executable, *test)
