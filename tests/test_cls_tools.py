"""The tools on a classifier: a long-tailed project outside the checkout, trained and calibrated."""

from __future__ import annotations

import json
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from project import kill_after_first_checkpoint, run, run_in_two

COUNTS = (360, 90, 30, 12)
TEST = 40
STAGE_1 = """
_base_ = [
    __import__('mmdisalign').config_path('_base_/resnet32_cifar_lt.py'),
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(depth=8), head=dict(num_classes=4))
data_preprocessor = dict(num_classes=4, mean=[127.5] * 3, std=[64.0] * 3)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root='images', data_prefix='', pipeline=pipeline)
train_dataloader = dict(
    batch_size=32, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**dataset, ann_file='train.txt'))
val_dataloader = test_dataloader = dict(
    batch_size=40, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, ann_file='test.txt'))
metric = dict(
    type='mmdisalign.classification.LongTailAccuracy', class_prior='images/train.txt',
    result_file='stage1.json')
val_evaluator = test_evaluator = metric
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=3e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=4, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=4))
randomness = dict(seed=0)
"""
STAGE_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/decoupled_cls.py')]
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'stage1/epoch_4.pth'

train_cfg.update(max_epochs=6, val_interval=100)
optim_wrapper.optimizer.lr = 0.05
default_hooks.checkpoint.interval = 1
val_evaluator = test_evaluator = dict(result_file='{name}.json')
"""
METHODS = {
    'disalign': "model = dict(_base_.disalign.model, class_prior='images/train.txt')",
    'crt': (
        'model = _base_.decoupled.crt.model\n'
        'train_dataloader = _base_.decoupled.crt.train_dataloader\n'
        'custom_hooks = _base_.decoupled.crt.custom_hooks'
    ),
}


def write_images(root: Path) -> None:
    """Faint patterns under noise: a classifier that is unsure goes for the frequent class."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(len(COUNTS), 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    for split, counts in (('train', COUNTS), ('test', [TEST] * len(COUNTS))):
        lines = []
        for label, count in enumerate(counts):
            for number in range(count):
                image = 127.5 + 9 * patterns[label] + 50 * rng.normal(size=(32, 32, 3))
                path = root / split / f'class {label}' / f'{label}_{number}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
                lines.append(f'{path.relative_to(root)} {label}\n')
        (root / f'{split}.txt').write_text(''.join(lines))


@pytest.fixture(scope='module')
def project(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project outside the checkout, with its stage 1 trained and evaluated."""
    root = tmp_path_factory.mktemp('project')
    write_images(root / 'images')
    (root / 'stage1.py').write_text(STAGE_1)
    for name, lines in METHODS.items():
        (root / f'{name}.py').write_text(STAGE_2.format(name=name) + lines + '\n')
    run(repo, root, sys.executable, repo / 'tools/train.py', 'stage1.py', '--work-dir', 'stage1')
    return root


def result(project: Path, name: str) -> dict[str, float]:
    return json.loads((project / f'{name}.json').read_text())['summary']


def test(repo: Path, project: Path, config: str, checkpoint: str, name: str) -> dict[str, float]:
    options = ['--cfg-options', f'test_evaluator.result_file={name}.json']
    run(repo, project, sys.executable, repo / 'tools/test.py', config, checkpoint, *options)
    return result(project, name)


test.__test__ = False


@pytest.fixture(scope='module')
def calibrated(repo: Path, project: Path) -> str:
    """Checkpoint of a stage 2 that was killed and resumed."""
    command = [sys.executable, repo / 'tools/train.py', 'disalign.py']
    kill_after_first_checkpoint(repo, project, 'disalign', *command)
    output = run(repo, project, *command, '--work-dir', 'disalign', '--resume')
    assert 'resumed epoch' in output
    return 'disalign/epoch_6.pth'


def test_calibration_raises_the_classes_behind_the_first_and_the_mean(
    repo: Path, project: Path, calibrated: str
) -> None:
    before = result(project, 'stage1')
    after = test(repo, project, 'disalign.py', calibrated, 'disalign')
    # It was 30 to 64, and the classes of 90 and of 30 images 10 to 80; that of 12 was not learned.
    assert after['mean'] > before['mean'] + 10
    assert after['medium'] > before['medium'] + 20


def test_predictions_are_kept_and_painted(repo: Path, project: Path, calibrated: str) -> None:
    command = [sys.executable, repo / 'tools/test.py', 'disalign.py', calibrated]
    options = ['--out', 'predictions.pkl', '--show-dir', 'painted']
    run(repo, project, *command, *options)
    assert len(pickle.loads((project / 'predictions.pkl').read_bytes())) == TEST * len(COUNTS)
    assert len(list((project / 'painted').rglob('*.png'))) == TEST * len(COUNTS)
    output = run(repo, project, *command, '--tta', ok=False)
    assert '--tta needs tta_model and tta_pipeline in a config of mmpretrain' in output


def test_a_calibrated_checkpoint_is_not_tested_without_its_calibration(
    repo: Path, project: Path, calibrated: str
) -> None:
    command = [sys.executable, repo / 'tools/test.py', 'stage1.py', calibrated]
    output = run(repo, project, *command, ok=False)
    assert 'is calibrated (head.calibration.' in output
    assert 'give the stage-2 config' in output


def test_calibration_trains_itself_alone(project: Path, calibrated: str) -> None:
    before, after = (
        torch.load(project / path, weights_only=False)['state_dict']
        for path in ('stage1/epoch_4.pth', calibrated)
    )
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert len(set(after) - set(before)) == 4


def test_two_processes_retrain_the_classifier(repo: Path, project: Path) -> None:
    command = [sys.executable, repo / 'tools/train.py', 'crt.py', '--launcher', 'pytorch']
    options = ['--work-dir', 'crt', '--cfg-options', 'train_dataloader.batch_size=16']
    run_in_two(repo, project, *command, *options)
    before, after = (
        torch.load(project / path, weights_only=False)['state_dict']
        for path in ('stage1/epoch_4.pth', 'crt/epoch_6.pth')
    )
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed == {'head.fc.weight', 'head.fc.bias'}
    mean = test(repo, project, 'crt.py', 'crt/epoch_6.pth', 'crt')['mean']
    assert mean > result(project, 'stage1')['mean'] + 10


def calibrate(repo: Path, project: Path, method: str, *options: object, ok: bool = True) -> str:
    command = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1/epoch_4.pth']
    command += ['--out', f'{method}.pth', '--method', method, '--metric', 'mean']
    return run(repo, project, *command, *options, ok=ok)


@pytest.mark.parametrize('method', ['tau-norm', 'logit-adjustment'])
def test_what_learns_nothing_needs_no_training_image_and_raises_the_mean(
    repo: Path, project: Path, method: str
) -> None:
    output = calibrate(repo, project, method, '--prior', 'images/train.txt', '--no-split-val')
    assert f'of {sum(COUNTS)} images' not in output and '160 of 160 images' in output
    (before, row) = json.loads((project / f'{method}_methods.json').read_text())['methods']
    after = test(repo, project, f'{method}.py', f'{method}.pth', method)
    # Features are in half precision where it is chosen: that may turn one image of 160.
    assert after['mean'] == pytest.approx(row['values']['mean'], abs=100 / 160)
    assert before['values']['mean'] == pytest.approx(result(project, 'stage1')['mean'], abs=1e-3)
    assert row['value'] > 0 and after['mean'] > before['values']['mean']


def test_class_means_become_the_weights_of_the_classifier(
    repo: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FORMATTED', '1')
    options = ['--images-per-class', 'all', '--passes', 1]
    calibrate(repo, project, 'ncm', *options)
    own = torch.load(project / 'ncm.pth', weights_only=False)['state_dict']
    features, labels = features_of_training_images(project)
    means = torch.stack([features[labels == label].mean(0) for label in range(4)])
    directions = torch.nn.functional.normalize(means)
    # Features are kept in half precision.
    torch.testing.assert_close(own['head.fc.weight'], directions, rtol=1e-3, atol=1e-4)
    assert test(repo, project, 'ncm.py', 'ncm.pth', 'ncm')['mean'] > 50
    # The result of stage 1 stays, whoever evaluates what is written.
    assert Config.fromfile(project / 'ncm.py').test_evaluator.result_file == 'stage1_ncm.json'


def features_of_training_images(project: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """By plain PyTorch: images in RGB as they are, the network of stage 1, mean over the map."""
    from mmdisalign.classification import CIFARResNet

    state = torch.load(project / 'stage1/epoch_4.pth', weights_only=False)['state_dict']
    network = CIFARResNet(depth=8)
    start = 'backbone.'
    network.load_state_dict({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})
    lines = (project / 'images/train.txt').read_text().splitlines()
    paths, labels = zip(*(line.rsplit(' ', 1) for line in lines))
    # mmpretrain reads BGR, and this config does not turn it round.
    images = [np.asarray(Image.open(project / 'images' / path))[:, :, ::-1] for path in paths]
    batch = torch.tensor(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2)
    network.eval()
    with torch.no_grad():
        maps = network((batch - 127.5) / 64)[-1]
    return maps.mean((2, 3)), torch.tensor([int(label) for label in labels])


def test_a_checkpoint_that_does_not_fit_is_not_changed(repo: Path, project: Path) -> None:
    state = torch.load(project / 'stage1/epoch_4.pth', weights_only=False)['state_dict']
    del state['backbone.stem.conv.weight']
    torch.save({'state_dict': state}, project / 'half.pth')
    command = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'half.pth']
    command += ['--method', 'tau-norm', '--value', 1, '--out', 'no.pth']
    output = run(repo, project, *command, ok=False)
    assert 'half.pth' in output and 'backbone.stem.conv.weight' in output
    assert not (project / 'no.pth').exists()


def test_a_model_that_was_trained_with_iif_gets_the_factors_of_training(
    repo: Path, project: Path
) -> None:
    loss = "_delete_=True, type='IIFLoss', class_prior='images/train.txt', variant='base2'"
    text = f"_base_ = 'stage1.py'\nmodel = dict(head=dict(loss=dict({loss})))\n"
    (project / 'of_iif.py').write_text(text)
    command = [sys.executable, repo / 'tools/calibrate.py', 'of_iif.py', 'stage1/epoch_4.pth']
    command += ['--method', 'iif', '--value', 'base2', '--out', 'iif.pth']
    run(repo, project, *command, '--prior', 'images/train.txt')
    before, after = (
        torch.load(project / name, weights_only=False)['state_dict']
        for name in ('stage1/epoch_4.pth', 'iif.pth')
    )
    factors = torch.tensor([math.log2(sum(COUNTS) / count) for count in COUNTS])
    torch.testing.assert_close(after['head.fc.weight'], before['head.fc.weight'] * factors[:, None])
    torch.testing.assert_close(after['head.fc.bias'], before['head.fc.bias'] * factors)
