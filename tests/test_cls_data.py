"""Long-tailed CIFAR, the ResNet for it, and what is said of missing classification data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import torch
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import DATASETS, MODELS
from torch import nn

from mmdisalign.classification.backbones import CIFARResNet, PaddedShortcut
from mmdisalign.classification.datasets import CIFAR10LT, CIFAR100LT, long_tailed_counts
from mmdisalign.engine import check_data

PER_CLASS = 8


class TinyCIFAR10LT(CIFAR10LT):
    """Reads the files of ``cifar``, which have no known checksum, as if they were CIFAR-10's."""

    train_list = [['data_batch_1', None]]
    test_list = [['test_batch', None]]


class TinyCIFAR100LT(CIFAR100LT):
    """Reads the files of ``cifar`` as if they were CIFAR-100's."""

    train_list = [['train', None]]
    test_list = [['test', None]]


def write_batch(path: Path, key: str, num_classes: int, per_class: int) -> None:
    """Images in mixed order; the first byte of each is its position in the file."""
    labels = list(range(num_classes)) * per_class
    images = np.zeros((len(labels), 3 * 32 * 32), np.uint8)
    images[:, 0] = np.arange(len(labels)) % 256
    images[:, 1] = np.arange(len(labels)) // 256
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({'data': images, key: labels}))


@pytest.fixture
def cifar(tmp_path: Path) -> str:
    """A folder like that of CIFAR-10 and CIFAR-100, with 8 training images a class."""
    for folder, train, test, key, num_classes in (
        ('cifar-10-batches-py', 'data_batch_1', 'test_batch', 'labels', 10),
        ('cifar-100-python', 'train', 'test', 'fine_labels', 100),
    ):
        write_batch(tmp_path / folder / train, key, num_classes, PER_CLASS)
        write_batch(tmp_path / folder / test, key, num_classes, 2)
    return str(tmp_path)


def ids(dataset: CIFAR10LT) -> list[int]:
    """Positions of the images in the file."""
    pixels = (dataset.get_data_info(i)['img'] for i in range(len(dataset)))
    return [int(image[0, 0, 0]) + 256 * int(image[0, 1, 0]) for image in pixels]


def test_worked_profile() -> None:
    # A factor of sqrt(100) = 10 from class to class.
    assert long_tailed_counts(3, imbalance=100, most=500) == [500, 50, 5]


@pytest.mark.parametrize(
    ('num_classes', 'imbalance', 'total', 'least'),
    [
        *[(10, 10, 20431, 500), (10, 50, 13996, 100), (10, 100, 12406, 50), (10, 200, 11203, 25)],
        *[(100, 10, 19573, 50), (100, 50, 12608, 10), (100, 100, 10847, 5), (100, 200, 9502, 2)],
    ],
)
def test_profiles_of_cifar(num_classes: int, imbalance: int, total: int, least: int) -> None:
    """Sizes as users of long-tailed CIFAR report them, such as 12,406 and 10,847 images."""
    counts = long_tailed_counts(num_classes, imbalance, 50_000 // num_classes)
    assert sum(counts) == total
    assert counts[0] == 50_000 // num_classes
    assert counts[-1] == least
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [((1, 10, 500), '2 classes, got 1'), ((10, 0.01, 500), '0.01'), ((10, 501, 500), '501')],
)
def test_impossible_profiles_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        long_tailed_counts(*arguments)


@pytest.mark.parametrize('cls', [TinyCIFAR10LT, TinyCIFAR100LT])
def test_training_split_has_the_profile_and_the_right_images(cls: type, cifar: str) -> None:
    dataset = cls(data_root=cifar, imbalance=4)
    labels = dataset.get_gt_labels()
    num_classes = len(dataset.metainfo['classes'])
    expected = long_tailed_counts(num_classes, 4, PER_CLASS)
    assert np.bincount(labels).tolist() == expected
    assert (expected[0], expected[-1]) == (8, 2)
    own = ids(dataset)
    assert len(set(own)) == len(own)
    assert [i % num_classes for i in own] == labels.tolist()  # an image keeps its label


@pytest.mark.parametrize('cls', [TinyCIFAR10LT, TinyCIFAR100LT])
def test_test_split_is_whole(cls: type, cifar: str) -> None:
    dataset = cls(data_root=cifar, imbalance=4, split='test', test_mode=True)
    assert set(np.bincount(dataset.get_gt_labels())) == {2}


def test_images_depend_on_the_seed_alone(cifar: str) -> None:
    first, again, other = (TinyCIFAR10LT(cifar, imbalance=4, seed=seed) for seed in (1, 1, 2))
    assert ids(first) == ids(again)
    assert ids(first) != ids(other)
    assert np.array_equal(np.bincount(first.get_gt_labels()), np.bincount(other.get_gt_labels()))


def test_a_higher_imbalance_takes_images_away(cifar: str) -> None:
    balanced, mild, strong = (TinyCIFAR10LT(cifar, imbalance=n) for n in (1, 2, 8))
    assert ids(balanced) == list(range(10 * PER_CLASS))
    assert set(ids(strong)) < set(ids(mild)) < set(ids(balanced))


def test_images_that_are_held_out_are_in_no_training_split(cifar: str) -> None:
    held = TinyCIFAR10LT(cifar, hold_out=2, held_out=True, imbalance=1)
    assert np.bincount(held.get_gt_labels()).tolist() == [2] * 10
    for imbalance in (1, 4):
        kept = TinyCIFAR10LT(cifar, hold_out=2, imbalance=imbalance)
        expected = long_tailed_counts(10, imbalance, PER_CLASS - 2)
        assert np.bincount(kept.get_gt_labels()).tolist() == expected
        assert not set(ids(kept)) & set(ids(held))
    with pytest.raises(ValueError, match='held_out=True needs hold_out'):
        TinyCIFAR10LT(cifar, held_out=True)


def test_an_imbalance_that_empties_a_class_is_refused(cifar: str) -> None:
    with pytest.raises(ValueError, match='imbalance=100 leaves the last class none of 8'):
        TinyCIFAR10LT(cifar)


@pytest.mark.parametrize('name', ['CIFAR10LT', 'CIFAR100LT'])
def test_data_sets_are_registered_and_default_to_imbalance_100(name: str, tmp_path: Path) -> None:
    dataset = DATASETS.build(dict(type=name, data_root=str(tmp_path), lazy_init=True))
    assert (dataset.imbalance, dataset.seed, dataset.split) == (100, 0, 'train')


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize('depth', [8, 20, 32])
def test_parameters_of_the_network(depth: int) -> None:
    """Convolutions of 3 x 3 without bias, and two numbers a channel of their BatchNorm."""

    def conv(width_in: int, width: int) -> int:
        return 9 * width_in * width + 2 * width

    n = (depth - 2) // 6
    expected = conv(3, 16) + conv(16, 32) + conv(32, 64)  # and the first of a wider stage
    expected += 2 * n * conv(16, 16) + (2 * n - 1) * (conv(32, 32) + conv(64, 64))
    assert parameters(CIFARResNet(depth)) == expected


def classifier(backbone: dict) -> nn.Module:
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        )
    )


def test_resnet32_has_the_published_size_and_classifies() -> None:
    model = classifier(dict(type='mmpretrain.CIFARResNet', depth=32))
    assert parameters(model) == 464_154
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) + 1 == 32
    model.init_weights()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_feature_map_has_a_quarter_of_the_size_and_64_channels() -> None:
    (features,) = CIFARResNet(8)(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 64, 8, 8)


def test_stages_halve_the_image_and_double_the_width() -> None:
    shapes = []
    network = CIFARResNet(20)
    for block in network.blocks:
        block.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape[1:])))
    network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_shortcut_takes_every_second_pixel_and_appends_zeros() -> None:
    shortcut = PaddedShortcut(2)
    assert parameters(shortcut) == 0
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = shortcut(x)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, 0].tolist() == [[0, 2], [8, 10]]
    assert not out[0, 1:].any()


def test_only_the_wider_stages_begin_with_a_shortcut() -> None:
    network = CIFARResNet(32)
    shortcuts = [block.downsample for block in network.blocks]
    assert all(isinstance(block, BasicBlock) for block in network.blocks)
    assert [i for i, shortcut in enumerate(shortcuts) if shortcut is not None] == [5, 10]


@pytest.mark.parametrize('depth', [2, 18, 33, 34])
def test_impossible_depth_is_named(depth: int) -> None:
    with pytest.raises(ValueError, match=f'6n \\+ 2, .* got {depth}'):
        CIFARResNet(depth)


def complaint(**dataset) -> Optional[str]:
    """What is said of a training set; None if nothing is missing."""
    try:
        dataset = dict(type='CustomDataset') | dataset
        check_data(dict(train_dataloader=dict(dataset=dataset)), 'train')
    except FileNotFoundError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ('ann_file', 'sources'),
    [
        ('ImageNet_LT_train.txt', ['OpenLongTailRecognition-OLTR', 'image-net.org']),
        ('ImageNet_LT_test.txt', ['OpenLongTailRecognition-OLTR', 'image-net.org']),
        ('meta/Places_LT_train.txt', ['OpenLongTailRecognition-OLTR', 'places2.csail.mit.edu']),
        ('Places_LT_test.txt', ['OpenLongTailRecognition-OLTR', 'places2.csail.mit.edu']),
        ('iNaturalist18_train.txt', ['visipedia/inat_comp/tree/master/2018']),
        ('iNaturalist18_val.txt', ['visipedia/inat_comp/tree/master/2018']),
    ],
)
def test_a_missing_list_is_named_with_where_it_comes_from(ann_file: str, sources: list) -> None:
    message = complaint(data_root='nowhere', ann_file=ann_file)
    assert f'nowhere/{ann_file}' in message
    assert 'train_dataloader.dataset' in message
    for source in sources:
        assert source in message


def test_a_missing_list_of_ones_own_has_no_source() -> None:
    message = complaint(data_root='nowhere', ann_file='mine.txt')
    assert 'nowhere/mine.txt' in message
    assert 'http' not in message


@pytest.mark.parametrize('prefix', ['images', dict(img_path='images')])
def test_the_image_folder_is_checked_too(tmp_path: Path, prefix) -> None:
    (tmp_path / 'ImageNet_LT_train.txt').write_text('a.jpg 0\n')
    dataset = dict(data_root=str(tmp_path), ann_file='ImageNet_LT_train.txt', data_prefix=prefix)
    message = complaint(**dataset)
    assert f'there: {tmp_path}/images (' in message
    assert 'image-net.org' in message
    (tmp_path / 'images').mkdir()
    assert complaint(**dataset) is None


def test_the_folders_that_a_list_names_are_checked(tmp_path: Path) -> None:
    """The shipped configs have lists with folders and no prefix."""
    (tmp_path / 'ImageNet_LT_train.txt').write_text('train/n01440764/n01440764_190.JPEG 0\n')
    dataset = dict(data_root=str(tmp_path), ann_file='ImageNet_LT_train.txt')
    message = complaint(**dataset)
    assert f'there: {tmp_path}/train (' in message
    assert 'image-net.org' in message
    (tmp_path / 'train').mkdir()
    assert complaint(**dataset) is None


def test_without_a_prefix_the_images_are_in_the_root(tmp_path: Path) -> None:
    path = tmp_path / 'list.txt'
    path.write_text('a.jpg 0\n')
    assert complaint(data_root=str(tmp_path), ann_file='list.txt') is None
    assert complaint(ann_file=str(path)) is None
    assert 'there: nowhere (' in complaint(data_root='nowhere', ann_file=str(path))


def test_absolute_paths_and_the_home_folder_are_joined_as_mmpretrain_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'images').mkdir()
    (tmp_path / 'list.txt').write_text('a.jpg 0\n')
    dataset = dict(data_root='nowhere', ann_file='~/list.txt', data_prefix='~/images')
    assert complaint(**dataset) is None
    built = DATASETS.build(dict(type='CustomDataset', **dataset))
    assert Path(built.ann_file) == tmp_path / 'list.txt'
    assert Path(built.img_prefix) == tmp_path / 'images'


@pytest.mark.parametrize('key', ['classes', 'metainfo'])
def test_a_missing_file_of_class_names_is_named(tmp_path: Path, key: str) -> None:
    """mmengine would take the path itself for the class names."""
    path = tmp_path / 'names.txt'
    dataset = dict(data_root=str(tmp_path))
    dataset[key] = str(path) if key == 'classes' else dict(classes=str(path))
    message = complaint(**dataset)
    assert f'there: {path} (' in message
    assert 'metainfo.classes' in message
    path.write_text('cat\ndog\n')
    assert complaint(**dataset) is None


def test_class_names_themselves_are_no_files(tmp_path: Path) -> None:
    assert complaint(data_root=str(tmp_path), metainfo=dict(classes=('cat', 'dog'))) is None


def test_remote_data_is_not_looked_for() -> None:
    assert complaint(data_root='s3://bucket', ann_file='list.txt', data_prefix='images') is None
    assert complaint(ann_file='s3://bucket/list.txt', data_prefix='s3://bucket/images') is None


@pytest.mark.parametrize('kind', ['CIFAR10', 'mmdisalign.classification.CIFAR10LT'])
def test_cifar_is_downloaded_unless_the_config_says_no(kind: str) -> None:
    assert complaint(type=kind, data_root='nowhere') is None
    assert f'({kind}) is not there: nowhere (' in complaint(
        type=kind, data_root='nowhere', download=False
    )
