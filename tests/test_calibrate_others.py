"""tools/calibrate.py on a detector and on a classifier."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from project import run, save_untrained, write_classifier

from mmdisalign.data.scenes import SceneSpec, write_lvis


def calibrate(repo: Path, project: Path, *options: object) -> str:
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    return run(repo, project, *tool, '--out', 'calibrated.pth', *options)


def learned(project: Path) -> dict[str, torch.Tensor]:
    content = torch.load(project / 'calibrated.pth', map_location='cpu', weights_only=False)
    assert content['meta']['dataset_meta']['classes']
    return {key: v for key, v in content['state_dict'].items() if '.calibration.' in key}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    write_classifier(tmp_path)
    return tmp_path


def test_a_classifier_is_fitted_to_some_of_its_images(repo: Path, classifier: Path) -> None:
    options = ['--images-per-class', 12, '--passes', 2]
    output = calibrate(repo, classifier, '--exp-scale', 'auto', *options)
    # 12 of 40, all 12 of the next, and all 4 of the last, twice.
    said = '28 of 56 images, up to 2 times, 32 in all, and the scores of each. Up to 32 samples'
    assert said in output
    assert 'on 32 samples' in output
    assert 'mean accuracy of the classes' in output
    assert len(learned(classifier)) == 4
    before, after = re.search(r'loss ([\d.]+) to ([\d.]+) in', output).groups()
    assert float(after) < 0.8 * float(before)


def test_every_stage_of_a_cascade_is_fitted(repo: Path, tmp_path: Path) -> None:
    write_lvis(SceneSpec(), tmp_path / 'scenes', num_train=88, num_val=1)
    (tmp_path / 'stage1.py').write_text(
        "_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')\n"
        'head = _base_.model.roi_head.bbox_head\n'
        "model = dict(type='CascadeRCNN', roi_head=dict(\n"
        "    type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.5],\n"
        '    bbox_head=[head, head]),\n'
        '    train_cfg=dict(rcnn=dict(_delete_=True)))\n'
        'stages = [_base_.model.train_cfg.rcnn] * 2\n'
        "model['train_cfg']['rcnn'] = stages\n"
        "dataset = dict(_base_.train_dataloader.dataset, data_root='scenes/')\n"
        'train_dataloader = dict(batch_size=5, num_workers=0, dataset=dataset)\n'
        "test_evaluator = dict(_delete_=True, type='LVISMetric', ann_file='val.json',\n"
        '    classwise=True)\n'
    )
    save_untrained(tmp_path / 'stage1.py', tmp_path / 'stage1.pth')
    options = ['--exp-scale', 0.5, '--zero-count', 'min', '--cache-size', '20MB']
    output = calibrate(repo, tmp_path, *options)
    assert 'proposals of each that training samples' in output
    for stage in (0, 1):
        assert f'roi_head.bbox_head.{stage}.fc_cls.calibration: loss' in output
    assert len(learned(tmp_path)) == 8
    # mmdet's own dies with a numpy from 1.24 on.
    evaluator = Config.fromfile(tmp_path / 'calibrated.py').test_evaluator
    ours = 'mmdisalign.detection.LongTailLVISMetric'
    assert evaluator == dict(type=ours, ann_file='val.json')
