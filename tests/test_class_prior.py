"""tools/class_prior.py: each library's training data, counted again by plain means."""

from __future__ import annotations

import json
import math
import re
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdisalign.analysis.imbalance import describe, effective_classes, gini
from mmdisalign.calibration import ClassPrior
from mmdisalign.data.scenes import SceneSpec, write_lvis

LIST = """
default_scope = 'mmpretrain'
dataset = dict(type='CustomDataset', ann_file='list.txt', pipeline=[])
train_dataloader = dict(dataset=dataset)
"""


class Tool:
    """tools/class_prior.py in this process, seen from an empty folder and with an empty cache."""

    def __init__(self, script: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        self.script, self.monkeypatch, self.capsys = script, monkeypatch, capsys

    def __call__(self, *args: object) -> str:
        self.monkeypatch.setattr(sys, 'argv', [str(each) for each in (self.script, *args)])
        runpy.run_path(str(self.script), run_name='__main__')
        return self.capsys.readouterr().out

    def fails(self, *args: object) -> str:
        """Run it on what it refuses; returns what it says."""
        with pytest.raises(SystemExit) as end:
            self(*args)
        assert end.value.code == 1
        return self.capsys.readouterr().err


@pytest.fixture
def tool(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Tool:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return Tool(repo / 'tools/class_prior.py', monkeypatch, capsys)


def count(tool: Tool, *args: object) -> tuple[dict, str]:
    output = tool(*args, '--out', 'new/prior.json')
    return json.loads(Path('new/prior.json').read_text()), output


def test_pixels_of_camvid(tool: Tool, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(shared / 'bench')
    prior, output = count(tool, shared / 'bench/camvid_stage1.py')
    pixels, images = np.zeros(256, dtype=int), np.zeros(256, dtype=int)
    for path in (shared / 'data/camvid/annotations/training').glob('*.png'):
        labels = np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
        pixels += labels
        images += labels > 0
    # In ADE20K's layout, 0 is no class and the classes follow.
    assert prior['counts'] == pixels[1 : len(prior['classes']) + 1].tolist()
    assert prior['images'] == images[1 : len(prior['classes']) + 1].tolist()
    assert 'maps: 0 from the cache, ' in output
    again, output = count(tool, shared / 'bench/camvid_stage1.py')
    assert again == prior
    assert ' from the cache, 0 counted' in output


def test_instances_of_facades(tool: Tool, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(shared / 'bench')
    prior, output = count(tool, shared / 'bench/facade_stage1.py')
    content = json.loads((shared / 'data/facade/annotations/facade_train.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    found = [(names[a['category_id']], a['image_id']) for a in content['annotations']]
    for name, instances, images in zip(prior['classes'], prior['counts'], prior['images']):
        own = [image for other, image in found if other == name]
        assert (instances, images) == (len(own), len(set(own)))
    assert 'most frequent:     window (9), 8,798' in output


def test_instances_of_a_repeated_data_set_count_once(tool: Tool, tmp_path: Path) -> None:
    write_lvis(SceneSpec(), tmp_path / 'scenes', num_train=88, num_val=1)
    (tmp_path / 'stage1.py').write_text(
        "_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')\n"
        "dataset = dict(_base_.train_dataloader.dataset, data_root='scenes/')\n"
        'train_dataloader = dict(dataset=dict(\n'
        "    _delete_=True, type='ClassBalancedDataset', oversample_thr=0.5, dataset=dataset))\n"
    )
    figure = tmp_path / 'frequencies.png'
    prior, output = count(tool, 'stage1.py', '--figure', figure)
    content = json.loads((tmp_path / 'scenes/annotations/scenes_train.json').read_text())
    categories = content['categories']
    assert prior['counts'] == [category['instance_count'] for category in categories]
    assert prior['images'] == [category['image_count'] for category in categories]
    assert 'never seen:        none' in output
    assert figure.stat().st_size > 10_000


def test_images_of_cifar10_lt(tool: Tool, shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / 'data/cifar10_lt/cifar10_lt.tar') as archive:
        archive.extract('CIFAR10_LT_train.txt', tmp_path, filter='data')
    (tmp_path / 'train').mkdir()
    (tmp_path / 'stage1.py').write_text(
        "default_scope = 'mmpretrain'\n"
        "dataset = dict(type='CustomDataset', data_root='.', ann_file='CIFAR10_LT_train.txt')\n"
        'train_dataloader = dict(dataset=dict(**dataset, pipeline=[]))\n'
    )
    prior, output = count(tool, 'stage1.py')
    lines = (tmp_path / 'CIFAR10_LT_train.txt').read_text().splitlines()
    labels = [int(line.rsplit(' ', 1)[1]) for line in lines]
    assert prior['counts'] == [labels.count(label) for label in range(10)]
    assert prior['images'] == prior['counts']
    assert 'imbalance factor:  100' in output


def test_without_out_the_tool_only_prints(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text('a.jpg 0\nb.jpg 0\nc.jpg 1\n')
    (tmp_path / 'stage1.py').write_text(LIST)
    assert 'imbalance factor:  2' in tool('stage1.py')
    assert {path.name for path in tmp_path.iterdir()} == {'list.txt', 'stage1.py'}


def test_data_at_fault_end_the_tool_with_the_split_and_the_file(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text('a.jpg 0\nb.jpg 7\nc.jpg 1\n')
    (tmp_path / 'stage1.py').write_text(LIST)
    classes = ['--cfg-options', 'train_dataloader.dataset.classes=[cat,dog]']
    error = tool.fails('stage1.py', '--out', 'prior.json', *classes)
    assert re.search(r'stage1\.py, train split: .*list\.txt, line 2.*label 7.*--skip-err', error)
    assert not (tmp_path / 'prior.json').exists()
    output = tool('stage1.py', '--skip-errors', *classes)
    assert '1 of 3 images are left out' in output
    assert 'imbalance factor:  1' in output


def test_a_config_of_another_library_is_refused(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / 'other.py').write_text("default_scope = 'mmpose'\n")
    error = tool.fails('other.py', '--out', 'new/prior.json')
    assert 'its default_scope is mmpose' in error
    assert not (tmp_path / 'new').exists()  # made for it, and empty
    assert not (tmp_path / 'prior.json').exists()


def test_gini_by_hand_and_by_its_definition() -> None:
    assert gini(np.array([5, 5, 5])) == pytest.approx(0)
    # |3 - 1| twice, over 2 * 2 * 4.
    assert gini(np.array([3, 1])) == pytest.approx(0.25)
    counts = np.random.default_rng(0).integers(1, 100, 30)
    differences = np.abs(counts[:, None] - counts).sum()
    assert gini(counts) == pytest.approx(differences / (2 * len(counts) * counts.sum()))


def test_effective_classes_by_hand() -> None:
    assert effective_classes(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_classes(np.array([0.5, 0.5, 0])) == pytest.approx(2)
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_classes(np.array([0.75, 0.25])) == pytest.approx(expected)


def test_unseen_classes_are_named() -> None:
    lines = dict(describe(ClassPrior.build({'cat': 8, 'dog': 0, 'cow': 2})))
    assert lines['never seen'] == 'dog (1)'
    assert lines['imbalance factor'] == 'inf (4 among the classes seen)'
    assert lines['least frequent'] == 'dog (1), 0'
    lines = dict(describe(ClassPrior.build([1] + [0] * 25)))
    assert lines['never seen'].endswith('class 20 and 5 more')
