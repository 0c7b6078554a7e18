"""Configs with ``read_base`` and classes for types: the tools take them as those with names."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from project import run, save_untrained, write_classifier, write_new_style, write_stage1

from mmdisalign.data.scenes import SceneSpec, write_lvis

DETECTOR = """
_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='scenes/'))
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False,
    dataset=dict(data_root='scenes/'))
val_evaluator = test_evaluator = dict(
    _delete_=True, type='LVISMetric', ann_file='scenes/annotations/scenes_val.json')
"""
STAGE_2 = """
from mmengine.config import read_base

with read_base():
    from mmdisalign.configs.disalign_{fragment} import disalign

    from .new import *

model.update(disalign['model'], class_prior='new_calibrated_prior.json', zero_count='min')
train_cfg, optim_wrapper, param_scheduler, hooks, *_ = disalign['short_schedule']
default_hooks = dict(hooks)
train_cfg['{length}'] = 2
load_from = 'stage1.pth'
"""


@dataclass
class Library:
    """A project of one of the libraries, with the same stage 1 in either style."""

    root: Path
    fragment: str
    length: str
    metric: str
    predictions: str


def segmentation(root: Path) -> Library:
    write_stage1(root, num_train=88, num_val=2, num_workers=0)
    return Library(root, 'seg', 'max_iters', 'mIoU', 'predicted')


def detection(root: Path) -> Library:
    write_lvis(SceneSpec(), root / 'scenes', num_train=88, num_val=2)
    (root / 'stage1.py').write_text(DETECTOR)
    save_untrained(root / 'stage1.py', root / 'stage1.pth')
    return Library(root, 'det', 'max_iters', 'bbox_AP', 'predicted.pkl')


def classification(root: Path) -> Library:
    write_classifier(root)
    return Library(root, 'cls', 'max_epochs', 'accuracy/top1', 'predicted.pkl')


@pytest.fixture(scope='module', params=[segmentation, detection, classification])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repo: Path
) -> Library:
    """Its stage 1 counted and calibrated in both styles."""
    made = request.param(tmp_path_factory.mktemp(request.param.__name__))
    write_new_style(made.root / 'stage1.py', made.root / 'new.py')
    (made.root / 'stage2.py').write_text(STAGE_2.format(**vars(made)))
    for name in ('stage1', 'new'):
        tool(repo, made, 'class_prior', f'{name}.py', '--out', f'{name}_counts.json')
        out = ['--out', f'{name}_calibrated.pth', '--exp-scale', 0.5, '--zero-count', 'min']
        limit = ['--images-per-class', 2, '--passes', 1, '--cache-size', '20MB']
        tool(repo, made, 'calibrate', f'{name}.py', 'stage1.pth', *out, *limit)
    return made


def tool(repo: Path, library: Library, name: str, *arguments: object) -> str:
    return run(repo, library.root, sys.executable, repo / f'tools/{name}.py', *arguments)


def state(library: Library, name: str) -> dict[str, torch.Tensor]:
    return torch.load(library.root / name, weights_only=False)['state_dict']


def test_types_are_classes(library: Library) -> None:
    model = Config.fromfile(library.root / 'new.py').model
    assert isinstance(Config.fromfile(library.root / 'stage1.py').model.type, str)
    assert isinstance(model.type, type) and isinstance(model.backbone.type, type)


def test_the_same_classes_are_counted(library: Library) -> None:
    text, new = (
        json.loads((library.root / f'{n}_counts.json').read_text()) for n in ('stage1', 'new')
    )
    assert new == text and sum(new['counts']) > 0


def test_the_same_calibration_is_fitted(library: Library) -> None:
    text, new = (state(library, f'{name}_calibrated.pth') for name in ('stage1', 'new'))
    assert list(new) == list(text)
    assert all(torch.equal(new[key], value) for key, value in text.items())
    learned = [value for key, value in new.items() if '.calibration.' in key]
    assert learned and all(value.any() for value in learned)


def test_what_was_written_is_tested_and_analyzed(repo: Path, library: Library) -> None:
    pair = ['new_calibrated.py', 'new_calibrated.pth']
    output = tool(repo, library, 'test', *pair, '--out', library.predictions)
    assert library.metric in output
    assert 'starts anew' not in output  # the calibration was loaded
    before = ['new.py', 'stage1.pth', '--out', f'stage1_{library.predictions}']
    output = tool(repo, library, 'test', *before)
    # mmdet's own dies with this numpy, after the last image.
    replaced = "mmdisalign's LongTailLVISMetric in the place of mmdet's LVISMetric"
    assert (replaced in output) is (library.fragment == 'det')
    arguments = [f'stage1_{library.predictions}', library.predictions]
    arguments += ['--config', pair[0], '--checkpoint', pair[1]]
    arguments += ['--prior', 'new_calibrated_prior.json', '--confidence-images', 2]
    tool(repo, library, 'analyze', *arguments, '--out', 'report')
    text = (library.root / 'report/index.html').read_text(encoding='utf-8')
    assert len(text) > 10000
    # What the plug-in knows of the gate: true classes, and images in which it closes.
    assert 'Where the gate closes' in text and 'by their true class' in text


def test_stage_2_trains_the_calibration_alone(repo: Path, library: Library) -> None:
    tool(repo, library, 'train', 'stage2.py', '--work-dir', 'work')
    (path,) = library.root.glob('work/*_2.pth')
    before, after = state(library, 'stage1.pth'), state(library, str(path))
    assert all(torch.equal(after[key], value) for key, value in before.items())
    added = [value for key, value in after.items() if key not in before]
    assert added and all(value.any() for value in added)
