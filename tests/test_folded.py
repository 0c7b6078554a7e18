"""What folds is run by each library's own test.py where mmdisalign cannot be imported."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from project import run, save_untrained, write_classifier, write_stage1

from mmdisalign.data.scenes import SceneSpec, write_lvis

NAMES = 'ours', 'theirs'
DETECTOR = """
_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(_base_.train_dataloader.dataset, data_root='scenes/'))
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(_base_.test_dataloader.dataset, data_root='scenes/'))
val_dataloader = test_dataloader
test_evaluator = dict(
    _delete_=True, type='CocoMetric', metric='bbox',
    ann_file='scenes/annotations/scenes_val.json')
val_evaluator = test_evaluator
model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0)))
"""


def write_segmentor(root: Path) -> None:
    write_stage1(root, num_train=88, num_val=8, num_workers=0)


def write_detector(root: Path) -> None:
    write_lvis(SceneSpec(), root / 'scenes', num_train=88, num_val=4)
    annotations = root / 'scenes/annotations/scenes_val.json'
    content = json.loads(annotations.read_text())
    for own in content['annotations']:
        own['iscrowd'] = 0  # of LVIS there is none, and mmdet's own evaluation here is COCO's
    annotations.write_text(json.dumps(content))
    (root / 'stage1.py').write_text(DETECTOR)
    save_untrained(root / 'stage1.py', root / 'stage1.pth')


def write_still_images(root: Path) -> None:
    write_classifier(root)
    config = root / 'stage1.py'
    config.write_text(config.read_text().replace(', flip, ', ', '))  # of a chance to each run


@pytest.mark.parametrize(
    ('library', 'write', 'method', 'metric'),
    [
        ('mmseg', write_segmentor, 'logit-adjustment', r'mIoU: ([\d.]+)'),
        ('mmdet', write_detector, 'disalign-constant', r'bbox_mAP: ([\d.]+)'),
        ('mmpretrain', write_still_images, 'marc', r'accuracy/top1: ([\d.]+)'),
    ],
)
def test_stock_test_evaluates_it(
    repo: Path,
    tmp_path: Path,
    library: str,
    write: Callable[[Path], None],
    method: str,
    metric: str,
) -> None:
    write(tmp_path)
    options = ['--method', method, '--value', 1, '--zero-count', 'min', '--passes', 1, '--fold']
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    run(repo, tmp_path, *tool, *options, '--choose', 'train', '--out', 'folded.pth')
    ours = [sys.executable, repo / 'tools/test.py', 'folded.py', 'folded.pth']
    output = run(repo, tmp_path, *ours, *named(library, 'ours'))
    expected = re.findall(metric, output)[-1]
    # The user's own config, whose base is of ours here, as it is without bases.
    Config.fromfile(tmp_path / 'stage1.py').dump(tmp_path / 'stock.py')
    blocked = tmp_path / 'blocked/mmdisalign'
    blocked.mkdir(parents=True)
    (blocked / '__init__.py').write_text("raise ImportError('mmdisalign is not here')\n")
    (package,) = importlib.util.find_spec(library).submodule_search_locations
    command = [sys.executable, '-u', Path(package) / '.mim/tools/test.py', 'stock.py']
    output = run(blocked.parent, tmp_path, *command, 'folded.pth', *named(library, 'theirs'))
    assert not re.search('missing keys|unexpected key|size mismatch', output)
    assert re.findall(metric, output)[-1] == expected
    if library == 'mmdet':  # whose AP is 0 before it has learned
        boxes = [json.loads((tmp_path / f'{own}.bbox.json').read_text()) for own in NAMES]
        assert boxes[0] == boxes[1] and len(boxes[0]) > 50


def named(library: str, name: str) -> list[str]:
    """What makes mmdet's evaluation keep the boxes."""
    own = f'test_evaluator.outfile_prefix={name}'
    return ['--cfg-options', own] if library == 'mmdet' else []
