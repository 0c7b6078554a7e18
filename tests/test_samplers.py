"""Samplers by class: what they draw, how often, and that processes share an epoch."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATA_SAMPLERS
from torch.utils.data import DataLoader

from mmdisalign.classification import samplers
from mmdisalign.classification.samplers import ClassSampler, LearnedClassSampler

# 90 images of class 0, 9 of class 1, none of class 2, 1 of class 3; in no order.
LABELS = np.random.default_rng(0).permutation([0] * 90 + [1] * 9 + [3])


class Images:
    """The labels of a data set of mmpretrain."""

    def __init__(self, labels=LABELS) -> None:
        self.labels = np.asarray(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index

    def get_gt_labels(self) -> np.ndarray:
        return self.labels


def write_list(path, labels) -> str:
    path.write_text(''.join(f'{i}.jpg {label}\n' for i, label in enumerate(labels)))
    return str(path)


def class_shares(sampler, draws: int = 40_000) -> np.ndarray:
    drawn = np.fromiter(islice(sampler.draws(), draws), dtype=int)
    return np.bincount(LABELS[drawn], minlength=4) / draws


def expected_shares(power: float) -> list[float]:
    weights = [90**power, 9**power, 0, 1]
    return [weight / sum(weights) for weight in weights]


def of_process(monkeypatch, rank: int, world_size: int, cls=ClassSampler, **kwargs):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return cls(Images(), seed=7, **kwargs)


def test_worked_example_of_the_probabilities() -> None:
    # 4 and 1 images: instance-balanced 4/5 and 1/5; square-root 2/3 and 1/3; balanced 1/2 each.
    images = Images([0, 0, 1, 0, 0])
    assert ClassSampler(images, power=1).probabilities.tolist() == [0.8, 0.2]
    np.testing.assert_allclose(ClassSampler(images, power=0.5).probabilities, [2 / 3, 1 / 3])
    assert ClassSampler(images).probabilities.tolist() == [0.5, 0.5]


@pytest.mark.parametrize('power', [1, 0.5, 0, -0.5])
def test_classes_are_drawn_by_the_power_of_their_frequency(power: float) -> None:
    sampler = ClassSampler(Images(), power=power, seed=0)
    np.testing.assert_allclose(sampler.probabilities, expected_shares(power))
    np.testing.assert_allclose(class_shares(sampler), expected_shares(power), atol=0.01)


def test_images_of_a_class_are_drawn_uniformly() -> None:
    drawn = Counter(islice(ClassSampler(Images(), seed=0).draws(), 27_000))
    of_class_1 = [drawn[int(index)] for index in np.flatnonzero(LABELS == 1)]
    # A third of the draws, over 9 images: 1000 each, with a standard deviation of 31.
    np.testing.assert_allclose(of_class_1, 1000, atol=150)


def test_progressive_sampling_goes_from_instances_to_classes() -> None:
    sampler = ClassSampler(Images(), progressive_epochs=10, seed=0)
    for epoch, progress in [(0, 0), (3, 0.3), (10, 1), (25, 1)]:
        sampler.set_epoch(epoch)
        expected = (1 - progress) * np.array([0.9, 0.09, 0, 0.01]) + progress * np.array(
            [1 / 3, 1 / 3, 0, 1 / 3]
        )
        np.testing.assert_allclose(sampler.probabilities, expected)
        np.testing.assert_allclose(class_shares(sampler), expected, atol=0.01)


@pytest.mark.parametrize('cls', [ClassSampler, LearnedClassSampler])
def test_an_epoch_is_as_long_as_the_data_set_and_known_by_seed_and_epoch(cls) -> None:
    sampler, same = cls(Images(), seed=3), cls(Images(), seed=3)
    first = list(sampler)
    assert len(first) == len(sampler) == 100
    assert first == list(sampler) == list(same)
    sampler.set_epoch(1)
    assert list(sampler) != first
    # Seed 4 in epoch 0 is not seed 3 in epoch 1: seeds are runs of their own.
    assert list(sampler) != list(cls(Images(), seed=4)) != first


@pytest.mark.parametrize('cls', [ClassSampler, LearnedClassSampler])
@pytest.mark.parametrize('round_up', [True, False])
def test_processes_share_an_epoch(monkeypatch, cls, round_up: bool) -> None:
    parts = [of_process(monkeypatch, rank, 3, cls, round_up=round_up) for rank in range(3)]
    lengths = [34, 34, 34] if round_up else [34, 33, 33]
    assert [len(part) for part in parts] == [len(list(part)) for part in parts] == lengths
    drawn = [list(islice(part.draws(), 50)) for part in parts]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    labels = LABELS[list(chain.from_iterable(islice(part.draws(), 9000) for part in parts))]
    np.testing.assert_allclose(np.bincount(labels) / 27_000, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.01)


def test_without_a_seed_all_processes_agree_on_one(monkeypatch) -> None:
    monkeypatch.setattr(samplers, 'sync_random_seed', lambda: 11)
    assert list(ClassSampler(Images())) == list(ClassSampler(Images(), seed=11))


def test_new_rates_are_in_the_next_draw() -> None:
    sampler = LearnedClassSampler(Images(), seed=0)
    np.testing.assert_allclose(sampler.rates, [1 / 3, 1 / 3, 0, 1 / 3])
    draws = iter(sampler)
    balanced = [LABELS[next(draws)] for _ in range(50)]
    sampler.set_rates(np.array([0.0, 1.0, 0.0, 0.0]))
    assert set(balanced) == {0, 1, 3}
    assert [LABELS[index] for index in draws] == [1] * 50


def test_rates_need_not_sum_to_one_and_skip_classes_without_images() -> None:
    sampler = LearnedClassSampler(Images(), seed=0)
    # Class 2 has no image, and class 4 is one that the data set never gets to.
    sampler.set_rates(torch.tensor([6.0, 3.0, 50.0, 1.0, 20.0], requires_grad=True))
    assert sampler.rates.dtype == np.float64
    np.testing.assert_allclose(sampler.rates, [0.6, 0.3, 0, 0.1])
    np.testing.assert_allclose(class_shares(sampler), [0.6, 0.3, 0, 0.1], atol=0.01)


@pytest.mark.parametrize(
    'rates, message',
    [
        ([0.5, 0.5], r'4 classes and the rates are of shape \(2,\)'),
        ([[0.25] * 4], r'shape \(1, 4\)'),
        ([1, 1, 1, -1], 'not negative'),
        ([1, 1, 1, float('nan')], 'finite'),
        ([1, 1, 1, float('inf')], 'finite'),
        ([0, 0, 1, 0], 'positive somewhere'),
    ],
)
def test_bad_rates_are_refused(rates, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedClassSampler(Images()).set_rates(np.array(rates, dtype=float))


def test_a_prefetching_data_loader_sees_new_rates_within_an_epoch() -> None:
    sampler = LearnedClassSampler(Images(), seed=0)
    loader = DataLoader(Images(), batch_size=5, sampler=sampler, num_workers=1, prefetch_factor=2)
    batches = iter(loader)
    next(batches)
    sampler.set_rates(np.array([0, 0, 0, 1.0]))
    labels = [LABELS[batch.numpy()] for batch in batches]
    assert len(labels) == 19
    # Two batches were fetched ahead; the next one may have been begun.
    assert all((of_batch == 3).all() for of_batch in labels[3:])


@pytest.mark.parametrize('wrapped', [False, True])
def test_data_sets_of_mmpretrain_and_their_wrappers(tmp_path, wrapped: bool) -> None:
    ann_file = write_list(tmp_path / 'train.txt', LABELS)
    dataset = CustomDataset(ann_file=ann_file, data_prefix='')
    if wrapped:
        dataset = ConcatDataset([dataset, dataset])
    cfg = dict(type='ClassSampler', power=1)
    sampler = DATA_SAMPLERS.build(cfg, default_args=dict(dataset=dataset, seed=0))
    assert len(sampler) == len(dataset) == (200 if wrapped else 100)
    assert sampler.counts.tolist() == [count * (2 if wrapped else 1) for count in (90, 9, 0, 1)]


@pytest.mark.parametrize(
    'dataset, message',
    [
        ([1, 2, 3], 'list cannot be sampled by class: it has no label'),
        (Images([[[0, 1]], [[1, 0]]]), r'Images .* got shape \(2, 2\)'),
        (Images([0.5, 0.5]), 'Images .* of float64'),
    ],
)
def test_a_data_set_without_labels_is_named(dataset, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ClassSampler(dataset)


def test_images_of_several_classes_are_drawn_for_each_of_them() -> None:
    class MultiLabel:
        labels = ([0, 1], [0], [], [0, 2], [0])

        def __len__(self) -> int:
            return len(self.labels)

        def get_data_info(self, index: int) -> dict:
            return {'gt_label': self.labels[index]}

    sampler = ClassSampler(MultiLabel(), power=0, seed=0)
    assert sampler.counts.tolist() == [4, 1, 1]
    drawn = np.bincount(list(islice(sampler.draws(), 6000)), minlength=5) / 6000
    # Each class a third; class 0 from four images, the others from one each. 0.02: 3 errors.
    np.testing.assert_allclose(drawn, [5 / 12, 1 / 12, 0, 5 / 12, 1 / 12], atol=0.02)


def test_a_data_set_whose_samples_have_no_label_is_named() -> None:
    class Unlabelled(SimpleNamespace):
        def __len__(self) -> int:
            return 2

        def get_data_info(self, index: int) -> dict:
            return {'img_path': f'{index}.jpg'}

    with pytest.raises(TypeError, match='Unlabelled cannot be sampled by class'):
        LearnedClassSampler(Unlabelled())


class LabelsApart(BaseDataset):
    """One's own: the infos have no labels, which ``get_gt_labels`` says."""

    def __init__(self, labels: list) -> None:
        self.labels = labels
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [{'img_path': f'{index}.jpg'} for index in range(6)]

    def get_gt_labels(self) -> np.ndarray:
        return np.array(self.labels)


def test_a_data_set_of_mmengine_may_have_its_labels_apart_from_its_infos() -> None:
    sampler = ClassSampler(LabelsApart([2, 0, 0, 1, 0, 0]), seed=0)
    assert sampler.counts.tolist() == [4, 1, 1]
    drawn = np.bincount(list(islice(sampler.draws(), 6000)), minlength=6) / 6000
    np.testing.assert_allclose(drawn, [1 / 3, 1 / 12, 1 / 12, 1 / 3, 1 / 12, 1 / 12], atol=0.02)
    with pytest.raises(TypeError, match=r'LabelsApart .* has no label of each image'):
        ClassSampler(LabelsApart([2, 0, 0]))


def test_images_of_no_label_at_all_are_named() -> None:
    with pytest.raises(ValueError, match=r'Images .* none of its images has a label'):
        ClassSampler(Images(np.zeros((3, 0), int)))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match='progressive_epochs must be positive, got 0'):
        ClassSampler(Images(), progressive_epochs=0)
    with pytest.raises(ValueError, match=r'leave out power=0\.5'):
        ClassSampler(Images(), power=0.5, progressive_epochs=10)
