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


RETINANET = """
_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')
backbone, neck = _base_.model.backbone, _base_.model.neck
classes = _base_.classes
model = dict(
    _delete_=True, type='RetinaNet', data_preprocessor=_base_.model.data_preprocessor,
    backbone=backbone, neck=neck,
    bbox_head=dict(
        type='RetinaHead', num_classes=len(classes), in_channels=neck.out_channels,
        feat_channels=16, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[4, 8, 16])),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
            ignore_iof_thr=-1),
        allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=50))
dataset = dict(_base_.train_dataloader.dataset, data_root='scenes/')
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(_base_.test_dataloader.dataset, data_root='scenes/'))
val_dataloader = test_dataloader
val_evaluator = test_evaluator = dict(
    _delete_=True, type='mmdisalign.detection.LongTailLVISMetric',
    ann_file='scenes/annotations/scenes_val.json')
"""
RETINANET_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/disalign_det.py')]
model = dict(
    type=f'mmdisalign.detection.Calibrated{_base_.model.type}',
    class_prior='scenes/annotations/scenes_train.json')
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = (
    _base_.disalign.short_schedule)
train_cfg.update(max_iters=4, val_interval=100)
default_hooks.checkpoint.interval = 2
load_from = 'stage1.pth'
"""


@pytest.fixture(scope='module')
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-stage detector on scenes."""
    root = tmp_path_factory.mktemp('dense')
    write_lvis(SceneSpec(), root / 'scenes', num_train=88, num_val=4)
    (root / 'stage1.py').write_text(RETINANET)
    (root / 'stage2.py').write_text(RETINANET_2)
    save_untrained(root / 'stage1.py', root / 'stage1.pth')
    return root


def test_a_detector_on_sigmoids_is_fitted_and_taken_by_mmdets_own_test(
    repo: Path, dense: Path
) -> None:
    import mmdet

    output = calibrate(repo, dense, '--exp-scale', 0.5, '--zero-count', 'min', '--passes', 1)
    assert 'all positive elements of each that its head labels and 256 negative ones' in output
    before, after = re.search(r'retina_cls.calibration: loss ([\d.]+) to ([\d.]+)', output).groups()
    assert float(after) < float(before)
    assert len(learned(dense)) == 4
    theirs = Path(mmdet.__file__).parent / '.mim/tools/test.py'
    output = run(repo, dense, sys.executable, theirs, 'calibrated.py', 'calibrated.pth')
    assert 'bbox_AP' in output and 'starts anew' not in output


def test_a_detector_on_sigmoids_trains_its_calibration_alone_and_resumes(
    repo: Path, dense: Path
) -> None:
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py']
    run(repo, dense, *command, '--work-dir', 'whole')
    options = ['--work-dir', 'parts', '--cfg-options', 'randomness.seed=0']
    run(repo, dense, *command, *options, 'train_cfg.max_iters=2')
    output = run(repo, dense, *command, *options, 'train_cfg.max_iters=4', '--resume')
    assert 'resumed' in output
    before = torch.load(dense / 'stage1.pth')['state_dict']
    for folder in ('whole', 'parts'):
        path = dense / folder / 'iter_4.pth'
        after = torch.load(path, weights_only=False)['state_dict']
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert all(value.any() for key, value in after.items() if key not in before)


def test_two_processes_train_a_detector_on_sigmoids(repo: Path, dense: Path) -> None:
    # By the launcher, whose processes share nothing that a fork has.
    command = ['bash', repo / 'tools/dist_train.sh', 'stage2.py', 2, '--work-dir', 'two']
    run(repo, dense, *command, '--cfg-options', 'train_cfg.max_iters=2')
    assert (dense / 'two/iter_2.pth').is_file()
