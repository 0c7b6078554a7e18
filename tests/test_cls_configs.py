"""Every classification config that ships builds and says what its paper says."""

from __future__ import annotations

import copy
import math
import re
from functools import cache, partial
from pathlib import Path
from typing import Optional
from unittest.mock import patch

import mmengine.config.config
import mmpretrain
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS
from once import format_code

from mmdisalign.calibration import ClassPrior

REPO = Path(__file__).resolve().parent.parent
NUM_CLASSES = {
    'imagenet-lt': 1000,
    'inaturalist18': 8142,
    'places-lt': 365,
    'cifar10-lt': 10,
    'cifar100-lt': 100,
}
LISTS = {'imagenet_lt/ImageNet_LT': 1000, 'places_lt/Places_LT': 365} | {
    'inaturalist18/iNaturalist18': 8142
}
CALIBRATION = {'calibration.magnitude', 'calibration.margin'} | {
    f'calibration.confidence.{name}' for name in ('weight', 'bias')
}
# What comes first in the name of a stage 2: its head, and which of its parameters it trains.
STAGE_2 = {
    'disalign_cosine': ('DisAlignCosineClsHead', CALIBRATION),
    'disalign': ('DisAlignLinearClsHead', CALIBRATION),
    'crt': ('LinearClsHead', {'fc.weight', 'fc.bias'}),
    'lws': ('LWSLinearClsHead', {'calibration.scale'}),
    'balanced-softmax': ('LinearClsHead', {'fc.weight', 'fc.bias'}),
    'meta-sampler': ('LinearClsHead', {'fc.weight', 'fc.bias'}),
    'cosine': ('CosineClsHead', {'fc.weight', 'fc.scale'}),
}
LOSSES = {
    'disalign_cosine': 'GRWCrossEntropyLoss',
    'disalign': 'GRWCrossEntropyLoss',
    'balanced-softmax': 'BalancedSoftmaxLoss',
    'meta-sampler': 'BalancedSoftmaxLoss',
}


def shipped_configs() -> list[str]:
    """All configs below ``configs/`` that can be run."""
    root = REPO / 'configs'
    paths = (path for path in root.rglob('*.py') if path.parent.name != '_base_')
    return sorted(path.relative_to(root).as_posix() for path in paths)


def is_classification(name: str) -> bool:
    return name.startswith(('imagenet_lt', 'inaturalist18', 'places_lt', 'cifar_lt'))


# Of other methods than those of stage 2, whose tests are in test_long_tail_configs.py: what comes
# first in their names.
OTHERS = {
    'breadcrumb': ('BreadcrumbClsHead', 'CrossEntropyLoss'),
    'balanced-bce': ('LinearClsHead', 'BalancedSigmoidLoss'),
    'balanced-softmax': ('LinearClsHead', 'BalancedSoftmaxLoss'),
    'cbd-teacher': ('CosineClsHead', 'CrossEntropyLoss'),
    'cdb-s': ('LinearClsHead', 'CrossEntropyLoss'),
    'cdb-w': ('LinearClsHead', 'CDBLoss'),
    'class-balanced': ('LinearClsHead', 'ClassBalancedLoss'),
    'difficulty-net': ('LinearClsHead', 'DifficultyNetLoss'),
    'gcl': ('CosineClsHead', 'GCLLoss'),
    'gcl-classifier': ('CosineClsHead', 'GCLLoss'),
    'lade': ('LinearClsHead', 'LADELoss'),
    'ldam-drw': ('CosineClsHead', 'LDAMLoss'),
    'marc': ('MARCLinearClsHead', 'GRWCrossEntropyLoss'),
    'ssd-features': ('LinearClsHead', 'CrossEntropyLoss'),
    'ssd-lws': ('LWSLinearClsHead', 'CrossEntropyLoss'),
    'tde': ('TDEClsHead', 'CrossEntropyLoss'),
    'vmf': ('VMFClsHead', 'BalancedSoftmaxLoss'),
    'vs': ('LinearClsHead', 'VSLoss'),
    'whitening': ('WhitenedClsHead', 'CrossEntropyLoss'),
}
DISTILLED = ('cbd', 'ssd')
WITH_WEIGHTS = ('lift',)


def is_other(name: str) -> bool:
    method = Path(name).stem.split('_')[0]
    if method == 'balanced-softmax':  # which is a stage 2, too
        return int(re.search(r'-(\d+)e_', name)[1]) > 10
    return method in (*OTHERS, *DISTILLED, *WITH_WEIGHTS) or 'held-out' in name


CONFIGS = [name for name in shipped_configs() if is_classification(name) and not is_other(name)]
STAGE_1 = [name for name in CONFIGS if Path(name).name.startswith('resne')]
CALIBRATED = [name for name in CONFIGS if name not in STAGE_1]
CIFAR = [name for name in CONFIGS if 'cifar' in name]


@cache
def _loaded(name: str) -> Config:
    return Config.fromfile(REPO / 'configs' / name)


def load(name: str) -> Config:
    return copy.deepcopy(_loaded(name))


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope('mmpretrain')
    # mmpretrain's backbones compute their drop rates with tensors when they are built.
    on_cpu = partial(torch.linspace, device='cpu')
    with torch.device('meta'), patch('torch.linspace', on_cpu):
        return MODELS.build(cfg.model)


def method_of(name: str) -> Optional[str]:
    stem = 'disalign' if name == 'imagenet_lt_disalign.py' else Path(name).stem
    return next((method for method in STAGE_2 if stem.startswith(method)), None)


def num_classes_of(name: str) -> int:
    name = name.replace('imagenet_lt_disalign', 'imagenet-lt')
    return next(number for key, number in NUM_CLASSES.items() if key in name)


def write_lists(root: Path) -> None:
    """The training, validation and test lists with two images of class 0 and one of each other."""
    for prefix, number in LISTS.items():
        for split in ('train', 'val', 'test'):
            path = root / f'data/{prefix}_{split}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(''.join(f'train/{i}.jpg {i}\n' for i in (0, *range(number))))


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('project')
    write_lists(root)
    return root


@pytest.fixture(autouse=True)
def in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


class Labelled:
    """The least that a sampler needs of a data set: class c has ``counts[c]`` images."""

    def __init__(self, counts: list[int]) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)

    def get_gt_labels(self) -> np.ndarray:
        return self.labels


def test_all_the_papers_data_sets_and_networks_are_there() -> None:
    stems = {Path(name).stem for name in CONFIGS}
    for network in ('resnet50', 'resnext50-32x4d'):
        for classifier in ('', '_cosine'):
            assert f'{network}{classifier}_8xb32-90e_imagenet-lt' in stems
            assert f'disalign_{network}{classifier}_8xb32-10e_imagenet-lt' in stems
    for epochs in (90, 200):
        assert f'disalign_resnet50-{epochs}e_8xb32-10e_inaturalist18' in stems
    assert 'disalign_resnet152_8xb32-10e_places-lt' in stems
    for classes in (10, 100):
        for imbalance in (10, 50, 100, 200):
            assert f'disalign_resnet32_1xb128-3e_cifar{classes}-lt-if{imbalance}' in stems
    for method in set(STAGE_2) - {'disalign_cosine', 'cosine'}:
        assert f'{method}_resnext50-32x4d_8xb32-10e_imagenet-lt' in stems
    for method in STAGE_2:
        assert f'{method}_resnet32_1xb128-3e_cifar10-lt-if100' in stems


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds_its_model(name: str) -> None:
    cfg = load(name)
    model = build(cfg)
    assert model.head.num_classes == cfg.data_preprocessor.num_classes == num_classes_of(name)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    method = method_of(name)
    if method is None:
        assert type(model).__name__ == 'ImageClassifier'
        assert trained == {n for n, _ in model.named_parameters()}
        head, loss = 'LinearClsHead', 'CrossEntropyLoss'
    else:
        assert type(model).__name__ == 'CalibratedImageClassifier'
        head, names = STAGE_2[method]
        assert trained == {f'head.{n}' for n in names}
        loss = LOSSES.get(method, 'CrossEntropyLoss')
    if '_cosine_' in name:
        head = head.replace('Linear', 'Cosine')
    assert type(model.head).__name__ == head
    assert type(model.head.loss_module).__name__ == loss


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_is_short_and_survives_being_written_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmengine.config.config, 'FormatCode', format_code)
    assert len((REPO / 'configs' / name).read_text().splitlines()) <= 40
    cfg = load(name)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


def images_of(cfg: Config) -> list[float]:
    """Images of each class in the training data of a config, by what the data sets' authors say."""
    dataset = cfg.train_dataloader.dataset
    if dataset.type == 'CustomDataset':
        return [2.0, *[1.0] * (cfg.model.head.num_classes - 1)]
    number = cfg.model.head.num_classes
    most, factor = 50000 // number, (1 / dataset.imbalance) ** (1 / (number - 1))
    return [float(math.floor(most * factor**c + 1e-9)) for c in range(number)]


@pytest.mark.parametrize('name', CONFIGS)
def test_evaluators_and_losses_know_the_training_data(name: str) -> None:
    cfg = load(name)
    counts = images_of(cfg)
    init_default_scope('mmpretrain')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert set(evaluator) == {'type', 'class_prior'}
        metric = METRICS.build(evaluator)
        assert type(metric).__name__ == 'LongTailAccuracy'
        assert metric.class_prior.counts.tolist() == counts
    priors = [cfg.model.get('class_prior'), cfg.model.head.get('loss', {}).get('class_prior')]
    found = [ClassPrior.build(prior).counts.tolist() for prior in priors if prior is not None]
    assert found == ([counts] if method_of(name) in LOSSES else [])


@pytest.mark.parametrize('name', [name for name in STAGE_1 if name not in CIFAR])
def test_lists_of_images_are_read_and_each_split_has_its_own(name: str) -> None:
    cfg = load(name)
    init_default_scope('mmpretrain')
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        # iNaturalist's labels of the test set are not public: its validation set is reported.
        file = 'val' if split == 'test' and 'inaturalist' in name else split
        assert dataset.ann_file.endswith(f'{file}.txt')
        assert len(dataset) == num_classes_of(name) + 1
        assert dataset.get_data_info(1)['img_path'] == f'{dataset.data_root}train/0.jpg'
        crop = 'RandomResizedCrop' if split == 'train' else 'CenterCrop'
        assert crop in [type(step).__name__ for step in dataset.pipeline.transforms]


@pytest.mark.parametrize('name', CIFAR)
def test_cifar_is_cut_for_training_alone(name: str) -> None:
    cfg = load(name)
    number, imbalance = re.search(r'cifar(\d+)-lt-if(\d+)', name).groups()
    dataset = cfg.train_dataloader.dataset
    assert dataset.type.endswith(f'.CIFAR{number}LT')
    assert (dataset.imbalance, dataset.split) == (int(imbalance), 'train')
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.dataset.type, loader.dataset.split) == (f'CIFAR{number}', 'test')
        assert 'imbalance' not in loader.dataset


@pytest.mark.parametrize('name', CONFIGS)
def test_samplers_give_the_classes_their_shares(name: str) -> None:
    cfg = load(name)
    init_default_scope('mmpretrain')
    sampler = DATA_SAMPLERS.build(
        cfg.train_dataloader.sampler, default_args=dict(dataset=Labelled([16, 4]), seed=0)
    )
    if 'square-root' in name:
        assert sampler.probabilities.tolist() == pytest.approx([2 / 3, 1 / 3])
    elif 'progressive' in name:
        epochs = cfg.train_cfg.max_epochs
        for epoch, share in ((0, 0.8), (epochs // 2, 0.65), (epochs, 0.5)):
            sampler.set_epoch(epoch)
            assert sampler.probabilities[0] == pytest.approx(share)
    elif method_of(name) in ('crt', 'lws', 'meta-sampler'):
        assert sampler.probabilities.tolist() == [0.5, 0.5]
        assert type(sampler).__name__ == (
            'LearnedClassSampler' if method_of(name) == 'meta-sampler' else 'ClassSampler'
        )
    else:
        assert type(sampler).__name__ == 'DefaultSampler'
        assert sampler.shuffle


@pytest.mark.parametrize('name', CONFIGS)
def test_a_classifier_that_is_retrained_is_first_reset(name: str) -> None:
    init_default_scope('mmpretrain')
    hooks = [type(HOOKS.build(hook)).__name__ for hook in load(name).get('custom_hooks', [])]
    reset = method_of(name) in ('crt', 'balanced-softmax', 'meta-sampler', 'cosine')
    learned = method_of(name) == 'meta-sampler'
    assert hooks == ['ResetClassifierHook'] * reset + ['MetaSamplerHook'] * learned


def rates(cfg: Config) -> list[float]:
    """The learning rate of each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
        for schedule in cfg.param_scheduler
    ]
    result = []
    for _ in range(cfg.train_cfg.max_epochs):
        result.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return result


def cosine(lr: float, epochs: int) -> list[float]:
    return [lr * (1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)]


@pytest.mark.parametrize('name', [n for n in STAGE_1 if 'imagenet' in n or 'inaturalist' in n])
def test_stage_1_is_kang_et_als(name: str) -> None:
    """Kang et al. 2020: SGD, 0.2 for batches of 512, cosine schedule."""
    cfg = load(name)
    epochs = int(re.search(r'-(\d+)e_', name)[1])
    assert cfg.train_cfg.max_epochs == epochs
    lr = 0.2 * 8 * cfg.train_dataloader.batch_size / 512
    assert rates(cfg) == pytest.approx(cosine(lr, epochs))
    decay = 1e-4 if 'inaturalist' in name else 5e-4
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert (optimizer.lr, optimizer.weight_decay) == (lr, decay)
    backbone = cfg.model.backbone
    expected = ('ResNeXt', 50, 32, 4) if 'resnext' in name else ('ResNet', 50, None, None)
    keys = ('type', 'depth', 'groups', 'width_per_group')
    assert tuple(backbone.get(key) for key in keys) == expected


def test_stage_1_of_places_is_fine_tuned_from_what_mmpretrain_published() -> None:
    cfg = load('places_lt/resnet152_8xb32-30e_places-lt.py')
    index = Path(mmpretrain.__file__).parent / '.mim/configs/resnet/metafile.yml'
    models = yaml.safe_load(index.read_text())['Models']
    weights = {model['Name']: model.get('Weights') for model in models}
    init_cfg = cfg.model.backbone.init_cfg
    assert init_cfg.checkpoint == weights['resnet152_8xb32_in1k']
    assert (init_cfg.type, init_cfg.prefix) == ('Pretrained', 'backbone')
    assert cfg.model.backbone.depth == 152
    # Liu et al. 2019: classifier 0.1, backbone 0.001, a tenth every 10 of 30 epochs.
    assert rates(cfg) == pytest.approx([0.1 * 0.1 ** (e // 10) for e in range(30)])
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult * 0.1 == 0.001


@pytest.mark.parametrize('name', [name for name in STAGE_1 if name in CIFAR])
def test_stage_1_of_cifar_is_cao_et_als(name: str) -> None:
    """LDAM: from epoch 1, e/5 of the rate up to epoch 5, 1/100 after 160, 1/10000 after 180."""
    cfg = load(name)

    def factor(epoch: int) -> float:
        if epoch <= 5:
            return epoch / 5
        return 1e-4 if epoch > 180 else 1e-2 if epoch > 160 else 1.0

    assert rates(cfg) == pytest.approx([0.1 * factor(epoch) for epoch in range(1, 201)])
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=2e-4)
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.model.backbone.depth == 32
    assert cfg.model.head.in_channels == 64


@pytest.mark.parametrize('name', CALIBRATED)
def test_stage_2_has_the_released_schedule(name: str) -> None:
    """10 epochs, cosine, SGD at 0.1 for batches of 256; on CIFAR, the short one for all methods."""
    cfg = load(name)
    epochs = 3 if name in CIFAR else 10
    assert cfg.train_cfg == dict(
        by_epoch=True, max_epochs=epochs, val_interval=cfg.train_cfg.val_interval
    )
    assert set(cfg.optim_wrapper) == {'type', 'optimizer'}
    optimizer = cfg.optim_wrapper.optimizer
    if name in CIFAR:
        assert optimizer == dict(type='AdamW', lr=0.05, weight_decay=0.0)
        (schedule,) = cfg.param_scheduler
        assert (schedule.type, schedule.T_max) == ('CosineAnnealingLR', 3)
        assert schedule.convert_to_iter_based
    else:
        assert rates(cfg) == pytest.approx(cosine(optimizer.lr, 10))
        assert optimizer == dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert cfg.model.get('exp_scale') == (1.2 if method_of(name).startswith('disalign') else None)


@pytest.mark.parametrize('name', CALIBRATED)
def test_stage_2_starts_from_the_end_of_another_config_whose_checkpoint_fits(name: str) -> None:
    cfg = load(name)
    stem, epoch = re.fullmatch(r'work_dirs/(.+)/epoch_(\d+)\.pth', cfg.load_from).groups()
    folder = 'imagenet_lt' if name == 'imagenet_lt_disalign.py' else Path(name).parent.name
    before = load(f'{folder}/{stem}.py')
    assert before.train_cfg.max_epochs == int(epoch)
    assert before.train_dataloader.dataset == cfg.train_dataloader.dataset
    assert before.model.backbone == cfg.model.backbone
    # Raises unless every parameter is there, except those that the stage trains anew.
    build(cfg).load_state_dict(build(before).state_dict(), strict=False)


@pytest.mark.parametrize(
    ('stage_1', 'head'),
    [
        ('resnet/resnet50_8xb32_in1k', 'DisAlignLinearClsHead'),
        ('swin_transformer/swin-tiny_16xb64_in1k', 'DisAlignLinearClsHead'),
        ('vision_transformer/vit-base-p16_64xb64_in1k', 'DisAlignVisionTransformerClsHead'),
        ('mobilenet_v2/mobilenet-v2_8xb32_in1k', 'DisAlignLinearClsHead'),
        ('convnext/convnext-tiny_32xb128_in1k', 'DisAlignLinearClsHead'),
    ],
)
def test_the_docs_lines_calibrate_other_classifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage_1: str, head: str
) -> None:
    text = (REPO / 'docs/classification.md').read_text()
    (tmp_path / 'my_stage1.py').write_text(f"_base_ = 'mmpretrain::{stage_1}.py'\n")
    lines = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    (tmp_path / 'my_stage2.py').write_text(lines)
    (tmp_path / 'my_train_list.txt').write_text(''.join(f'{c}.jpg {c}\n' for c in range(1000)))
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile('my_stage2.py')
    model = build(cfg)
    assert type(model.head).__name__ == head
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in model.named_parameters() if '.calibration.' in n}
    assert len(trainable) == 4
    assert set(cfg.val_evaluator) == set(cfg.test_evaluator) == {'type', 'class_prior'}
    # Nothing of stage 1's optimiser is left, nor ConvNeXt's moving average of the weights.
    assert cfg.custom_hooks == []
    assert set(cfg.optim_wrapper) == {'type', 'optimizer'}
    assert rates(cfg) == pytest.approx(cosine(0.1, 10))


@pytest.mark.parametrize('method', ['crt', 'lws', 'cosine'])
def test_the_comments_lines_retrain_other_classifiers(tmp_path: Path, method: str) -> None:
    """What the comment in decoupled_cls.py says, over a config of mmpretrain's."""
    comment = (REPO / 'configs/_base_/decoupled_cls.py').read_text()
    lines = re.search(r'#\n((?:#   .*\n)+)', comment)[1].replace('#   ', '').replace('crt', method)
    if method != 'crt':
        absent = {'lws': 'custom_hooks', 'cosine': 'train_dataloader'}[method]
        lines = re.sub(rf'^{absent} = .*\n', '', lines, flags=re.MULTILINE)
    (tmp_path / 'my_stage1.py').write_text("_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'\n")
    (tmp_path / 'my_stage2.py').write_text(lines)
    model = build(Config.fromfile(tmp_path / 'my_stage2.py'))
    assert model.stage == ('calibration' if method == 'lws' else 'classifier')
    assert type(model.head).__name__ == STAGE_2[method][0]


def test_the_entry_is_the_released_network() -> None:
    path = 'imagenet_lt/disalign_resnext50-32x4d_8xb32-10e_imagenet-lt.py'
    assert load('imagenet_lt_disalign.py').to_dict() == load(path).to_dict()
