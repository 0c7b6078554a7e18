"""ClassPrior: every source that a config can name, and the split into head, body and tail."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mmdisalign.calibration import ClassPrior

COUNTS = [60, 25, 10, 4, 1]
NAMES = ['wall', 'sky', 'car', 'cat', 'flag']


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def test_frequencies_sum_to_one() -> None:
    prior = ClassPrior.build([6, 3, 1])
    assert prior.counts.tolist() == [6, 3, 1]
    np.testing.assert_allclose(prior.frequencies, [0.6, 0.3, 0.1])
    assert prior.classes is None
    assert prior.imbalance == 6


def test_a_prior_is_taken_as_it_is() -> None:
    prior = ClassPrior.build(COUNTS)
    assert ClassPrior.build(prior) is prior


@pytest.mark.parametrize('source', [COUNTS, tuple(COUNTS), np.array(COUNTS), dict(source=COUNTS)])
def test_counts_without_names(source) -> None:
    prior = ClassPrior.build(source)
    assert prior.counts.tolist() == COUNTS
    assert prior.classes is None


def test_dict_of_counts_by_name() -> None:
    prior = ClassPrior.build(dict(zip(NAMES, COUNTS)))
    assert prior.counts.tolist() == COUNTS
    assert list(prior.classes) == NAMES


FILES = {
    'list.json': json.dumps(COUNTS),
    'names.json': json.dumps(dict(zip(NAMES, COUNTS))),
    'prior.json': json.dumps({'counts': COUNTS, 'classes': NAMES}),
    'table.csv': 'name,count\n' + '\n'.join(f'{n},{c}' for n, c in zip(NAMES, COUNTS)),
    'comment.csv': '# source: here\nclass,pixels\n'
    + '\n'.join(f'{n},{c}' for n, c in zip(NAMES, COUNTS)),
    'bare.txt': '\n'.join(map(str, COUNTS)),
    'ade.txt': 'Idx\tRatio\tTrain\tVal\tName\n'
    + '\n'.join(f'{i + 1}\t{c / 100}\t7\t7\t{n}' for i, (n, c) in enumerate(zip(NAMES, COUNTS))),
}


@pytest.mark.parametrize('name', FILES)
def test_files(tmp_path: Path, name: str) -> None:
    prior = ClassPrior.build(str(write(tmp_path / name, FILES[name])), num_classes=5)
    np.testing.assert_allclose(prior.frequencies, np.array(COUNTS) / 100)
    assert (
        prior.classes is None if name in ('list.json', 'bare.txt') else list(prior.classes) == NAMES
    )


def test_another_column_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / 'ade.txt', FILES['ade.txt'])
    assert ClassPrior.build(dict(source=path, column='Train')).counts.tolist() == [7] * 5


def annotation_file(frequencies: str = '') -> dict:
    categories = [{'id': 10 * (i + 1), 'name': n} for i, n in enumerate(NAMES[:3])]
    for category, frequency in zip(categories, frequencies):
        category['frequency'] = frequency
    # wall: 3 instances in 2 images; sky: 1 in 1; car: none.
    boxes = [(1, 10), (1, 10), (2, 10), (2, 20)]
    annotations = [
        {'id': i, 'image_id': image, 'category_id': category}
        for i, (image, category) in enumerate(boxes)
    ]
    return {'images': [], 'categories': categories, 'annotations': annotations}


@pytest.mark.parametrize(('unit', 'counts'), [('instances', [3, 1, 0]), ('images', [2, 1, 0])])
def test_coco_annotations(tmp_path: Path, unit: str, counts: list[int]) -> None:
    path = write(tmp_path / 'coco.json', json.dumps(annotation_file()))
    prior = ClassPrior.build(path, unit=unit)
    assert prior.counts.tolist() == counts
    assert list(prior.classes) == NAMES[:3]


def test_crowds_are_not_counted(tmp_path: Path) -> None:
    content = annotation_file()
    content['annotations'][0]['iscrowd'] = 1
    path = write(tmp_path / 'coco.json', json.dumps(content))
    assert ClassPrior.build(path).counts.tolist() == [2, 1, 0]


@pytest.mark.parametrize('name', ['table.csv', 'bare.txt', 'names.json'])
def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], encoding='utf-8-sig')
    prior = ClassPrior.build(path)
    assert prior.counts.tolist() == COUNTS
    assert prior.classes is None or prior.classes[0] == 'wall'


def test_options_that_do_not_apply_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='only applies to COCO and LVIS'):
        ClassPrior.build(write(tmp_path / 'p.json', json.dumps(COUNTS)), unit='images')
    with pytest.raises(TypeError, match='no option units'):
        ClassPrior.build('ade20k', units='images')


IMAGE_LIST = """\
train/n01440764/n01440764_190.JPEG 0
train/potted plant, large/a 1.jpg 2
train/n01440764/n01440764_191.JPEG 0
"""


def test_a_list_of_images_is_counted_by_label(tmp_path: Path) -> None:
    prior = ClassPrior.build(write(tmp_path / 'ImageNet_LT_train.txt', IMAGE_LIST), num_classes=3)
    assert prior.counts.tolist() == [2, 0, 1]
    assert prior.classes is None


def test_cifar10_lt_list_has_the_published_profile(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / 'data/cifar10_lt/cifar10_lt.tar') as tar:
        lines = tar.extractfile('CIFAR10_LT_train.txt').read().decode()
    counts = ClassPrior.build(write(tmp_path / 'train.txt', lines)).counts.tolist()
    assert counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.mark.parametrize(
    'text', ['3\n4', 'name,count\na.jpg 1,3\nb,4', 'name\tcount\nno. 1\t3\nno. 2\t4']
)
def test_other_txt_files_are_no_lists_of_images(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / 'table.txt', text)
    assert ClassPrior.build(path).counts.tolist() == [3, 4]


@pytest.mark.parametrize('text', ['airplane 5000\nautomobile 2997', '0 5000\n1 2997'])
def test_classes_and_their_counts_are_not_mistaken_for_images(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match='no column'):
        ClassPrior.build(write(tmp_path / 'counts.txt', text))


@pytest.mark.parametrize('line', ['c.jpg', 'c.jpg -1', 'c.jpg one', 'c.jpg 1.5', '7'])
def test_a_malformed_line_of_a_list_of_images_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / 'list.txt', f'# comment\n\n{line}\na.jpg 0\nb.jpg 1\n')
    with pytest.raises(ValueError, match=rf'list\.txt, line 3: .*{line}.* is not'):
        ClassPrior.build(path)


@pytest.mark.parametrize('option', [dict(unit='images'), dict(column='label')])
def test_a_list_of_images_has_no_options(tmp_path: Path, option: dict) -> None:
    path = write(tmp_path / 'list.txt', IMAGE_LIST)
    with pytest.raises(ValueError, match=f'list of images, .*{next(iter(option))}'):
        ClassPrior.build(path, **option)


def test_a_bare_count_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / 'bare.txt', '# pixels\n60\n\nmany\n')
    with pytest.raises(ValueError, match=r"bare\.txt, line 4: 'many'"):
        ClassPrior.build(path)


def test_lvis_annotations_bring_their_groups(tmp_path: Path) -> None:
    path = write(tmp_path / 'lvis.json', json.dumps(annotation_file('cfr')))
    assert ClassPrior.build(path).groups == {'head': [1], 'body': [0], 'tail': [2]}


def test_groups_by_the_image_rule_of_lvis(tmp_path: Path) -> None:
    """r: up to 10 images, c: up to 100, f: more; the number of instances does not matter."""
    images = {'once': 1, 'ten': 10, 'eleven': 11, 'hundred': 100, 'more': 101}
    annotations = [
        {'category_id': i, 'image_id': image}
        for i, count in enumerate(images.values())
        for image in [*range(count), 0, 0]
    ]
    content = {
        'categories': [{'id': i, 'name': name} for i, name in enumerate(images)],
        'annotations': [{'id': i, **annotation} for i, annotation in enumerate(annotations)],
    }
    path = write(tmp_path / 'coco.json', json.dumps(content))
    rule = dict(by='count', head=100, tail=11)
    prior = ClassPrior.build(dict(source=path, unit='images', groups=rule))
    assert prior.counts.tolist() == list(images.values())
    assert prior.groups == {'head': [4], 'body': [2, 3], 'tail': [0, 1]}
    by_instances = ClassPrior.build(path, groups=dict(rule, unit='images'))
    assert by_instances.counts.tolist() == [count + 2 for count in images.values()]
    assert by_instances.groups == prior.groups
    by_instances.to_json(tmp_path / 'prior.json')
    again = ClassPrior.build(tmp_path / 'prior.json', groups=dict(rule, unit='images'))
    assert again.images.tolist() == list(images.values())
    assert again.groups == prior.groups
    with pytest.raises(ValueError, match='groups by images need image counts'):
        ClassPrior.build([3, 2, 1], groups=dict(rule, unit='images'))
    with pytest.raises(ValueError, match="is 'images' or left out, got 'pixels'"):
        ClassPrior.build([3, 2, 1], groups=dict(rule, unit='pixels'))


@pytest.mark.parametrize('column', ['frequency', 'group', 'Frequency'])
def test_lvis_groups_of_a_table(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / 'lvis.csv', f'name,{column},images,instances\na,c,20,90\nb,r,1,70')
    prior = ClassPrior.build(path)
    assert prior.counts.tolist() == [90, 70]
    assert prior.groups == {'head': [], 'body': [0], 'tail': [1]}
    assert ClassPrior.build(path, unit='images').counts.tolist() == [20, 1]
    assert ClassPrior.build(path, column='images').counts.tolist() == [20, 1]


def test_a_frequency_column_may_hold_counts(tmp_path: Path) -> None:
    path = write(tmp_path / 'counts.csv', 'name,frequency\na,3\nb,1')
    assert ClassPrior.build(path).counts.tolist() == [3, 1]


def test_json_round_trip(tmp_path: Path) -> None:
    prior = ClassPrior(COUNTS, NAMES, groups=dict(by='rank', head=1, body=1))
    prior.to_json(tmp_path / 'p.json')
    again = ClassPrior.build(tmp_path / 'p.json')
    assert (again.counts == prior.counts).all()
    assert (again.classes, again.groups) == (prior.classes, prior.groups)


def test_a_split_that_nobody_gave_is_not_written_as_if_it_was_given(tmp_path: Path) -> None:
    ClassPrior(COUNTS).to_json(tmp_path / 'p.json')
    again = ClassPrior.build(tmp_path / 'p.json')
    assert not again.groups_are_given
    assert again.groups == ClassPrior(COUNTS).groups


def test_ade20k_ships_with_its_published_split() -> None:
    prior = ClassPrior.build('ade20k', num_classes=150)
    assert prior.classes[:3] == ('wall', 'building', 'sky')
    assert prior.groups == {
        'head': list(range(20)),
        'body': list(range(20, 75)),
        'tail': list(range(75, 150)),
    }


def test_object_info_file_equals_the_shipped_table(shared: Path) -> None:
    prior = ClassPrior.build(shared / 'data/ade20k/objectInfo150.txt')
    assert prior.counts.tolist() == ClassPrior.build('ade20k').counts.tolist()


def test_groups_by_share() -> None:
    # Cumulative: 60, 85, 95, 99, 100 per cent.
    groups = ClassPrior.build(COUNTS, groups=dict(by='share', head=0.8, tail=0.05)).groups
    assert groups == {'head': [0, 1], 'body': [2], 'tail': [3, 4]}


def test_groups_by_share_are_the_default_and_follow_frequency_not_index() -> None:
    assert ClassPrior.build(COUNTS[::-1]).groups == {'head': [3, 4], 'body': [2], 'tail': [0, 1]}


def test_groups_by_count() -> None:
    # ImageNet-LT: many are more than 100, few are fewer than 20.
    prior = ClassPrior.build([101, 100, 20, 19], groups=dict(by='count', head=100, tail=20))
    assert prior.groups == {'head': [0], 'body': [1, 2], 'tail': [3]}


def test_groups_by_rank_break_ties_by_index() -> None:
    prior = ClassPrior.build([1, 5, 5, 5], groups=dict(by='rank', head=1, body=1))
    assert prior.groups == {'head': [1], 'body': [2], 'tail': [0, 3]}


def test_groups_by_name() -> None:
    groups = dict(head=['sky'], body=['wall', 'flag'], tail=['cat', 'car'])
    prior = ClassPrior.build(dict(source=dict(zip(NAMES, COUNTS)), groups=groups))
    assert prior.groups == {'head': [1], 'body': [0, 4], 'tail': [3, 2]}


@pytest.mark.parametrize(
    ('groups', 'message'),
    [
        (dict(by='size'), "'size'"),
        (dict(by='rank', head=3, body=2), '5 classes cannot be split'),
        (dict(by='share', head=0.9, tail=0.2), 'head=0.9'),
        (dict(by='count', head=10, tail=20), 'the tail ends at 20'),
        (dict(head=[0], body=[1]), r"\['head', 'body'\]"),
        (dict(head=[0, 1], body=[1, 2], tail=[3]), r'none: \[4\], in more than one: \[1\]'),
        (dict(head=[0, 1], body=[2], tail=[3, 5]), 'member 5'),
        (dict(head=['sky'], body=[], tail=[]), "'sky' is a name"),
    ],
)
def test_bad_groups_are_named(groups: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassPrior.build(COUNTS, groups=groups)


@pytest.mark.parametrize(
    ('counts', 'message'),
    [
        ([1, -2], 'class 1 is -2'),
        ([1, np.nan], 'class 1 is nan'),
        ([0, 0], 'all'),
        ([[1]], 'shape'),
    ],
)
def test_bad_counts_are_named(counts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassPrior.build(counts)


def test_wrong_number_of_classes_names_source_and_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / 'p.json', json.dumps(COUNTS))
    with pytest.raises(ValueError, match=r'p\.json.* has 5 classes, but the model has 6'):
        ClassPrior.build(path, num_classes=6)


def test_missing_file_names_it_and_the_way_out() -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.json.*ade20k.*class_prior\.py'):
        ClassPrior.build('nowhere.json')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('bad.json', '{', 'is not JSON'),
        ('bad.json', '["many"]', "entry 0: 'many'"),
        ('bad.csv', 'name,colour\na,red', 'no column'),
        ('bad.csv', 'name,count\na,red', "row 1: 'red'"),
        ('bad.csv', 'name,count\na', 'row 1 has 1 columns'),
        ('bad.csv', 'idx,count\n1,5\n3,5', 'not in class order'),
        ('bad.csv', '# nothing', 'is empty'),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message) as error:
        ClassPrior.build(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('source', ['lvis_v1', 'file'])
def test_unknown_unit_is_named(tmp_path: Path, source: str) -> None:
    if source == 'file':
        source = write(tmp_path / 'coco.json', json.dumps(annotation_file()))
    with pytest.raises(ValueError, match="'instances' or 'images', got 'pixels'"):
        ClassPrior.build(source, unit='pixels')


def test_annotation_of_an_unknown_category_is_named(tmp_path: Path) -> None:
    content = annotation_file()
    content['annotations'][2]['category_id'] = 99
    path = write(tmp_path / 'coco.json', json.dumps(content))
    with pytest.raises(ValueError, match='annotation 2 has category 99'):
        ClassPrior.build(path)


def test_same_names_in_another_order_are_a_mistake() -> None:
    prior = ClassPrior(COUNTS, NAMES)
    prior.check_classes(NAMES)
    prior.check_classes(['Wall', 'Sky', 'Car', 'Cat', 'Flag'])
    with pytest.raises(ValueError, match='sky is class 1 of the prior, but class 0'):
        prior.check_classes(['sky', 'wall', 'car', 'cat', 'flag'])
    with pytest.raises(ValueError, match='5 classes, but the data set has 2'):
        prior.check_classes(NAMES[:2])


def test_annotation_files_are_counted_in_their_own_order_as_mmdet_labels_them(tmp_path) -> None:
    content = dict(
        images=[],
        categories=[dict(id=2, name='b'), dict(id=1, name='a')],
        annotations=[dict(id=i, image_id=i, category_id=c) for i, c in enumerate([2, 2, 2, 1])],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))
    prior = ClassPrior.build(tmp_path / 'train.json')
    assert prior.classes == ('b', 'a')
    assert prior.counts.tolist() == [3, 1]
