"""Counting a data set: what comes from the cache, what is resumed, and what is named as wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from project import environment

from mmdisalign.counting import files
from mmdisalign.counting.counting import CountError, classes_of_images

pytest.importorskip('mmseg')
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from mmdisalign.segmentation.count import count_pixels

CLASSES = [f'class {i}' for i in range(11)]


@DATASETS.register_module()
class OfElevenClasses(BaseSegDataset):
    """Has classes of its own, so that a config can choose among them."""

    METAINFO = dict(classes=CLASSES)


@TRANSFORMS.register_module()
class LoadHalf(LoadAnnotations):
    """A loading transform of the project's own: labels 2 and 3 are class 1, and so on."""

    divisor = 2

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        return {**results, 'gt_seg_map': results['gt_seg_map'] // self.divisor}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache/mmdisalign/counts.sqlite'


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Eight maps of the eleven classes."""
    write_maps(tmp_path, 8)
    return tmp_path / 'maps'


def write_maps(root: Path, number: int) -> None:
    for folder in ('maps', 'images'):
        (root / folder).mkdir(parents=True)
    for seed in range(number):
        labels = np.random.default_rng(seed).integers(0, 11, (20, 30)).astype(np.uint8)
        Image.fromarray(labels).save(root / f'maps/{seed:03}.png')
        (root / f'images/{seed:03}.jpg').touch()


def dataset(root: Path, **options: Any) -> dict:
    prefix = dict(img_path='images', seg_map_path='maps')
    return dict(type='OfElevenClasses', data_root=str(root), data_prefix=prefix, **options)


def count_plainly(maps: Path) -> list[int]:
    labels = [np.asarray(Image.open(path)).ravel() for path in maps.iterdir()]
    return np.bincount(np.concatenate(labels), minlength=11).tolist()


def paint(path: Path, label: int, pixels: int = 6) -> None:
    labels = np.array(Image.open(path))
    labels.flat[:pixels] = label
    Image.fromarray(labels).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# What is cached


def test_a_second_count_comes_from_the_cache(maps: Path, capsys) -> None:
    first = count_pixels(dataset(maps.parent))
    assert first.counts.tolist() == count_plainly(maps)
    assert '8 maps: 0 from the cache, 8 counted at ' in capsys.readouterr().out
    second = count_pixels(dataset(maps.parent))
    assert capsys.readouterr().out == '8 maps: 8 from the cache, 0 counted\n'
    assert second.counts.tolist() == first.counts.tolist()
    assert second.images.tolist() == first.images.tolist()


def test_a_changed_map_is_counted_again(maps: Path, capsys) -> None:
    count_pixels(dataset(maps.parent))
    paint(maps / '003.png', 7)
    assert count_pixels(dataset(maps.parent)).counts.tolist() == count_plainly(maps)
    assert '8 maps: 7 from the cache, 1 counted' in capsys.readouterr().out


def test_a_map_changed_behind_its_time_is_counted_again(tmp_path: Path) -> None:
    write_maps(tmp_path, 1)
    path = tmp_path / 'maps/000.png'
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(path)
    count_pixels(dataset(tmp_path))
    before = path.stat()
    Image.fromarray(np.full((8, 8), 4, np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert count_pixels(dataset(tmp_path)).counts[4] == 64


def test_other_labels_do_not_come_from_the_cache(maps: Path, monkeypatch, capsys) -> None:
    counts = count_plainly(maps)
    assert count_pixels(dataset(maps.parent)).counts.tolist() == counts
    reduced = count_pixels(dataset(maps.parent, reduce_zero_label=True))
    assert reduced.counts.tolist() == [*counts[1:], 0]
    # mmseg's label map: classes that the config leaves out are ignored.
    chosen = count_pixels(dataset(maps.parent, metainfo=dict(classes=['class 8', 'class 2'])))
    assert chosen.counts.tolist() == [counts[8], counts[2]]
    halves = [counts[i] + (counts[i + 1] if i < 10 else 0) for i in range(0, 11, 2)]
    pipeline = [dict(type='LoadHalf')]
    half = count_pixels(dataset(maps.parent, pipeline=pipeline))
    assert half.counts.tolist() == [*halves, 0, 0, 0, 0, 0]
    # What a transform of the user's own depends on is not known: it counts each time.
    LoadHalf.divisor = 1
    assert count_pixels(dataset(maps.parent, pipeline=pipeline)).counts.tolist() == counts
    LoadHalf.divisor = 2
    assert capsys.readouterr().out.count('8 maps: 0 from the cache, 8 counted') == 5
    # What is ignored is decided after the cache.
    ignoring = count_pixels(dataset(maps.parent, ignore_index=5))
    assert ignoring.counts.tolist() == [0 if i == 5 else count for i, count in enumerate(counts)]
    assert '8 from the cache' in capsys.readouterr().out


def test_several_processes_count_as_one(maps: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(files, 'FILES_PER_PROCESS', 2)
    monkeypatch.setattr(files, 'BATCH', 2)
    monkeypatch.setattr(files, 'usable_cores', lambda: 2)
    assert files._loader(range(8)).num_workers == 2
    truncate(maps / '005.png')
    prior = count_pixels(dataset(maps.parent), skip_errors=True)
    assert '005.png: cannot be loaded' in capsys.readouterr().out
    (maps / '005.png').unlink()
    assert prior.counts.tolist() == count_plainly(maps)


@pytest.mark.parametrize('broken', ['no folder', 'no database'])
def test_a_count_does_without_a_cache_that_cannot_be_used(
    maps: Path, cache: Path, broken: str, capsys
) -> None:
    cache.parent.parent.mkdir()
    if broken == 'no folder':
        cache.parent.write_text('a file where the folder should be')
    else:
        cache.parent.mkdir()
        cache.write_text('not SQLite, ' * 100)
    assert count_pixels(dataset(maps.parent)).counts.tolist() == count_plainly(maps)
    output = capsys.readouterr()
    assert output.err.count('cannot be used') == 1
    assert str(cache) in output.err
    assert '8 counted' in output.out


# What is resumed

SLOW = """
import os, time
from mmseg.datasets.transforms import LoadAnnotations

load = LoadAnnotations.transform

def slow_load(self, results):
    time.sleep(0.01)
    with open(os.environ['LOG'], 'a') as log:
        log.write(results['seg_map_path'] + '\\n')
    return load(self, results)

LoadAnnotations.transform = slow_load
"""
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['slow'])
train_dataloader = dict(dataset=dict(
    type='BaseSegDataset', metainfo=dict(classes=tuple('abcdefghijk')), data_root='data',
    data_prefix=dict(img_path='images', seg_map_path='maps'), pipeline=[]))
"""


def known_maps(cache: Path) -> set[str]:
    if not cache.exists():
        return set()
    connection = sqlite3.connect(cache)
    try:
        return {Path(row[0]).name for row in connection.execute('SELECT path FROM counts')}
    except sqlite3.OperationalError:  # the table is not there yet
        return set()
    finally:
        connection.close()


def test_a_count_killed_in_the_middle_goes_on(
    repo: Path, tmp_path: Path, cache: Path, monkeypatch, capsys
) -> None:
    write_maps(tmp_path / 'data', 400)  # enough for two processes
    (tmp_path / 'slow.py').write_text(SLOW)
    (tmp_path / 'stage1.py').write_text(CONFIG)
    environ = environment(repo)
    environ['PYTHONPATH'] = os.pathsep.join([str(tmp_path), environ['PYTHONPATH']])
    killed = subprocess.Popen(
        [sys.executable, repo / 'tools/class_prior.py', 'stage1.py', '--out', 'prior.json'],
        cwd=tmp_path,
        env={**environ, 'LOG': 'first.log'},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 60
    while not known_maps(cache) and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    known = known_maps(cache)
    assert 0 < len(known) < 400
    assert not (tmp_path / 'prior.json').exists()

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('LOG', 'second.log')
    monkeypatch.setattr(LoadAnnotations, 'transform', LoadAnnotations.transform)  # slow.py's, later
    prior = count_pixels(Config.fromfile('stage1.py').train_dataloader.dataset)
    assert f'400 maps: {len(known)} from the cache' in capsys.readouterr().out
    counted = {Path(line).name for line in Path('second.log').read_text().splitlines()}
    assert len(counted) == 400 - len(known)
    assert not counted & known
    assert prior.counts.tolist() == count_plainly(tmp_path / 'data/maps')


def test_an_interrupted_count_keeps_what_it_has(maps: Path, monkeypatch, capsys) -> None:
    load = LoadAnnotations.transform

    def press_ctrl_c(self: LoadAnnotations, results: dict) -> dict:
        if results['seg_map_path'].endswith('003.png'):
            raise KeyboardInterrupt
        return load(self, results)

    monkeypatch.setattr(files, 'BATCH', 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LoadAnnotations, 'transform', press_ctrl_c)
        count_pixels(dataset(maps.parent))
    assert 'the same command goes on from here' in capsys.readouterr().err
    count_pixels(dataset(maps.parent))
    assert '8 maps: 3 from the cache, 5 counted' in capsys.readouterr().out


# What is named


def test_a_truncated_map_is_named(maps: Path) -> None:
    truncate(maps / '004.png')
    with pytest.raises(CountError, match=r'maps/004\.png: cannot be loaded: .*truncated'):
        count_pixels(dataset(maps.parent))


def test_a_label_beyond_the_classes_is_named(maps: Path) -> None:
    paint(maps / '002.png', 200)
    message = r'maps/002\.png: label 200 in 6 pixels, but the data set has 11 classes'
    for _ in range(2):  # from the file, and from the cache
        with pytest.raises(CountError, match=message):
            count_pixels(dataset(maps.parent))
    in_file = r'label 199 \(200 in the file, before reduce_zero_label\) in 6 pixels'
    with pytest.raises(CountError, match=in_file):
        count_pixels(dataset(maps.parent, reduce_zero_label=True))


def test_a_map_in_colours_is_named(maps: Path) -> None:
    Image.new('RGB', (4, 4)).save(maps / '001.png')
    with pytest.raises(CountError, match=r'001\.png: has colours \(RGB\), which are no labels'):
        count_pixels(dataset(maps.parent))


def test_the_rest_is_counted_and_what_is_left_out_is_said(maps: Path, capsys) -> None:
    truncate(maps / '004.png')
    paint(maps / '002.png', 200)
    (maps / '006.png').unlink()
    prior = count_pixels(dataset(maps.parent), skip_errors=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if '002.png: label 200 in 6 pixels' in line]
    assert [line for line in lines if '004.png: cannot be loaded' in line]
    assert [line for line in lines if '006.png: cannot be loaded: FileNotFoundError' in line]
    assert lines[-1] == '3 of 8 maps are left out of the count'
    for name in ('002.png', '004.png'):
        (maps / name).unlink()
    assert prior.counts.tolist() == count_plainly(maps)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    write_maps(tmp_path, 0)
    folders = f'{tmp_path}/images, {tmp_path}/maps'
    with pytest.raises(CountError, match=f'{folders}: there is no sample in it that OfEleven'):
        count_pixels(dataset(tmp_path))


def test_the_classes_of_each_map_come_from_the_count(maps: Path, capsys) -> None:
    for index in range(8):
        labels = np.array([[index, index + 1]] * 2, np.uint8)
        Image.fromarray(labels).save(maps / f'{index:03}.png')
    init_default_scope('mmseg')
    load = [dict(type='LoadAnnotations')]
    whole = dataset(maps.parent, reduce_zero_label=True, pipeline=load)
    count_pixels(whole)
    # A 0 in the file is ignored, and the others are one less, but where they are not reduced.
    plain = dict(whole, reduce_zero_label=False)
    count_pixels(plain)
    reduced = [[0], *([index - 1, index] for index in range(1, 8))]
    keys = ['reduce_zero_label', 'label_map']
    unreduced = [[index, index + 1] for index in range(8)]
    for config, expected in (
        (whole, reduced),
        (
            dict(type='ConcatDataset', datasets=[whole, plain], ignore_keys=keys),
            reduced + unreduced,
        ),
    ):
        capsys.readouterr()
        built = DATASETS.build(config)
        found = classes_of_images('segmentation', built, 11)
        assert [own.tolist() for own in found] == expected
        assert ' 0 counted' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (truncate, r'003\.png: cannot be'),
        (lambda path: paint(path, 200), r'003\.png: label 200 .*has 11 classes'),
    ],
)
def test_a_map_without_classes_to_tell_is_named(maps: Path, spoil: Any, message: str) -> None:
    spoil(maps / '003.png')
    built = DATASETS.build(dataset(maps.parent, pipeline=[]))
    with pytest.raises(CountError, match=message):
        classes_of_images('segmentation', built, 11)


def test_a_wrapper_that_hides_what_is_in_an_image_is_named() -> None:
    with pytest.raises(TypeError, match=r'list does not tell .* --images-per-class all'):
        classes_of_images('segmentation', [], 11)


# Detection


def coco(**changes: Any) -> dict:
    """Two images of a cat and of two dogs, with a horse that no config here asks for."""
    box = dict(bbox=[1, 1, 5, 5], area=25, iscrowd=0)
    pairs = [(1, 1), (1, 2), (2, 2), (2, 3)]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=9, width=9) for i in (1, 2)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog'), dict(id=3, name='horse')],
        annotations=[
            dict(id=i, image_id=image, category_id=category, **box)
            for i, (image, category) in enumerate(pairs)
        ],
    )
    return {**content, **changes}


def coco_dataset(root: Path) -> dict:
    """The config of ``train.json``."""
    return dict(
        type='CocoDataset',
        metainfo=dict(classes=('cat', 'dog')),
        data_root=str(root),
        data_prefix=dict(img=''),
        ann_file='train.json',
    )


def count_coco(root: Path, content: Any, *, skip_errors: bool = False, **options: Any) -> Any:
    from mmdisalign.detection.count import count_instances

    if content is not None:
        (root / 'train.json').write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
    return count_instances({**coco_dataset(root), **options}, skip_errors=skip_errors)


def with_annotation(**changes: Any) -> dict:
    content = coco()
    content['annotations'].append({**content['annotations'][0], 'id': 9, **changes})
    return content


def test_categories_that_a_config_leaves_out_are_said(tmp_path: Path, capsys) -> None:
    for note in ('2 images at ', '2 images from the cache'):
        prior = count_coco(tmp_path, coco() if 'at' in note else None)
        assert (prior.counts.tolist(), prior.images.tolist()) == ([1, 2], [1, 2])
        output = capsys.readouterr().out
        assert 'leave out 1 annotations of 1 categories: horse (1)' in output
        assert note in output
    count_coco(tmp_path, None, metainfo=dict(classes=('cat', 'dog', 'horse')))
    assert 'leave out' not in capsys.readouterr().out


def test_a_changed_annotation_file_is_counted_again(tmp_path: Path) -> None:
    count_coco(tmp_path, coco())
    assert count_coco(tmp_path, with_annotation()).counts.tolist() == [2, 2]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(category_id=7), r'annotation 9 of image 1\.jpg has category 7'),
        (dict(image_id=5), 'annotation 9 is of image 5, which is not one of its images'),
    ],
)
def test_an_annotation_of_nothing_in_the_file_is_named(
    tmp_path: Path, changes: dict, message: str, capsys
) -> None:
    with pytest.raises(CountError, match=rf'train\.json: {message}'):
        count_coco(tmp_path, with_annotation(**changes))
    for _ in range(2):  # faults are said each time
        prior = count_coco(tmp_path, None, skip_errors=True)
        assert prior.counts.tolist() == [1, 2]
        assert '1 of 4 instances are left out' in capsys.readouterr().out


def test_labels_beyond_the_classes_are_named(tmp_path: Path, capsys) -> None:
    pytest.importorskip('lvis')
    content = coco()
    for image in content['images']:
        image.update(not_exhaustive_category_ids=[], neg_category_ids=[], coco_url='/1/2.jpg')
    options = dict(type='LVISV05Dataset')
    with pytest.raises(CountError, match=r'label 2 \(category 3\) in image .*2\.jpg, .* 2 classes'):
        count_coco(tmp_path, content, **options)
    assert count_coco(tmp_path, None, skip_errors=True, **options).counts.tolist() == [1, 2]
    assert '1 of 4 instances are left out' in capsys.readouterr().out


def test_annotations_that_are_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(CountError, match=r'train\.json cannot be read: JSONDecodeError: .*column'):
        count_coco(tmp_path, json.dumps(coco())[:-40], skip_errors=True)


def test_an_annotation_file_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(CountError, match=r'train\.json: there is no sample in it that CocoDataset'):
        count_coco(tmp_path, coco(), filter_cfg=dict(min_size=32))


def test_the_classes_of_each_image_are_those_of_its_instances(tmp_path: Path) -> None:
    from mmdet.registry import DATASETS as DETECTION

    crowd = {**coco()['annotations'][0], 'id': 9, 'image_id': 2, 'category_id': 1, 'iscrowd': 1}
    (tmp_path / 'train.json').write_text(
        json.dumps(coco(annotations=[*coco()['annotations'], crowd]))
    )
    built = DETECTION.build({**coco_dataset(tmp_path), 'pipeline': []})
    found = classes_of_images('detection', built, 2)
    assert [own.tolist() for own in found] == [[0, 1], [1]]


# Classification


def test_the_class_of_each_image_is_its_label(tmp_path: Path) -> None:
    init_default_scope('mmpretrain')
    from mmpretrain.registry import DATASETS as CLASSIFICATION

    (tmp_path / 'train.txt').write_text('a.jpg 2\nb.jpg 0\n')
    config = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='train.txt', pipeline=[])
    repeated = dict(type='RepeatDataset', times=2, dataset=config)
    found = classes_of_images('classification', CLASSIFICATION.build(repeated), 3)
    assert [own.tolist() for own in found] == [[2], [0]] * 2


def test_an_image_counts_for_each_of_its_labels(tmp_path: Path) -> None:
    from mmdisalign.classification.count import count_images

    init_default_scope('mmpretrain')
    labels = [[0, 2], [0], [], [2, 2], 1]
    content = dict(
        metainfo=dict(classes=('a', 'b', 'c')),
        data_list=[dict(img_path=f'{i}.jpg', gt_label=own) for i, own in enumerate(labels)],
    )
    path = tmp_path / 'labels.json'
    path.write_text(json.dumps(content))
    config = dict(type='MultiLabelDataset', ann_file=str(path), pipeline=[])
    assert count_images(config).counts.tolist() == [2, 1, 2]
    from mmpretrain.registry import DATASETS as CLASSIFICATION

    found = classes_of_images('classification', CLASSIFICATION.build(config), 3)
    assert [np.unique(own).tolist() for own in found] == [[0, 2], [0], [], [2], [1]]
    content['data_list'][1]['gt_label'] = [0, 3]
    path.write_text(json.dumps(content))
    with pytest.raises(CountError, match=r'1\.jpg has label 3, but the data set has 3 classes'):
        count_images(config)


def count_list(root: Path, lines: str, *, skip_errors: bool = False, **options: Any) -> Any:
    from mmdisalign.classification.count import count_images

    (root / 'train.txt').write_text(lines)
    config = dict(type='CustomDataset', data_root=str(root), ann_file='train.txt', **options)
    return count_images(config, skip_errors=skip_errors)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('b.jpg 2', r'line 2: .*b\.jpg has label 2, but the data set has 2 classes'),
        ('b.jpg -1', r'line 2: .*b\.jpg has label -1'),
        ('b.jpg', r"line 2: 'b\.jpg' is not 'path label'"),
        ('b.jpg dog', r"line 2: 'b\.jpg dog' is not"),
        ('', "line 2: '' is not"),
    ],
)
def test_lines_of_a_list_are_named(tmp_path: Path, line: str, message: str, capsys) -> None:
    lines = f'a b.jpg 0\n{line}\nc.jpg 1\nd.jpg 9\n'
    classes = ['cat', 'dog']
    with pytest.raises(CountError, match=rf'train\.txt, {message}'):
        count_list(tmp_path, lines, classes=classes)
    prior = count_list(tmp_path, lines, classes=classes, skip_errors=True)
    assert prior.counts.tolist() == [1, 1]
    output = capsys.readouterr().out
    assert f'{tmp_path}/train.txt, line 4: ' in output
    assert '2 of 4 images are left out' in output


@pytest.mark.parametrize('lines', ['', 'a.jpg\n'])
def test_a_list_without_images_is_named(tmp_path: Path, lines: str) -> None:
    with pytest.raises(CountError, match=r'train\.txt'):
        count_list(tmp_path, lines, skip_errors=True)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    from mmdisalign.classification.count import count_images

    (tmp_path / 'train/cat').mkdir(parents=True)
    with pytest.raises(CountError, match=rf'{tmp_path}/train cannot be read: .*Found 0 files'):
        count_images(dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='train'))
