"""Samples of what a classifier saw, and the calibration that is fitted to them."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmdisalign.calibration import (
    AdaptiveCalibration,
    AffineScores,
    ClassPrior,
    LinearScores,
    generalized_reweight,
)
from mmdisalign.losses import weighted_cross_entropy
from mmdisalign.onepass import sample_cache
from mmdisalign.onepass.collect import SeededDataset, checked_logits, collect, in_half
from mmdisalign.onepass.fitting import (
    Samples,
    balanced_score,
    calibrated_scores,
    fit_calibration,
    hardest,
    normalizer_of,
    sampled_loss,
    sampled_sum,
)
from mmdisalign.onepass.image_choice import (
    ImageChoice,
    enough_images,
    every_image,
    image_numbers,
)
from mmdisalign.onepass.one_pass import FullCheck, OnePass, check_fully
from mmdisalign.onepass.sample_cache import (
    Joined,
    Layout,
    Reservoir,
    SampleCache,
    fair_capacities,
    merged,
)
from mmdisalign.segmentation.collect import SampleCollector, neighbours

C, CHANNELS = 4, 6
WEIGHT = generalized_reweight([80, 15, 4, 1], 0.8)


def learned_calibration(seed: int = 0) -> AdaptiveCalibration:
    calibration = AdaptiveCalibration(C, CHANNELS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.normal_(generator=generator)
    return calibration


def long_tailed(number: int = 3000, seed: int = 0) -> Samples:
    """Features with a little of the label in them, and scores that favour the first classes."""
    rng = np.random.default_rng(seed)
    label = rng.choice(C, number, p=[0.8, 0.15, 0.04, 0.01])
    features = rng.normal(size=(number, 1, CHANNELS)).astype(np.float16)
    logits = rng.normal(size=(number, 1, C)) + np.log([0.8, 0.15, 0.04, 0.01])
    logits[np.arange(number), 0, label] += 1.5
    return Samples(
        features=features,
        logits=logits.astype(np.float32),
        taps=np.ones((number, 1), np.float32),
        label=label.astype(np.int32),
        weight=np.ones(number),
        image=np.arange(number, dtype=np.int32),
    )


# Pixels between positions


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    ('size', 'coarse'), [((8, 12), (2, 3)), ((7, 9), (3, 4)), ((5, 5), (1, 5))]
)
def test_taps_give_what_interpolation_gives(align_corners, size, coarse) -> None:
    scores = torch.randn(1, C, *coarse, dtype=torch.float64)
    expected = F.interpolate(scores, size, mode='bilinear', align_corners=align_corners)
    positions, taps = neighbours(torch.arange(size[0] * size[1]), size, coarse, align_corners)
    found = (scores[0].flatten(1)[:, positions] * taps).sum(dim=2)
    # 1e-6: taps are float32.
    torch.testing.assert_close(found, expected[0].flatten(1), rtol=1e-6, atol=1e-6)


class Head(nn.Module):
    """What the collector needs of a decode head: two convolutions and a calibration."""

    align_corners, ignore_index, sampler = False, 255, None

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.calibration = learned_calibration()
        self.conv_seg = nn.Conv2d(CHANNELS, C, 1)
        self.loss = loss

    def _losses(self) -> list[nn.Module]:
        return [self.loss]

    def forward(self, features: Tensor) -> Tensor:
        return self.calibration(self.conv_seg(features), features)


class Segmentor(nn.Module):
    has_own_loss = False

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.decode_head = Head(loss)
        self._calibrated_head = self.decode_head

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        return data

    def extract_feat(self, inputs: Tensor) -> Tensor:
        return inputs

    def _head_inputs(self, features: Tensor) -> tuple[Tensor]:
        return (features,)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> tuple[SampleCollector, dict, Tensor]:
    """A collector, two images of 24 x 32 pixels on maps of 6 x 8, and their labels."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    from mmdisalign.losses import GRWCrossEntropyLoss

    torch.manual_seed(0)
    collector = SampleCollector(Segmentor(GRWCrossEntropyLoss([80, 15, 4, 1], 0.8)))
    label = torch.from_numpy(
        np.random.default_rng(0).choice(C, (2, 24, 32), p=[0.8, 0.15, 0.04, 0.01])
    )
    label[:, :3] = 255
    monkeypatch.setattr(BaseDecodeHead, '_stack_batch_gt', lambda self, samples: samples[:, None])
    # In half precision already, so that the cache rounds nothing.
    inputs = torch.randn(2, CHANNELS, 6, 8).half().float()
    return collector, dict(inputs=inputs, data_samples=label), label


def full_loss(collector: SampleCollector, data: dict, label: Tensor, normalizer: str) -> float:
    scores = F.interpolate(
        collector.head(data['inputs']), label.shape[1:], mode='bilinear', align_corners=False
    )
    loss = weighted_cross_entropy(scores, label, WEIGHT, ignore_index=255, normalizer=normalizer)
    return loss.item()


@torch.no_grad()
def estimate(
    collector: SampleCollector, data: dict, seed: int, normalizer: str, weighted: bool = True
) -> float:
    rng = np.random.default_rng(seed)
    found = list(collector(data, rng))
    parts = [samples for _, samples, _ in found]
    arrays = [name for name, own in vars(parts[0]).items() if isinstance(own, np.ndarray)]
    whole = Samples(**{n: np.concatenate([vars(p)[n] for p in parts]) for n in arrays})
    whole.weight = whole.weight if weighted else np.ones(len(whole))
    every = np.arange(len(whole))
    per_valid = sum(n for *_, elements in found for n in elements.values()) / whole.weight.sum()
    total = normalizer_of(normalizer, whole, every, WEIGHT, per_valid)
    return sampled_loss(collector.head.calibration, whole.chunks(every), WEIGHT, total)


@pytest.mark.parametrize('normalizer', ['elements', 'valid', 'class_weight'])
def test_with_all_pixels_the_sampled_loss_is_the_full_loss(images, normalizer: str) -> None:
    collector, data, label = images
    collector.most = np.full(C, label.numel())
    expected = full_loss(collector, data, label, normalizer)
    # 1e-5: float32 sums in another order.
    assert estimate(collector, data, 0, normalizer) == pytest.approx(expected, rel=1e-5)


def test_the_sampled_loss_is_an_unbiased_estimate_of_the_full_loss(images) -> None:
    collector, data, label = images
    collector.most = np.full(C, 2)  # of up to 560 pixels of a class in an image
    expected = full_loss(collector, data, label, 'elements')
    found, unweighted = (
        np.array([estimate(collector, data, seed, 'elements', weighted) for seed in range(400)])
        for weighted in (True, False)
    )
    error = found.std(ddof=1) / np.sqrt(len(found))
    # An unbiased estimate is off by 4 standard errors once in 16,000 times; the seeds are fixed.
    assert abs(found.mean() - expected) < 4 * error
    # A single one is off by more, and without the weights, all are: the rare are drawn more often.
    assert found.std() > 0.05 * expected
    assert abs(unweighted.mean() - expected) > 20 * error


class Pictures(torch.utils.data.Dataset):
    """Images of 24 x 32 pixels on maps of 6 x 8; the rarest class is in one of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        number = [1, 2, 3, 4, 2, 1, 2, 3]
        self.labels = [rng.choice(n, (24, 32), p=SHARES[n]) for n in number]
        torch.manual_seed(0)
        # In half precision already, so that the cache rounds nothing.
        self.inputs = torch.randn(len(number), CHANNELS, 6, 8).half().float()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        label = torch.from_numpy(self.labels[index]).clone()
        label[torch.randint(24, ())] = 255  # the augmentation
        return dict(inputs=self.inputs[index], data_samples=label)


SHARES = {1: [1.0], 2: [0.9, 0.1], 3: [0.85, 0.1, 0.05], 4: [0.8, 0.15, 0.04, 0.01]}
PRIOR = ClassPrior([80, 15, 4, 1])


def stacked(data: dict, _: bool) -> dict:
    return {name: torch.stack(values) for name, values in data.items()}


def collected(
    collector: SampleCollector, folder: Path, choice: ImageChoice, seed: int, num_bytes: float = 1e9
) -> tuple[Samples, float]:
    """Samples of the pictures, and how many elements came."""
    collector.model.data_preprocessor = stacked
    capacities = collector.capacities(choice, num_bytes)
    cache = SampleCache(folder, dict(seed=seed), collector.layouts, capacities)
    dataset = SeededDataset(Pictures(), seed)
    collect(collector, cache, dataset, choice, batch_size=3, num_workers=0)
    samples, elements = cache.merged()
    return samples[collector.name], elements[collector.name]


def full_sum(collector: SampleCollector, choice: ImageChoice, seed: int) -> float:
    dataset, total = SeededDataset(Pictures(), seed), 0.0
    for index in choice.index.tolist():
        data = pseudo_collate([dataset[index]])
        total += collector.full_losses(data, WEIGHT)[2]
    return total


def test_images_pixels_and_slots_together_estimate_the_full_loss_without_bias(
    images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, _, _ = images
    monkeypatch.setattr('mmdisalign.segmentation.collect.MOST_OF_A_CLASS', 8)
    # Without augmentation, so that each pass of an image has the same loss.
    monkeypatch.setattr(torch, 'randint', lambda *_: torch.tensor(0))
    classes = [np.unique(label) for label in Pictures().labels]
    collector.model.data_preprocessor = stacked
    with torch.no_grad():
        expected = full_sum(collector, every_image(8, 1, PRIOR), 0)
    found, kept, came = [], 0, 0.0
    for seed in range(150):
        choice = enough_images(classes, C, per_class=2, passes=3, seed=seed)
        # A cache of 40 samples, of about 60 that are drawn.
        room = 40 * collector.layouts[collector.name].bytes
        samples, elements = collected(collector, tmp_path / str(seed), choice, seed, room)
        every = np.arange(len(samples))
        found.append(sampled_sum(collector.head.calibration, samples, every, WEIGHT)[0])
        kept, came = kept + len(samples), came + elements
    assert kept <= 150 * 40
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    # An unbiased estimate is off by 4 standard errors once in 16,000 times; the seeds are fixed.
    assert abs(np.mean(found) - expected) < 4 * error
    assert error < 0.05 * expected
    assert came / 150 == pytest.approx(8 * 24 * 32, rel=0.1)


def test_where_slots_are_few_the_rare_classes_keep_most_pixels(images) -> None:
    collector, _, _ = images
    choice = every_image(100, 1, ClassPrior([1, 1, 1, 1], images=[100, 100, 10, 1]))
    capacity = collector.capacities(choice, 1000 * collector.layouts[collector.name].bytes)
    assert capacity[collector.name].sum() <= 1000
    # By the root of 6400, 6400, 640 and 64 that may come: 414, 414, 130 and 41 slots.
    assert collector.most.tolist() == [5, 5, 13, 41]
    assert collector.how == 'at most 5 to 41 pixels of each class in each'


def check_of(collector: SampleCollector, folder: Path, seed: int = 0, factor: float = 1.0):
    classes = [np.unique(label) for label in Pictures().labels]
    choice = enough_images(classes, C, per_class=3, passes=3, seed=seed)
    samples, _ = collected(collector, folder / str(seed), choice, seed)
    samples.weight *= factor
    calibration, dataset = collector.head.calibration, SeededDataset(Pictures(), seed)
    return check_fully(collector, samples, calibration, dataset, choice, WEIGHT)


def test_the_check_compares_with_the_loss_of_every_pixel(images, tmp_path: Path) -> None:
    collector, _, _ = images
    found = check_of(collector, tmp_path)
    # Four of the images, as often as they were passed: one row of 24 is ignored.
    (pixels,) = re.fullmatch(r'([\d,]+) pixels of 4 images', found.what).groups()
    assert int(pixels.replace(',', '')) % (23 * 32) == 0
    assert found.before != pytest.approx(found.after, rel=1e-2)
    assert found.sampled == pytest.approx(found.after, rel=0.1)
    with torch.no_grad():
        for parameter in collector.head.calibration.parameters():
            parameter.zero_()
    untouched = check_of(collector, tmp_path)
    assert untouched.before == untouched.after == pytest.approx(found.before, rel=1e-6)


def test_the_full_loss_is_that_of_the_upsampled_scores(images) -> None:
    collector, data, label = images
    with torch.no_grad():
        number, before, after = collector.full_losses(data, WEIGHT)
    assert number == (label != 255).sum()
    # 1e-5: float32 sums in another order.
    assert after / number == pytest.approx(full_loss(collector, data, label, 'valid'), rel=1e-5)
    assert before != pytest.approx(after, rel=1e-2)


@pytest.mark.parametrize('most', [1, 16])
def test_the_check_knows_how_far_off_samples_may_be(
    images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    collector, _, _ = images
    monkeypatch.setattr('mmdisalign.segmentation.collect.MOST_OF_A_CLASS', most)
    found = [check_of(collector, tmp_path, seed) for seed in range(40)]
    deviation = np.array([(each.sampled - each.after) / each.error for each in found])
    # The stated error is an upper bound, and not a useless one.
    assert 0.05 < (deviation**2).mean() < 1.3  # of 400 seeds, 0.09 to 0.11
    assert not any('These differ' in str(each) for each in found)


@pytest.mark.parametrize('factor', [0.5, 2.0])
def test_the_check_warns_of_samples_that_do_not_stand_for_the_images(
    images, tmp_path: Path, factor: float
) -> None:
    found = str(check_of(images[0], tmp_path, factor=factor))
    assert 'These differ by more than chance explains' in found


def test_the_check_warns_of_a_loss_that_has_risen() -> None:
    found = FullCheck('9 pixels of 4 images', before=1.0, after=1.1, sampled=1.1, error=0.1)
    assert 'The loss has risen: there were too few samples, so raise --cache-size' in str(found)
    assert 'mistrust' not in str(replace(found, after=0.9))


def test_a_class_without_a_sample_is_named(images, tmp_path: Path) -> None:
    collector, _, _ = images
    classes = [np.unique(label) for label in Pictures().labels]
    choice = enough_images(classes, C, per_class=1, passes=1, seed=0)
    samples, elements = collected(collector, tmp_path, choice, 0)
    whole = OnePass(collector, {collector.name: samples}, {collector.name: elements}, None, 0.0)
    whole.check_classes()
    samples.label[samples.label == 3] = 0
    lacking = OnePass(collector, {collector.name: samples}, {collector.name: elements}, None, 0.0)
    with pytest.raises(ValueError, match=r'no sample of class 3: .* --images-per-class N'):
        lacking.check_classes()


# The cache


def test_slots_are_shared_fairly() -> None:
    assert fair_capacities([5, 5, 0], 100).tolist() == [5, 5, 0]
    # By the root of what is expected: 10 to 30.
    assert fair_capacities([100, 900], 40).tolist() == [10, 30]
    # The first has all, and the others share what is left, 30 to 60.
    assert fair_capacities([1, 900, 3600], 181).tolist() == [1, 60, 120]
    assert fair_capacities([1000, 1000, 1000], 10).tolist() == [3, 3, 3]


def offered(reservoir: Reservoir, seed: int, numbers: dict[int, int]) -> Samples:
    """Offer so many samples of each class, in batches, numbered in ``image``."""
    rng = np.random.default_rng(seed)
    for label, number in numbers.items():
        for batch in np.array_split(np.arange(number), 3):
            shape = (len(batch), 1)
            reservoir.offer(
                Samples(
                    features=np.repeat(batch[:, None, None], CHANNELS, 2).astype(np.float16),
                    logits=np.zeros((*shape, C), np.float32),
                    taps=np.ones(shape, np.float32),
                    label=np.full(len(batch), label, np.int32),
                    weight=np.full(len(batch), 2.0),
                    image=batch.astype(np.int32),
                ),
                rng,
            )
    return merged([reservoir], shared=False, device='cpu')


def test_a_full_class_keeps_each_sample_with_the_same_probability(tmp_path: Path) -> None:
    counts, runs = np.zeros(12), 600
    for seed in range(runs):
        folder = tmp_path / str(seed)
        folder.mkdir()
        reservoir = Reservoir(folder, Layout(1, CHANNELS, C), np.array([4, 2, 0, 3]))
        samples = offered(reservoir, seed, {0: 12, 3: 2})
        of_first = samples.label == 0
        kept = samples.image[of_first]
        assert len(set(kept)) == len(kept) == 4
        counts[kept] += 1
        # 12 came of weight 2, and 4 stand for them; of class 3, all that came are there.
        assert samples.weight[of_first].tolist() == [6.0] * 4
        assert samples.weight[~of_first].tolist() == [2.0] * 2
        assert (samples.features[samples.rows, 0, 0] == samples.image).all()
    # Each is kept in 1 of 3 runs; 5 standard deviations of the binomial.
    assert np.abs(counts - runs / 3).max() < 5 * np.sqrt(runs * (1 / 3) * (2 / 3))


CAPACITY = np.array([40, 20, 5, 10])


def batches(folder: Path, numbers: range, *others: Reservoir) -> Reservoir:
    """The reservoir of a folder, and others, after numbered batches; they take them in turn."""
    folder.mkdir(exist_ok=True)
    own = Reservoir(folder, Layout(1, CHANNELS, C), CAPACITY)
    for number in numbers:
        samples = long_tailed(60, seed=number)
        samples.view = np.full(60, number, np.int32)
        taker = (own, *others)[number % (1 + len(others))]
        taker.offer(samples, np.random.default_rng(number))
    return own


def assert_same_samples(found: list[Reservoir], whole: Reservoir) -> None:
    samples, expected = (merged(own, shared=False, device='cpu') for own in (found, [whole]))
    kept = np.minimum(whole.seen, CAPACITY)
    assert np.bincount(expected.label).tolist() == kept.tolist() and kept[:2].tolist() == [40, 20]
    for name in ('label', 'weight', 'image', 'view', 'quality'):
        np.testing.assert_array_equal(getattr(samples, name), getattr(expected, name))
    every = np.arange(kept.sum())
    for mine, theirs in zip(samples.chunks(every), expected.chunks(every)):
        assert all(map(torch.equal, mine, theirs))


def test_two_reservoirs_keep_what_one_would(tmp_path: Path) -> None:
    second = batches(tmp_path / 'second', range(0))
    first = batches(tmp_path / 'first', range(10), second)
    assert first.seen.sum() == second.seen.sum() == 5 * 60
    assert_same_samples([first, second], batches(tmp_path / 'one', range(10)))


def test_what_is_offered_again_after_a_kill_takes_its_old_place(tmp_path: Path) -> None:
    whole = batches(tmp_path / 'whole', range(10))
    killed = batches(tmp_path / 'killed', range(3))
    saved = killed.seen.copy()
    killed = batches(tmp_path / 'killed', range(3, 7))
    # What came after it was saved is there, not surely whole if the power failed.
    killed.arrays['logits'][killed.arrays['view'] >= 3] = 9
    killed.arrays['key'][np.flatnonzero(killed.arrays['view'] >= 3)[::2]] = 0
    killed = Reservoir(tmp_path / 'killed', Layout(1, CHANNELS, C), CAPACITY)
    resumed = batches(tmp_path / 'killed', range(3, 10))
    resumed.seen += saved
    assert_same_samples([resumed], whole)


class Collector:
    """Samples of data that are numbers: four of each."""

    layouts = {'a': Layout(1, CHANNELS, C)}

    def __call__(self, data: list, rng: np.random.Generator):
        number = 4 * len(data)
        samples = long_tailed(number, seed=int(data[0]))
        samples.image = np.repeat(np.arange(len(data), dtype=np.int32), 4)
        samples.features += rng.normal(size=samples.features.shape).astype(np.float16)
        yield 'a', samples, dict.fromkeys(range(len(data)), 4.0)


class Numbers(torch.utils.data.Dataset):
    """Number and what a random augmentation makes of it; it may fail at one."""

    def __init__(self, fail_at: int = -1) -> None:
        self.fail_at = fail_at

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> float:
        if index == self.fail_at:
            raise KeyboardInterrupt
        return np.random.randint(10_000)


def cache_of(folder: Path, **identity: object) -> SampleCache:
    capacities = {'a': np.array([30, 10, 5, 5])}
    return SampleCache(folder, dict(seed=1, **identity), Collector.layouts, capacities)


TWICE = every_image(40, 2, ClassPrior([1, 1, 1, 1]))
CLASSES = [np.array([index // 30]) for index in range(40)]
# 30 images, some of them twice, and the other 10 four times.
RARE = enough_images(CLASSES, 2, per_class=40, passes=4, seed=0)
NUMBER = image_numbers(Numbers(), np.arange(40))


def fill(cache: SampleCache, fail_at: int = -1, choice: ImageChoice = TWICE) -> Samples:
    dataset = SeededDataset(Numbers(fail_at), seed=1)
    collect(Collector(), cache, dataset, choice, batch_size=3, num_workers=0)
    return cache.merged()[0]['a']


@pytest.mark.parametrize(('choice', 'elements'), [(TWICE, 2 * 40 * 4), (RARE, 40 * 4)])
def test_interrupted_collecting_ends_with_the_samples_of_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: ImageChoice, elements: float
) -> None:
    whole = fill(cache_of(tmp_path / 'whole'), choice=choice)
    save, saved = SampleCache.save, []

    def save_once(cache: SampleCache) -> None:  # as a kill, it loses what came after
        if not saved:
            saved.append(cache.done)
            save(cache)

    monkeypatch.setattr('mmdisalign.onepass.collect.SECONDS_BETWEEN_SAVES', 0.0)
    monkeypatch.setattr(SampleCache, 'save', save_once)
    with pytest.raises(KeyboardInterrupt):
        fill(cache_of(tmp_path / 'broken'), fail_at=25, choice=choice)
    monkeypatch.undo()
    cache = cache_of(tmp_path / 'broken')
    assert cache.resumed and cache.done == saved[0] < 8
    resumed = fill(cache, choice=choice)
    assert cache.elements['a'] == pytest.approx(elements, rel=1e-12)
    # An image has one number, whenever it is passed.
    assert set(whole.image) <= set(NUMBER)
    for name, array in vars(whole).items():
        np.testing.assert_array_equal(vars(resumed)[name], array)


def test_samples_of_an_image_that_stands_for_others_weigh_as_much(tmp_path: Path) -> None:
    choice = enough_images(CLASSES, 2, per_class=10, passes=2, seed=0)
    cache = SampleCache(tmp_path, dict(seed=2), Collector.layouts, {'a': np.full(C, 1000)})
    samples = fill(cache, choice=choice)
    # Every third of 30 images, and all of the other 10.
    assert len(choice) == 20 and len(samples) == 20 * 4
    assert (samples.weight == np.where(np.isin(samples.image, NUMBER[:30]), 3, 1)).all()
    assert cache.elements == {'a': 40 * 4}


def test_samples_of_something_else_are_neither_taken_nor_touched(tmp_path: Path) -> None:
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache/precious.txt').touch()
    fill(cache_of(tmp_path / 'cache'))
    other = cache_of(tmp_path / 'cache', checkpoint='another')
    assert not other.resumed and other.done == 0
    other.remove()
    assert cache_of(tmp_path / 'cache').resumed
    assert (tmp_path / 'cache/precious.txt').exists()


def test_a_cache_that_lacks_a_file_is_made_anew(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / 'cache')
    fill(cache)
    (cache.folder / '0_of_1/0/label.bin').unlink()
    assert not cache_of(tmp_path / 'cache').resumed


def test_a_full_disk_is_said_before_anything_runs(tmp_path: Path, monkeypatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sample_cache.os, 'posix_fallocate', no_room)
    with pytest.raises(OSError, match=r'need 0\.0 GB in .*No space left.*smaller --cache-size'):
        cache_of(tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_not_finite_is_named(bad: float) -> None:
    values = torch.tensor([[1.0, bad]])
    with pytest.raises(FloatingPointError, match=f'scores of {bad} .1 of 2.'):
        checked_logits(values)
    with pytest.raises(FloatingPointError, match='features of inf'):
        in_half(torch.tensor([[1e6]]))  # beyond half precision


# The fit


def test_the_fit_ends_where_the_gradient_does() -> None:
    samples, calibration = long_tailed(), learned_calibration()
    every = np.arange(len(samples))
    fit = fit_calibration(calibration, samples, every, WEIGHT, 3000.0, weight_decay=0.01)
    assert fit.converged
    # The objective as a reader would write it, in float64.
    calibration.double()
    chunk = [
        torch.from_numpy(np.asarray(a, np.float64)) for a in (samples.features, samples.logits)
    ]
    scores = calibrated_scores(calibration, *chunk, torch.ones(len(samples), 1).double())
    label = torch.from_numpy(samples.label).long()
    loss = F.cross_entropy(scores, label, WEIGHT.double(), reduction='sum') / 3000
    penalty = 0.005 * sum((p * p).sum() for p in calibration.parameters())
    (loss + penalty).backward()
    assert fit.after == pytest.approx((loss + penalty).item(), rel=1e-5)
    # A step of 1 along a gradient of 1e-3 changes the loss by 1e-6, the tolerance.
    assert max(p.grad.abs().max() for p in calibration.parameters()) < 1e-3


def test_the_fit_finds_what_adam_finds() -> None:
    samples, found = long_tailed(), learned_calibration()
    every = np.arange(len(samples))
    options = (samples, every, WEIGHT, 3000.0)
    fit = fit_calibration(found, *options, weight_decay=0.01)
    slow = learned_calibration()
    optimizer = torch.optim.Adam(slow.parameters(), lr=0.02)
    chunks = samples.chunks(every)
    for _ in range(800):
        optimizer.zero_grad()
        loss = sampled_loss(slow, chunks, WEIGHT, 3000.0, backward=True)
        penalty = 0.005 * sum((p * p).sum() for p in slow.parameters())
        penalty.backward()
        optimizer.step()
    # Both are near the minimum, the fit at least as near.
    assert fit.after <= loss + penalty.item() + 1e-5
    assert fit.after == pytest.approx(loss + penalty.item(), rel=1e-3)


def test_the_fit_is_deterministic_and_chunks_do_not_matter(monkeypatch) -> None:
    samples, states = long_tailed(), []
    for chunk in (1 << 24, 1 << 24, 500):
        monkeypatch.setattr('mmdisalign.onepass.fitting.CHUNK', chunk)
        calibration = learned_calibration()
        fit_calibration(calibration, samples, np.arange(3000), WEIGHT, 3000.0, weight_decay=0.01)
        states.append(calibration.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    # Near the minimum, float32 sums in another order decide where the tolerance is reached.
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[2][key], rtol=0.05, atol=0.02)


def test_the_fit_ends_where_it_does_with_any_number_of_threads() -> None:
    # Above 2^15 samples, PyTorch shares a sum among threads; in float32, one thread then took 30
    # steps and two 39, and scores differed by 0.2.
    rng = np.random.default_rng(0)
    number, features, classes = 40_000, 16, 20
    seen = rng.normal(size=(number, 1, features)).astype(np.float16)
    logits = 3 * rng.normal(size=(number, 1, classes)).astype(np.float32)
    label = (logits[:, 0] + 4 * rng.normal(size=(number, classes))).argmax(1)
    ones = np.ones((number, 1), np.float32)
    samples = Samples(seen, logits, ones, label, ones[:, 0].astype(float), np.arange(number))
    weight = generalized_reweight(range(400, 0, -20), 0.8)
    threads, calibrated = torch.get_num_threads(), []
    for those in (1, 2):
        torch.set_num_threads(those)
        torch.manual_seed(0)
        calibration = AdaptiveCalibration(classes, features)
        fit_calibration(calibration, samples, np.arange(number), weight, float(number))
        with torch.no_grad():
            found = calibration(
                torch.from_numpy(logits[:, 0]), torch.from_numpy(seen[:, 0]).float()
            )
        calibrated.append(found)
    torch.set_num_threads(threads)
    torch.testing.assert_close(*calibrated, rtol=0, atol=1e-3)


@pytest.mark.parametrize('parts', [1, 2])  # arrays of two processes are joined
def test_what_is_affine_needs_interpolated_samples_alone(parts: int) -> None:
    generator = np.random.default_rng(0)
    number, positions, classes, channels = 9000, 4, 3, 5
    taps = generator.dirichlet(np.ones(positions), number).astype(np.float32)
    features = generator.normal(size=(number, positions, channels)).astype(np.float16)
    logits = generator.normal(size=(number, positions, classes + 1)).astype(np.float16)
    rows, label = np.arange(number)[::-1].copy(), np.zeros(number, np.int64)
    large = (features, logits, taps)
    if parts > 1:
        large = [Joined(np.array_split(own, parts)) for own in large]
    samples = Samples(*large, label, np.ones(number), label, rows)
    affine, linear = AffineScores(classes), LinearScores(classes, channels)
    for scores in (affine, linear):
        for parameter in scores.parameters():
            parameter.data.normal_()
        made = []
        for own in (samples, samples.of(scores)):
            chunks = own.chunks(np.arange(number))
            found = [calibrated_scores(scores, c.features, c.logits, c.taps) for c in chunks]
            made.append(torch.cat(found))
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)  # float32, summed otherwise
    assert samples.of(affine).features.shape == (number, 1, channels)
    # Of what the arrays hold beside the samples, nothing is in memory.
    few = replace(samples, label=label[:9], weight=np.ones(9), image=label[:9], rows=rows[:9])
    few = few.of(affine)
    assert few.features.shape == (9, 1, channels) and few.logits.shape == (9, 1, classes + 1)
    (chunk,), (own,) = few.chunks(np.arange(9)), samples.of(affine).chunks(np.arange(9))
    assert all(torch.equal(one, other) for one, other in zip(chunk, own))
    assert samples.of(AdaptiveCalibration(classes, channels)) is samples


def test_the_background_passes_and_is_no_class() -> None:
    calibration = learned_calibration()
    features, logits = torch.randn(5, 1, CHANNELS), torch.randn(5, 1, C + 1)
    scores = calibrated_scores(calibration, features, logits, torch.ones(5, 1))
    assert torch.equal(scores[:, C], logits[:, 0, C])
    torch.testing.assert_close(scores[:, :C], calibration(logits[:, 0, :C], features[:, 0]))


def test_the_hardest_of_each_image_count_by_hand() -> None:
    # Of image 7, a sure element and three of weights 1, 2, 3, of which half, 3, counts: first the
    # hardest, of weight 2, then one of the next one's 3. Of image 2, a quarter of 4 counts.
    image = torch.tensor([7, 2, 7, 7, 2, 7])
    share = torch.tensor([0.5, 0.25, 1, 0.5, 0.25, 0.5])
    weight = torch.tensor([1.0, 2, 9, 2, 2, 3])
    hardness = torch.tensor([0.1, 0.3, 0, 0.9, 0.4, 0.5])
    found = hardest(hardness, share, weight, image)
    assert found.tolist() == [0, 0, 9, 2, 1, 1]


def test_parts_have_whole_images_as_they_were_passed(monkeypatch) -> None:
    samples = long_tailed(30)
    # An image was passed three times; a part of 8 samples or more has whole views.
    samples.image, samples.view = np.zeros(30, np.int32), np.arange(30, dtype=np.int32) * 7 % 5
    monkeypatch.setattr('mmdisalign.onepass.fitting.CHUNK', 8 * (CHANNELS + C))
    chunks = list(samples.chunks(np.arange(25), whole_images=True))
    views = [set(chunk.view.tolist()) for chunk in chunks]
    assert views == [{0, 1}, {2, 3}, {4}] and sum(len(chunk.view) for chunk in chunks) == 25
    assert {len(chunk.view) for chunk in samples.chunks(np.arange(25))} == {8, 1}


def test_balanced_score_by_hand() -> None:
    label, predicted = np.array([0, 0, 0, 1, 1, 4]), [0, 0, 1, 1, 0, 1]
    samples = long_tailed(6)
    samples.label, samples.weight = label.astype(np.int32), np.array([1.0, 1, 2, 3, 1, 4])
    samples.logits = np.eye(C + 1, dtype=np.float32)[predicted][:, None]
    untouched = AdaptiveCalibration(C, CHANNELS)
    every = np.arange(6)
    # Class 0: 2 of 4 right; class 1: 3 of 4. Class 4 is the background, 2 and 3 do not occur.
    accuracy = balanced_score(untouched, samples, every, 'accuracy')
    assert accuracy == pytest.approx(100 * (2 / 4 + 3 / 4) / 2)
    # Unions: 4 + 3 - 2 (another 1 is predicted as class 0), and 4 + 9 - 3.
    iou = balanced_score(untouched, samples, every, 'IoU')
    assert iou == pytest.approx(100 * (2 / 5 + 3 / 10) / 2)
