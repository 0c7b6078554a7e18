"""Which images are passed: few of a frequent class, all of a rare one, and without bias."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmdisalign.calibration import ClassPrior
from mmdisalign.onepass.image_choice import (
    ImageChoice,
    enough_images,
    every_image,
    identity_of_images,
)


def one_class(label: int, number: int) -> list[np.ndarray]:
    return [np.array([label])] * number


def long_tailed(number: int = 300) -> list[np.ndarray]:
    """Images with some of five classes, the last of which is in few, and with none."""
    rng = np.random.default_rng(0)
    share = np.array([0.9, 0.5, 0.2, 0.05, 0.01])
    return [np.flatnonzero(rng.random(5) < share) for _ in range(number)]


def images_of(choice: ImageChoice, length: int) -> np.ndarray:
    return choice.index % length


def test_a_hand_worked_choice() -> None:
    # 40 images of class 0 and 5 of class 1, two of which have both: 10 are wanted of each.
    classes = [*one_class(0, 38), *one_class(1, 3), np.array([0, 1]), np.array([0, 1])]
    choice = enough_images(classes, 2, per_class=10, passes=3, seed=0)
    times = Counter(images_of(choice, 43).tolist())
    # Those of class 1 are asked for 10 / 5 times, also by the two that have both.
    assert all(times[image] == 2 for image in range(38, 43))
    # The others are asked for 10 / 40 times each: 9 or 10 of the 38.
    assert sum(times[image] for image in range(38)) in (9, 10)
    weight = dict(zip(images_of(choice, 43).tolist(), choice.weight))
    assert {weight[image] for image in range(38, 43)} == {0.5}
    assert {weight[image] for image in times if image < 38} == {4.0}
    # Class 0 is in the 9 or 10, and twice in both that are passed twice.
    assert choice.images.tolist() == [len(choice) - 6, 10]


def test_images_of_a_frequent_class_are_spread_over_the_data_set() -> None:
    choice = enough_images(one_class(0, 100), 1, per_class=10, passes=4, seed=0)
    assert np.diff(choice.index).tolist() == [10] * 9


def test_a_rare_image_is_passed_as_often_as_it_may_be_each_time_under_another_number() -> None:
    choice = enough_images(one_class(0, 3), 1, per_class=100, passes=4, seed=0)
    assert choice.index.tolist() == list(range(12))
    assert set(choice.weight) == {0.25}


def test_images_without_a_class_are_a_kind_of_their_own() -> None:
    classes = [*one_class(0, 50), *[np.array([], int)] * 50]
    choice = enough_images(classes, 1, per_class=10, passes=1, seed=0)
    assert (images_of(choice, 100) < 50).sum() == 10
    assert len(choice) == 20


def test_sums_over_the_images_are_estimated_without_bias() -> None:
    classes = long_tailed()
    values = np.random.default_rng(1).random(len(classes))
    values[[4 in own for own in classes]] *= 20  # what a rare class brings
    found, sizes = [], []
    for seed in range(1000):
        choice = enough_images(classes, 5, per_class=12, passes=4, seed=seed)
        found.append((choice.weight * values[images_of(choice, len(classes))]).sum())
        sizes.append(len(choice))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    # An unbiased estimate is off by 4 standard errors once in 16,000 times; the seeds are fixed.
    assert abs(np.mean(found) - values.sum()) < 4 * error
    assert np.mean(sizes) < len(classes) / 2


def test_every_class_is_in_about_as_many_as_asked_for() -> None:
    classes = long_tailed()
    number = np.bincount(np.concatenate(classes), minlength=5)
    asked = np.minimum(4 * number, 12)
    images = np.mean(
        [enough_images(classes, 5, 12, passes=4, seed=seed).images for seed in range(200)], axis=0
    )
    # Frequent ones are in more: with the rare ones they come of themselves. 0.5: of 200 means.
    assert (images >= asked - 0.5).all()


def test_the_seed_decides() -> None:
    choices = [enough_images(long_tailed(), 5, 12, passes=2, seed=seed) for seed in (0, 0, 1)]
    assert choices[0].identity == choices[1].identity != choices[2].identity


def test_it_says_how_many() -> None:
    choice = enough_images([*one_class(0, 100), *one_class(1, 2)], 2, 10, passes=3, seed=0)
    assert choice.how(102) == '12 of 102 images, up to 3 times, 16 in all'
    assert every_image(9, 2, ClassPrior([1, 2])).how(9) == '9 of 9 images, 2 times, 18 in all'
    assert every_image(1234, 1, ClassPrior([1, 2])).how(1234) == '1,234 of 1,234 images'


@pytest.mark.parametrize(
    ('prior', 'images'),
    [
        (ClassPrior([900, 90, 9], images=[80, 40, 6]), [80, 40, 6]),
        (ClassPrior([80, 15, 5]), [80, 15, 5]),  # these images, as their number says
        (ClassPrior([0.8, 0.15, 0.05]), [100, 100, 100]),
        (ClassPrior([900, 90, 9], images=[800, 40, 0]), [100, 40, 1]),
    ],
)
def test_of_every_image_the_prior_says_how_many_have_a_class(
    prior: ClassPrior, images: list[int]
) -> None:
    choice = every_image(100, 2, prior)
    assert choice.index.tolist() == list(range(200))
    assert set(choice.weight) == {1.0}
    assert choice.images.tolist() == [2 * number for number in images]


@pytest.mark.parametrize('changed', ['images/a.jpg', 'maps/a.png'])
def test_files_that_changed_under_their_names_are_other_images(
    tmp_path: Path, changed: str
) -> None:
    from mmseg.datasets import BaseSegDataset

    for name in ('images/a.jpg', 'images/b.jpg', 'maps/a.png', 'maps/b.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'content')
    folders = dict(img_path='images', seg_map_path='maps')
    before, again = (
        identity_of_images(BaseSegDataset(data_root=str(tmp_path), data_prefix=folders))
        for _ in range(2)
    )
    assert again == before
    os.utime(tmp_path / changed, (0, 0))  # as long as it was
    dataset = BaseSegDataset(data_root=str(tmp_path), data_prefix=folders)
    assert identity_of_images(dataset) != before
