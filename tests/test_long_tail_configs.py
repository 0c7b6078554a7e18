"""Every config of a long-tail method builds, trains and names the data that it is of."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, METRICS, MODELS
from mmpretrain.structures import DataSample
from test_cls_configs import (
    DISTILLED,
    OTHERS,
    REPO,
    WITH_WEIGHTS,
    is_classification,
    is_other,
    rates,
    shipped_configs,
    write_lists,
)
from test_cls_data import TinyCIFAR10LT

from mmdisalign.calibration import ClassPrior

NAMES = [name for name in shipped_configs() if is_classification(name) and is_other(name)]
OF_METHODS = [name for name in NAMES if Path(name).stem.split('_')[0] in OTHERS]
STUDENTS = [name for name in NAMES if Path(name).stem.split('_')[0] in DISTILLED]
SAMPLES = [DataSample().set_gt_label(label % 10) for label in range(12)]
# On ImageNet-LT, by the authors: network, epochs, learning rate for 256 images, weight decay.
SETTINGS = {
    'balanced-softmax_resnext50-32x4d_8xb32-90e': ('ResNeXt', 90, 0.05, 5e-4),
    'breadcrumb_resnet10_8xb32-200e': ('mmdisalign.classification.ResNet10', 200, 0.1, 5e-4),
    'cbd-teacher_resnet50_8xb32-90e': ('ResNet', 90, 0.1, 2.5e-4),
    'cbd-teacher_resnet50_jitter-seed2_8xb32-90e': ('ResNet', 90, 0.1, 2.5e-4),
    'cbd_resnet50_4-teachers_8xb32-90e': ('ResNet', 90, 0.1, 2.5e-4),
    'cdb-w_resnext50-32x4d_8xb32-90e': ('ResNeXt', 90, 0.1, 2e-4),
    'difficulty-net_resnet50_8xb32-180e': ('ResNet', 180, 0.1, 5e-4),
    'gcl_resnet50_8xb32-200e': ('ResNet', 200, 0.1, 5e-4),
    'gcl-classifier_resnet50_8xb32-30e': ('ResNet', 30, 0.001, 5e-4),
    'lade_resnext50-32x4d_8xb32-180e': ('ResNeXt', 180, 0.05, 5e-4),
    'ldam-drw_resnet50_8xb32-100e': ('ResNet', 100, 0.2, 2e-4),
    'marc_resnext50-32x4d_8xb32-10e': ('ResNeXt', 10, 0.05, 5e-4),
    'ssd-features_resnext50-32x4d_8xb32-135e': ('ResNeXt', 135, 0.1, 5e-4),
    'ssd-lws_resnext50-32x4d_8xb32-5e': ('ResNeXt', 5, 0.1, 5e-4),
    'ssd_resnext50-32x4d_8xb32-135e': ('ResNeXt', 135, 0.1, 5e-4),
    'tde_resnext50-32x4d_8xb32-90e': ('ResNeXt', 90, 0.1, 5e-4),
    'vmf_resnext50-32x4d_8xb32-90e': ('ResNeXt', 90, 0.1, 5e-4),
}


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('project')
    write_lists(root)
    return root


@pytest.fixture(autouse=True)
def scope(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope('mmpretrain')
    monkeypatch.chdir(project)


def load(name: str) -> Config:
    return Config.fromfile(REPO / 'configs' / name)


def test_each_method_has_a_config() -> None:
    found = {Path(name).stem.split('_')[0] for name in NAMES}
    assert found == {*OTHERS, *DISTILLED, *WITH_WEIGHTS, 'resnet32'}


@pytest.mark.parametrize('name', OF_METHODS)
def test_a_config_of_a_method_builds_and_has_a_loss(name: str) -> None:
    cfg = load(name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    head, loss = OTHERS[Path(name).stem.split('_')[0]]
    assert type(model.head).__name__ == head
    assert type(model.head.loss_module).__name__ == loss
    assert len((REPO / 'configs' / name).read_text().splitlines()) <= 26
    if type(model).__name__ == 'CalibratedImageClassifier':
        stage1 = '/'.join([name.split('/')[0], Path(cfg.load_from).parent.name + '.py'])
        model.load_state_dict(MODELS.build(load(stage1).model).state_dict(), strict=False)
    if head == 'BreadcrumbClsHead':  # what its hook gives
        model.head.balanced = torch.rand(12, model.head.in_channels), torch.arange(12) % 10
    images = torch.rand(12, 3, 32, 32)
    if type(model).__name__ == 'MoCoImageClassifier':
        images = [images, images]
    losses = model.loss(images, SAMPLES)
    total = sum(value for key, value in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    if 'resnet10' in name:
        assert model.backbone.stage_blocks == (1, 1, 1, 1)
    for hook in cfg.get('custom_hooks', []):
        assert hook.type.startswith('mmdisalign.classification.')
    if loss in ('CDBLoss', 'DifficultyNetLoss'):
        assert cfg.train_cfg.val_interval == 1


DATASETS.register_module(module=TinyCIFAR10LT)
CIFAR = [name for name in (*OF_METHODS, *STUDENTS) if name.startswith('cifar_lt')]


@pytest.fixture(scope='module')
def tiny(project: Path) -> str:
    """CIFAR-10 of 80 training images."""
    images = np.random.default_rng(0).integers(0, 256, (80, 3 * 32 * 32), dtype=np.uint8)
    folder = project / 'tiny/cifar-10-batches-py'
    folder.mkdir(parents=True)
    for name, number in (('data_batch_1', 80), ('test_batch', 20)):
        batch = {'data': images[:number], 'labels': list(range(10)) * (number // 10)}
        (folder / name).write_bytes(pickle.dumps(batch))
    return str(project / 'tiny')


@pytest.mark.parametrize('name', CIFAR)
def test_an_epoch_of_a_method_on_cifar(name: str, tiny: str, tmp_path: Path) -> None:
    """As the documented command trains it, on a CIFAR and a network that are small."""
    cfg = load(name)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        own = dict(data_root=tiny, type='TinyCIFAR10LT')
        if loader.dataset.type.endswith('LT'):
            own.update(imbalance=2, hold_out=min(loader.dataset.get('hold_out', 0), 1))
        loader.dataset.update(own)
        loader.update(num_workers=0, persistent_workers=False, batch_size=16)
    cfg.model.backbone.depth = 8
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    for hook in cfg.get('custom_hooks', []):
        if 'begin' in hook or hook.type.endswith('DeferredReweightingHook'):
            hook.begin = 0
    _take_untrained(cfg, tmp_path)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == len(runner.train_dataloader) > 0
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert all(own.isfinite().all() for own in state.values())


def _take_untrained(cfg: Config, folder: Path) -> None:
    """Let untrained models be what is trained first."""
    if cfg.get('load_from'):
        stage_1 = load(f'cifar_lt/{Path(cfg.load_from).parent.name}.py').model
        cfg.load_from = _saved(stage_1, folder)
    for teacher in cfg.model.get('teachers', []):
        own = Config.fromfile(REPO / teacher.config)
        own.model.backbone.depth = 8
        own.dump(folder / 'teacher.py')
        teacher.update(config=str(folder / 'teacher.py'), checkpoint=_saved(own.model, folder))


def _saved(model: dict, folder: Path) -> str:
    model.backbone.depth = 8
    path = folder / 'first.pth'
    torch.save({'state_dict': MODELS.build(model).state_dict()}, path)
    return str(path)


def _pipeline(cfg: Config) -> Compose:
    steps = cfg.train_dataloader.dataset.pipeline
    return Compose([step for step in steps if step.type != 'LoadImageFromFile'])


PIPELINES = {repr(load(name).train_dataloader.dataset.get('pipeline')): name for name in NAMES}


@pytest.mark.parametrize('name', PIPELINES.values())
def test_each_training_pipeline_takes_images(name: str) -> None:
    """Twenty times, for what it does at random: mmcv's hue fails with numpy 2."""
    pipeline, random = _pipeline(load(name)), np.random.default_rng(0)
    views = 2 if 'ssd-features' in name else 1
    for _ in range(20):
        image = random.integers(0, 256, (256, 240, 3), dtype=np.uint8)
        made = pipeline(dict(img=image, img_shape=(256, 240), gt_label=0))['inputs']
        assert len(made if views > 1 else [made]) == views


def test_lift_has_lora_in_a_vit_whose_weights_are_the_users() -> None:
    cfg = load('imagenet_lt/lift_vit-base-p16_8xb16-10e_imagenet-lt.py')
    module = cfg.model.backbone.module
    assert module.init_cfg.checkpoint == 'vit-base-p16_in21k.pth'
    with pytest.raises(FileNotFoundError, match=r'vit-base-p16_in21k\.pth'):
        MODELS.build(cfg.model)
    small = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=24)
    module.update(arch=small, img_size=32, init_cfg=None)
    cfg.model.head.in_channels = 24
    model = MODELS.build(cfg.model)
    sum(model.loss(torch.rand(12, 3, 32, 32), SAMPLES).values()).backward()
    trained = {name for name, own in model.named_parameters() if own.grad is not None}
    qkv = 'backbone.module.layers.0.attn.qkv.lora_'
    assert trained == {'head.fc.weight', f'{qkv}down.weight', f'{qkv}up.weight'}
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert steps == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    assert rates(cfg)[0] == 0.01 and cfg.train_dataloader.batch_size * 8 == 128


@pytest.mark.parametrize('name', STUDENTS)
def test_a_student_says_which_teachers_are_to_be_trained_first(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(REPO)
    teachers = load(name).model.teachers
    assert len(teachers) == (4 if '4-teachers' in name else 1)
    for teacher in teachers:
        assert Path(teacher.config).is_file()
        epochs = Config.fromfile(teacher.config).train_cfg.max_epochs
        stem = Path(teacher.config).stem
        assert teacher.checkpoint == f'work_dirs/{stem}/epoch_{epochs}.pth'
    saved = tmp_path / 'teacher.pth'
    given = [dict(teacher, checkpoint=str(saved)) for teacher in teachers]
    model = MODELS.build({**load(name).model, 'teachers': given})
    images = torch.rand(12, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match='train it first'):
        model.loss(images, SAMPLES)
    trained = MODELS.build(Config.fromfile(teachers[0].config).model)
    torch.save({'state_dict': trained.state_dict()}, saved)
    losses = model.loss(images, SAMPLES)
    sum(value for key, value in losses.items() if 'loss' in key).backward()


def test_the_stages_of_ssd_name_one_another() -> None:
    for folder, student in (
        ('cifar_lt', 'ssd_resnet32_1xb128-200e_cifar10-lt-if100'),
        ('imagenet_lt', 'ssd_resnext50-32x4d_8xb32-135e_imagenet-lt'),
    ):
        (teacher,) = load(f'{folder}/{student}.py').model.teachers
        second = Config.fromfile(REPO / teacher.config)
        first = load(f'{folder}/{Path(second.load_from).parent.name}.py')
        assert first.model.type.endswith('MoCoImageClassifier')
        assert Path(second.load_from).name == f'epoch_{first.train_cfg.max_epochs}.pth'


def test_each_method_that_has_an_imagenet_config_has_its_settings() -> None:
    """Of those that are not said here, one is an AdamW's and the others are of teachers."""
    found = {Path(name).stem.replace('_imagenet-lt', '') for name in NAMES if 'imagenet' in name}
    assert found - set(SETTINGS) == {
        'balanced-bce_vit-base-p16_8xb32-100e',
        'lift_vit-base-p16_8xb16-10e',
        'cbd-teacher_resnet50_jitter_8xb32-90e',
        'cbd-teacher_resnet50_seed2_8xb32-90e',
        'cbd_resnet50_8xb32-90e',
    }


@pytest.mark.parametrize('stem', SETTINGS)
def test_on_imagenet_settings_are_the_authors(stem: str) -> None:
    cfg = load(f'imagenet_lt/{stem}_imagenet-lt.py')
    network, epochs, lr, decay = SETTINGS[stem]
    assert (cfg.model.backbone.type, cfg.train_cfg.max_epochs) == (network, epochs)
    found = rates(cfg)
    assert max(found) == pytest.approx(lr)
    assert found[-1] < 0.2 * lr
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    assert cfg.train_dataloader.batch_size == 32
    assert len((REPO / f'configs/imagenet_lt/{stem}_imagenet-lt.py').read_text().splitlines()) <= 20


def test_the_teachers_of_cbd_differ_in_colours_and_seeds() -> None:
    teachers = load('imagenet_lt/cbd_resnet50_4-teachers_8xb32-90e_imagenet-lt.py').model.teachers
    found = []
    for teacher in teachers:
        cfg = Config.fromfile(REPO / teacher.config)
        steps = DATASETS.build(cfg.train_dataloader.dataset).pipeline.transforms
        found.append((cfg.randomness.seed, 'RandomApply' in [type(own).__name__ for own in steps]))
    assert found == [(1, False), (2, False), (1, True), (2, True)]


def test_livt_takes_2048_images_a_step_of_imagenet_lt() -> None:
    cfg = load('imagenet_lt/balanced-bce_vit-base-p16_8xb32-100e_imagenet-lt.py')
    images = 8 * cfg.train_dataloader.batch_size * cfg.optim_wrapper.accumulative_counts
    assert images == 2048
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * images / 256)
    assert cfg.model.backbone.init_cfg is None and cfg.load_from
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert dataset.ann_file.endswith(f'{split}.txt')
        assert len(dataset) == 1001
    assert METRICS.build(cfg.test_evaluator).class_prior.counts.tolist() == [2.0, *[1.0] * 999]


def test_the_held_out_images_are_of_the_training_files_and_no_test_images() -> None:
    cfg = load('cifar_lt/resnet32_1xb128-200e_cifar10-lt-if100-held-out.py')
    own, kept = cfg.val_dataloader.dataset, cfg.train_dataloader.dataset
    assert DATASETS.get(own.type) is not None
    assert own.held_out and own.split == 'train' and not kept.get('held_out')
    assert own.hold_out == kept.hold_out == 25 and own.imbalance == kept.imbalance
    assert not cfg.test_dataloader.dataset.get('held_out', False)
    assert sum(cfg.class_prior) < 12406 and cfg.class_prior[0] == 4975


def test_the_lines_for_several_labels_an_image_train_and_evaluate(tmp_path: Path) -> None:
    text = (REPO / 'docs/longtail_classification.md').read_text()
    lines = re.findall(r'```python\n(.*?)```', text, re.DOTALL)[-1]
    prior = tmp_path / 'prior.json'
    ClassPrior([9, 5, 2]).to_json(prior)
    (tmp_path / 'lines.py').write_text(lines.replace('my_prior.json', str(prior)))
    cfg = Config.fromfile(tmp_path / 'lines.py')
    head = MODELS.build({**cfg.model.head, 'num_classes': 3, 'in_channels': 8})
    labels = [[0, 1], [0], [2], [0, 2]]
    given = [DataSample().set_gt_label(own) for own in labels]
    losses = head.loss((torch.rand(4, 8),), given)
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    metric = METRICS.build(cfg.val_evaluator)
    predicted = head.predict((torch.rand(4, 8),), given)
    metric.process(None, [own.to_dict() for own in predicted])
    assert {'mAP', 'many', 'few'} <= {key.split('/')[-1] for key in metric.evaluate(4)}
