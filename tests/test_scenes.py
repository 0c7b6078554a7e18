"""The synthetic scenes: reproducible, long-tailed in training, balanced in validation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdisalign.calibration import ClassPrior
from mmdisalign.data import scenes
from mmdisalign.data.scenes import (
    SceneSpec,
    object_labels,
    render_scene,
    write_ade20k,
    write_lvis,
)

SMALL = SceneSpec(num_classes=5, imbalance=4, image_size=(48, 64), objects_per_image=(1, 3))
NUM_TRAIN, NUM_VAL = 24, 12
# As many objects on as small an image as can be: they hide much of each other.
CROWDED = SceneSpec(num_classes=5, imbalance=4, image_size=(48, 48), objects_per_image=(8, 8))


def count_objects(spec: SceneSpec, split: str, num_images: int) -> np.ndarray:
    labels = np.concatenate([object_labels(spec, split, i) for i in range(num_images)])
    return np.bincount(labels, minlength=spec.num_classes + 1)[2:]


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> Path:
    return write_ade20k(SMALL, tmp_path_factory.mktemp('data') / 'scenes', NUM_TRAIN, NUM_VAL)


@pytest.fixture(scope='module')
def lvis(tmp_path_factory) -> Path:
    return write_lvis(CROWDED, tmp_path_factory.mktemp('data') / 'lvis', NUM_TRAIN, NUM_VAL)


def annotations_of(root: Path, split: str) -> dict:
    return json.loads((root / 'annotations' / f'scenes_{split}.json').read_text())


def decode(segmentation: dict) -> np.ndarray:
    """Mask of an uncompressed RLE, straight from its definition."""
    values = np.arange(len(segmentation['counts'])) % 2 == 1
    height, width = segmentation['size']
    return np.repeat(values, segmentation['counts']).reshape(width, height).T


def test_names_and_colours_are_distinct():
    spec = SceneSpec(num_classes=21)
    assert spec.classes[0] == 'background'
    assert len(set(spec.classes)) == len(set(spec.palette)) == 21


@pytest.mark.parametrize('num_classes', [2, 3, 12, 21])
def test_every_rare_object_shares_shape_and_hue_with_a_frequent_one(num_classes):
    objects = SceneSpec(num_classes=num_classes).objects
    half = (len(objects) + 1) // 2
    for frequent, rare in zip(objects, objects[half:]):
        assert frequent[1:] == rare[1:] and frequent[0] != rare[0]


@pytest.mark.parametrize('spec', [SceneSpec(), SceneSpec(num_classes=21, imbalance=100), SMALL])
@pytest.mark.parametrize('split', ['training', 'validation'])
def test_a_block_keeps_to_the_frequencies_up_to_one_object(spec, split):
    counts = count_objects(spec, split, spec.block_size(split))
    expected = spec.frequencies(split) * counts.sum()
    assert np.abs(counts - expected).max() < 1  # systematic sampling rounds up or down, no more
    assert counts.min() >= 3


def test_training_follows_the_power_law():
    """1,000 images are 7 blocks of 132 and a part of the next, which is random: hence 10 %."""
    counts = count_objects(SceneSpec(imbalance=50), 'training', 1000)
    law = np.arange(1, 12) ** (-np.log(50) / np.log(11))
    frequent = counts >= 100  # below, a single object is more than 1 %
    shares, expected = counts / counts.sum(), law / law.sum()
    np.testing.assert_allclose(shares[frequent], expected[frequent], rtol=0.1)
    assert 40 < counts[0] / counts[-1] < 62.5


def test_validation_is_balanced():
    spec = SceneSpec()
    counts = count_objects(spec, 'validation', 5 * spec.block_size('validation'))
    assert len(set(counts)) == 1


def test_which_classes_meet_on_an_image_is_random():
    """A balanced deal must not pair the same classes: 44 images have 55 pairs of 11 classes."""
    images = [object_labels(SceneSpec(), 'validation', i) for i in range(220)]
    pairs = {(a, b) for labels in images for a in labels for b in labels if a < b}
    assert len(pairs) == 55


def test_an_image_depends_on_its_index_alone():
    forward = [render_scene(SMALL, 'training', i) for i in range(4)]
    scenes._plan_block.cache_clear()
    for i in (3, 0, 2):
        again = render_scene(SMALL, 'training', i)
        assert np.array_equal(again.image, forward[i].image)
        assert np.array_equal(again.labels, forward[i].labels)


def test_seed_split_and_index_change_the_image():
    images = [
        render_scene(SceneSpec(seed=seed), split, index).image.tobytes()
        for seed in (0, 1)
        for split in scenes.SPLITS
        for index in (0, 1)
    ]
    assert len(set(images)) == len(images)


def test_instances_agree_with_the_label_map():
    spec = SceneSpec(objects_per_image=(8, 8))
    for index in range(40):
        scene = render_scene(spec, 'training', index)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        from_masks = np.ones_like(scene.labels)
        for instance in scene.instances:
            assert instance.mask.sum() >= 40  # hidden in part, never whole
            from_masks[instance.mask] = instance.label
        labelled = scene.labels > 0
        assert np.array_equal(scene.labels[labelled], from_masks[labelled])
        assert sorted(i.label for i in scene.instances) == sorted(
            object_labels(spec, 'training', index)
        )


def test_a_whole_object_fills_its_outline():
    spec = SceneSpec(num_classes=21, objects_per_image=(1, 1))
    for index in range(60):
        (instance,) = render_scene(spec, 'validation', index).instances
        x, y = instance.outline.T
        if x.min() < 0 or y.min() < 0 or x.max() > 96 or y.max() > 96:
            continue
        area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
        assert instance.mask.sum() == pytest.approx(area, rel=0.05)


def test_layout_is_that_of_ade20k(written):
    for split, count in (('training', NUM_TRAIN), ('validation', NUM_VAL)):
        images = sorted((written / 'images' / split).iterdir())
        annotations = sorted((written / 'annotations' / split).iterdir())
        assert [path.stem for path in images] == [path.stem for path in annotations]
        assert len(images) == count
        assert {path.suffix for path in images} == {'.jpg'}
        for image, annotation in zip(images, annotations):
            with Image.open(image) as picture, Image.open(annotation) as labels:
                assert picture.mode == 'RGB' and labels.mode == 'L'
                assert picture.size == labels.size == (64, 48)
                ids = set(np.unique(np.asarray(labels)))
            assert ids <= set(range(SMALL.num_classes + 1)) and {0, 1} < ids


def test_facts_are_those_of_the_files_and_a_class_prior(written):
    facts = json.loads((written / 'scenes.json').read_text())
    pixels = np.zeros(SMALL.num_classes + 1, dtype=int)
    for path in (written / 'annotations' / 'training').iterdir():
        pixels += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=len(pixels))
    assert facts['counts'] == pixels[1:].tolist()
    assert min(facts['counts']) > 0  # every class is in training
    assert len(facts['palette']) == SMALL.num_classes
    prior = ClassPrior.build(written / 'scenes.json', num_classes=SMALL.num_classes)
    assert prior.classes == SMALL.classes


def test_same_seed_same_bytes_and_another_seed_other_bytes(written, tmp_path):
    same = write_ade20k(SMALL, tmp_path / 'deep' / 'same', NUM_TRAIN, NUM_VAL)
    assert digests(same) == digests(written)
    other = SceneSpec(**{**vars(SMALL), 'seed': 1})
    other = write_ade20k(other, tmp_path / 'other', NUM_TRAIN, NUM_VAL)
    assert not set(digests(other).values()) & set(digests(written).values())


def test_a_larger_set_begins_with_the_smaller(written, tmp_path):
    larger = digests(write_ade20k(SMALL, tmp_path / 'larger', NUM_TRAIN + 5, NUM_VAL + 5))
    smaller = digests(written)
    del smaller['scenes.json']
    assert smaller.items() < larger.items()


def test_a_complete_set_is_kept(written, monkeypatch):
    monkeypatch.setattr(scenes, 'render_scene', None)  # would fail if called
    again = SceneSpec(**{**vars(SMALL), 'image_size': [48, 64], 'imbalance': 4.0})
    assert write_ade20k(again, str(written), NUM_TRAIN, NUM_VAL) == written


def test_an_interrupted_write_leaves_nothing_and_can_be_repeated(written, tmp_path, monkeypatch):
    root = tmp_path / 'scenes'

    def interrupt(spec, split, index):
        if (split, index) == ('validation', 3):
            raise KeyboardInterrupt
        return render_scene(spec, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(scenes, 'render_scene', interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_ade20k(SMALL, root, NUM_TRAIN, NUM_VAL)
    assert list(tmp_path.iterdir()) == []
    root.mkdir()  # an empty folder is as good as none
    assert digests(write_ade20k(SMALL, root, NUM_TRAIN, NUM_VAL)) == digests(written)


def test_of_two_processes_the_second_keeps_what_the_first_wrote(written, tmp_path, monkeypatch):
    root = tmp_path / 'scenes'

    def overtaken(spec, split, index):
        if (split, index) == ('validation', 3):
            with monkeypatch.context() as patch:
                patch.setattr(scenes, 'render_scene', render_scene)
                write_ade20k(SMALL, root, NUM_TRAIN, NUM_VAL)
        return render_scene(spec, split, index)

    monkeypatch.setattr(scenes, 'render_scene', overtaken)
    write_ade20k(SMALL, root, NUM_TRAIN, NUM_VAL)
    assert digests(root) == digests(written)
    assert list(tmp_path.iterdir()) == [root]


def test_a_folder_that_holds_something_else_is_refused_and_kept(written, tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(FileExistsError, match=f'{tmp_path} holds something else'):
        write_ade20k(SMALL, tmp_path, NUM_TRAIN, NUM_VAL)
    with pytest.raises(FileExistsError, match=r'thesis\.tex'):
        write_ade20k(SMALL, tmp_path / 'thesis.tex', NUM_TRAIN, NUM_VAL)
    assert (tmp_path / 'thesis.tex').read_text() == 'precious'
    (tmp_path / 'scenes.json').write_text('[]')
    with pytest.raises(FileExistsError, match='something else'):
        write_ade20k(SMALL, tmp_path, NUM_TRAIN, NUM_VAL)
    with pytest.raises(FileExistsError, match='num_val is 12, not 13'):
        write_ade20k(SMALL, written, NUM_TRAIN, NUM_VAL + 1)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_classes=1), 'num_classes must be 2 to 21, got 1'),
        (dict(num_classes=22), 'got 22'),
        (dict(imbalance=0.5), 'imbalance must be finite and at least 1, got 0.5'),
        (dict(imbalance=float('nan')), 'got nan'),
        (dict(image_size=(96, 40)), r'image_size .* got \(96, 40\)'),
        (dict(image_size=(96,)), r'got \(96,\)'),
        (dict(objects_per_image=(4, 3)), r'objects_per_image .* got \(4, 3\)'),
        (dict(objects_per_image=(0, 3)), r'got \(0, 3\)'),
        (dict(objects_per_image=(3, 9)), r'got \(3, 9\)'),
        (dict(seed=-1), 'seed must be at least 0, got -1'),
    ],
)
def test_a_bad_spec_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SceneSpec(**arguments)


def test_bad_calls_are_named(tmp_path):
    with pytest.raises(ValueError, match="got 'train'"):
        render_scene(SMALL, 'train', 0)
    with pytest.raises(ValueError, match='index must be at least 0, got -1'):
        render_scene(SMALL, 'training', -1)
    with pytest.raises(ValueError, match=r'num_train must be at least 24, .* got 11'):
        write_ade20k(SMALL, tmp_path / 'scenes', 11, NUM_VAL)
    with pytest.raises(ValueError, match='num_val must be at least 1, got 0'):
        write_ade20k(SMALL, tmp_path / 'scenes', NUM_TRAIN, 0)


def test_lvis_has_the_pictures_of_ade20k(lvis, tmp_path):
    same = digests(write_ade20k(CROWDED, tmp_path / 'ade', NUM_TRAIN, NUM_VAL))
    pictures = {path: digest for path, digest in digests(lvis).items() if path.endswith('.jpg')}
    assert len(pictures) == NUM_TRAIN + NUM_VAL
    assert pictures.items() < same.items()


@pytest.mark.parametrize(('split', 'short'), [('training', 'train'), ('validation', 'val')])
def test_lvis_masks_are_the_visible_instances(lvis, split, short):
    content = annotations_of(lvis, short)
    ids = [annotation['id'] for annotation in content['annotations']]
    assert ids == list(range(1, len(ids) + 1))
    for index, image in enumerate(content['images']):
        assert image['coco_url'] == 'http://images.cocodataset.org/' + image['file_name']
        with Image.open(lvis / image['file_name']) as picture:
            assert picture.size == (image['width'], image['height'])
        instances = render_scene(CROWDED, split, index).instances
        annotations = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert len(annotations) == len(instances)
        for annotation, instance in zip(annotations, instances):
            assert annotation['category_id'] == instance.label - 1
            assert np.array_equal(decode(annotation['segmentation']), instance.mask)
            assert annotation['area'] == instance.mask.sum()
            x, y, width, height = annotation['bbox']
            inside = instance.mask[y : y + height, x : x + width]
            assert inside.sum() == annotation['area']
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)


def test_lvis_says_of_every_class_whether_it_is_on_an_image():
    """Classes 1 and 2 are seen, 2 and 3 have an object that hardly is, 4 is absent."""
    instances = []
    for category, pixels in ((1, 16), (2, 20), (2, 15), (3, 1)):
        mask = np.zeros((48, 48), dtype=bool)
        mask.flat[:pixels] = True
        instances.append(scenes.Instance(category + 1, np.zeros((0, 2)), mask))
    scene = scenes.Scene(np.zeros((48, 48, 3)), np.ones((48, 48)), tuple(instances))
    image, objects = scenes._annotate(CROWDED, scene, 7, 'images/a.jpg')
    assert [item['category_id'] for item in objects] == [1, 2]
    assert {item['image_id'] for item in objects} == {image['id']} == {7}
    assert image['neg_category_ids'] == [4]
    assert image['not_exhaustive_category_ids'] == [2]


def test_lvis_categories_count_the_annotations(lvis):
    for short in ('train', 'val'):
        content = annotations_of(lvis, short)
        categories = content['categories']
        assert [category['id'] for category in categories] == [1, 2, 3, 4]
        assert [category['name'] for category in categories] == list(CROWDED.classes[1:])
        assert ''.join(category['frequency'] for category in categories) == 'ffcr'
        path = lvis / 'annotations' / f'scenes_{short}.json'
        for unit, key in (('instances', 'instance_count'), ('images', 'image_count')):
            counts = ClassPrior.build(path, unit=unit).counts.tolist()
            assert counts == [category[key] for category in categories]
            assert min(counts) > 0
    prior = ClassPrior.build(lvis / 'annotations/scenes_train.json')
    facts = ClassPrior.build(lvis / 'scenes.json')
    assert (prior.classes, prior.groups) == (facts.classes, facts.groups)
    assert prior.counts.tolist() == facts.counts.tolist()


@pytest.mark.parametrize('num_classes', [4, 5, 12, 21])
def test_no_lvis_frequency_is_empty(num_classes):
    categories = scenes._categories(SceneSpec(num_classes=num_classes), [])
    letters = [category['frequency'] for category in categories]
    assert set(letters) == set('fcr')
    assert letters == sorted(letters, key='fcr'.index)


def test_lvis_bytes_depend_on_the_seed_alone(lvis, tmp_path):
    assert digests(write_lvis(CROWDED, tmp_path / 'same', NUM_TRAIN, NUM_VAL)) == digests(lvis)
    other = SceneSpec(**{**vars(CROWDED), 'seed': 1})
    other = write_lvis(other, tmp_path / 'other', NUM_TRAIN, NUM_VAL)
    assert not set(digests(other).values()) & set(digests(lvis).values())


def test_layouts_are_not_taken_for_each_other(lvis, written):
    assert write_lvis(CROWDED, lvis, NUM_TRAIN, NUM_VAL) == lvis
    with pytest.raises(FileExistsError, match='layout is lvis, not ade20k'):
        write_ade20k(CROWDED, lvis, NUM_TRAIN, NUM_VAL)
    with pytest.raises(FileExistsError, match='layout is ade20k, not lvis'):
        write_lvis(SMALL, written, NUM_TRAIN, NUM_VAL)


def test_lvis_needs_a_class_of_each_frequency(tmp_path):
    with pytest.raises(ValueError, match='num_classes must be at least 4'):
        write_lvis(SceneSpec(num_classes=3), tmp_path / 'lvis', 100, 1)


def test_mmdet_reads_what_write_lvis_wrote(lvis):
    pytest.importorskip('mmdet')
    pytest.importorskip('lvis')
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    dataset = DATASETS.build(
        dict(
            type='LVISV1Dataset',
            data_root=str(lvis),
            ann_file='annotations/scenes_train.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=CROWDED.classes[1:]),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
            _scope_='mmdet',
        )
    )
    assert len(dataset) == NUM_TRAIN
    for index in (0, 7, NUM_TRAIN - 1):
        sample = dataset[index]
        scene = render_scene(CROWDED, 'training', index)
        assert sample['img'].shape == scene.image.shape
        assert sample['gt_bboxes_labels'].tolist() == [i.label - 2 for i in scene.instances]
        assert np.array_equal(sample['gt_masks'].masks, [i.mask for i in scene.instances])
