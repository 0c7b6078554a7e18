"""The shipped LVIS tables against LVIS's own rules, its files, and mmdet's class names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdisalign.calibration import ClassPrior

# Classes; the sums of the classes' training instances and images; frequent, common, rare classes.
FIGURES = {
    'lvis_v1': (1203, 1_270_141, 360_952, (405, 461, 337)),
    'lvis_v0.5': (1230, 693_958, 201_417, (315, 461, 454)),
}
LVIS_RULE = dict(by='count', head=100, tail=11)


@pytest.mark.parametrize('name', FIGURES)
def test_totals(name: str) -> None:
    num_classes, instances, images, sizes = FIGURES[name]
    prior = ClassPrior.build(name, num_classes=num_classes)
    assert len(set(prior.classes)) == num_classes
    assert prior.counts.sum() == instances
    assert ClassPrior.build(name, unit='images').counts.sum() == images
    assert tuple(len(prior.groups[group]) for group in ('head', 'body', 'tail')) == sizes


@pytest.mark.parametrize('name', FIGURES)
def test_groups_follow_from_the_image_counts(name: str) -> None:
    prior = ClassPrior.build(name)
    by_images = ClassPrior.build(name, unit='images', groups=LVIS_RULE)
    assert prior.groups == by_images.groups
    assert (prior.counts >= by_images.counts).all()
    assert by_images.counts.min() == 1


def test_two_lines_by_hand() -> None:
    for name, index, instances, images in (
        ('lvis_v1', 2, 3720, 1911),
        ('lvis_v0.5', 3, 1978, 1052),
    ):
        prior = ClassPrior.build(name)
        assert prior.classes[index] == 'airplane' and prior.counts[index] == instances
        assert ClassPrior.build(name, unit='images').counts[index] == images


def test_lvis_v1_equals_the_figures_of_the_training_file(shared: Path) -> None:
    content = json.loads((shared / 'data/lvis/lvis_v1_train_counts.json').read_text())
    prior = ClassPrior.build('lvis_v1')
    assert [category['name'] for category in content] == list(prior.classes)
    assert [category['instance_count'] for category in content] == prior.counts.tolist()
    images = ClassPrior.build('lvis_v1', unit='images').counts.tolist()
    assert [category['image_count'] for category in content] == images


def test_lvis_v05_has_the_names_and_groups_of_the_sample(shared: Path) -> None:
    sample = ClassPrior.build(shared / 'data/lvis/lvis_val_100.json')
    prior = ClassPrior.build('lvis_v0.5')
    assert (prior.classes, prior.groups) == (sample.classes, sample.groups)
    assert sample.counts.sum() == 977  # the sample's own: no substitute for training counts


@pytest.mark.parametrize(
    ('name', 'dataset'), [('lvis_v1', 'LVISV1Dataset'), ('lvis_v0.5', 'LVISV05Dataset')]
)
def test_classes_are_those_of_mmdet_in_order(name: str, dataset: str) -> None:
    datasets = pytest.importorskip('mmdet.datasets')
    prior = ClassPrior.build(name)
    classes = getattr(datasets, dataset).METAINFO['classes']
    prior.check_classes(classes)
    differing = [pair for pair in zip(prior.classes, classes) if pair[0] != pair[1]]
    # mmdet mends a name of LVIS's.
    assert differing == [('speaker_(stero_equipment)', 'speaker_(stereo_equipment)')]
