"""One model of each family of heads, through stage 2: what must come out equal, and does.

Stock models with a sixteenth of their width, random weights and images of noise, trained by a
Runner as ``tools/train.py`` has one; and one model of each library through the tools themselves.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import test_seg_layers
import torch
from families import (
    FAMILIES,
    ITERATIONS,
    PRIOR,
    C,
    Noise,
    built,
    config,
    deit,
    dino,
    small,
    stage1,
    stock,
    train,
    train_as_one_of_two,
)
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from project import CLASSIFIER, SERVER, run, save_untrained, write_classifier
from torch import Tensor

from mmdisalign import config_path
from mmdisalign.data.scenes import SceneSpec, write_ade20k, write_lvis
from mmdisalign.engine import launch
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.engine.configs import PLUGINS

# Their losses are divided by something of the process's own images: as in stock, the weights of the
# labels (Mask2Former, DETR) or the positive anchors (RetinaNet, YOLACT); by ours, the weights of
# the labels (GRWCrossEntropyLoss of a classifier).
OWN_DIVISOR = (
    'Mask2Former',
    'panoptic Mask2Former',
    'DETR',
    'RetinaNet',
    'head of its own',
    'YOLACT',
    'DeiT',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each family, what stage 2 starts from: a stage 1, and a calibration that is not zero."""
    root = tmp_path_factory.mktemp('families')
    for family, (library, _) in FAMILIES.items():
        torch.manual_seed(0)
        model = built(stage1(family), library)
        model.init_weights()
        stage2 = built(config(family, root, '').model, library)
        with torch.no_grad():
            for parameter in model.parameters():  # some are zero, or all the same
                parameter.add_(0.02 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if 'running' in name:
                    buffer.uniform_(0.5, 1.5)
            stage2.load_state_dict(model.state_dict())
            for calibration in calibrations_of(stage2).values():
                calibration.magnitude.normal_(std=0.5)
                calibration.margin.normal_(std=0.5)
        (root / family).mkdir()
        torch.save(dict(state_dict=stage2.state_dict()), root / family / 'start.pth')
    return root


@pytest.fixture(scope='module', params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def start(folder: Path, family: str) -> dict[str, Tensor]:
    return torch.load(folder / family / 'start.pth')['state_dict']


@pytest.fixture(scope='module')
def unbroken(folder: Path, family: str) -> Runner:
    """The family's Runner, after four iterations of two images."""
    return train(config(family, folder, 'unbroken'))


@pytest.fixture(scope='module')
def two_processes(folder: Path) -> None:
    """Train all families in two processes, of which each imports the libraries once."""
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in FAMILIES]
        for each in opened:
            each.bind(('127.0.0.1', 0))
        ports = {name: each.getsockname()[1] for name, each in zip(FAMILIES, opened)}
    processes = [
        SERVER.Process(target=train_as_one_of_two, args=(rank, ports, folder)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    logs = [(folder / f'rank{rank}.log').read_text()[-3000:] for rank in (0, 1)]
    assert [process.exitcode for process in processes] == [0, 0], '\n\n'.join(logs)


def saved(folder: Path, family: str, name: str, iterations: int = ITERATIONS) -> dict:
    return torch.load(folder / family / name / f'iter_{iterations}.pth', weights_only=False)


def learned(state: dict[str, Tensor], start: dict[str, Tensor]) -> dict[str, Tensor]:
    """How the calibrations have changed; nothing else has, bit for bit."""
    assert set(state) == set(start)
    frozen = [key for key in state if '.calibration.' not in key]
    assert all(torch.equal(state[key], start[key]) for key in frozen)
    return {key: state[key] - start[key] for key in state if '.calibration.' in key}


def are_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether changes are the same but for the order of sums, 3e-6 of the largest of a tensor."""
    gaps = {key: (one[key] - value).abs().max() / value.abs().max() for key, value in other.items()}
    return max(gaps.values()) < 1e-4


def test_frozen_state_is_unchanged_after_stage_2(
    folder: Path, family: str, start: dict, unbroken: Runner
) -> None:
    changes = learned(saved(folder, family, 'unbroken')['state_dict'], start)
    assert len(changes) >= 4
    assert all(change.any() for change in changes.values())
    # Nor have the buffers that no checkpoint has, those of losses.
    fresh = built(config(family, folder, '').model, FAMILIES[family][0])
    before, after = (dict(model.named_buffers()) for model in (fresh, unbroken.model))
    assert set(before) == set(after)
    assert all(torch.equal(after[name], before[name]) for name in set(before) - set(start))


def test_a_resumed_run_is_an_unbroken_one(folder: Path, family: str, unbroken: Runner) -> None:
    cfg = config(family, folder, 'resumed')
    launch.resume(cfg, str(folder / family / 'unbroken/iter_2.pth'))
    train(cfg)
    one, other = (saved(folder, family, name) for name in ('unbroken', 'resumed'))
    # Same data, same order of operations: not a rounding error of difference.
    for key, value in one['state_dict'].items():
        assert torch.equal(other['state_dict'][key], value)
    momenta = [content['optimizer']['state'] for content in (one, other)]
    assert momenta[0].keys() == momenta[1].keys()
    for key, state in momenta[0].items():
        assert torch.equal(momenta[1][key]['momentum_buffer'], state['momentum_buffer'])


def test_two_processes_are_one_of_twice_the_images_or_one_that_accumulates(
    folder: Path, family: str, start: dict, unbroken: Runner, two_processes: None
) -> None:
    two = learned(saved(folder, family, 'two')['state_dict'], start)
    one = learned(saved(folder, family, 'unbroken')['state_dict'], start)
    assert are_close(two, one) == (family not in OWN_DIVISOR)
    if family in OWN_DIVISOR:
        options = {
            'train_dataloader.batch_size': 1,
            'optim_wrapper.accumulative_counts': 2,
            'train_cfg.max_iters': 2 * ITERATIONS,
            'param_scheduler.milestones': [2, 6],
            'default_hooks.checkpoint.interval': 2 * ITERATIONS,
        }
        train(config(family, folder, 'accumulated', **options))
        one = saved(folder, family, 'accumulated', 2 * ITERATIONS)['state_dict']
        assert are_close(two, learned(one, start))


def test_a_head_of_ones_own_is_calibrated_where_it_is_told(folder: Path) -> None:
    cfg = config('head of its own', folder, '')
    assert list(calibrations_of(built(cfg.model, 'mmdet'))) == ['bbox_head.scores.calibration']
    del cfg.model['calibrated_layers']
    with pytest.raises(TypeError, match=r'it has no retina_cls, where .*calibrated_layers='):
        built(cfg.model, 'mmdet')


def yolov3() -> ConfigDict:
    model = stock('mmdet', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py')
    model.bbox_head.num_classes = C
    return model


# Models with terms that have a gradient and are left out, and those that remain.
TERMS = {
    'queries made of the truth': (dino, {'loss_cls', 'd0.loss_cls'}),
    'boxes, weighed by their scores': (
        lambda: small('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py'),
        {'loss_cls'},
    ),
    'boxes of the same layer': (yolov3, {'loss_cls'}),
}


@pytest.mark.parametrize('others', TERMS)
def test_of_the_terms_those_of_the_classes_of_what_predicts_remain(others: str) -> None:
    model, terms = TERMS[others][0](), TERMS[others][1]
    kind = f'mmdisalign.detection.Calibrated{model.type}'
    model = built(dict(model, type=kind, class_prior=PRIOR), 'mmdet')
    model.load_state_dict(model.state_dict())  # as if it had been trained
    data = pseudo_collate([Noise('mmdet', several=False)[number] for number in range(2)])
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    assert {key for key in losses if 'loss' in key} == terms


@pytest.mark.parametrize('averaged', ['K-Net', 'YOLACT', 'DeiT'])
def test_a_moving_average_has_the_frozen_state_too(folder: Path, averaged: str) -> None:
    start = torch.load(folder / averaged / 'start.pth')['state_dict']
    hooks = [dict(type='EMAHook', momentum=0.2)]
    for name in ('average', 'resumed average'):
        cfg = config(averaged, folder, name, custom_hooks=hooks)
        if name != 'average':
            launch.resume(cfg, str(folder / averaged / 'average/iter_2.pth'))
        train(cfg)
    one, other = (saved(folder, averaged, name) for name in ('average', 'resumed average'))
    for key, state in one['state_dict'].items():
        assert torch.equal(other['state_dict'][key], state)
    average, trained = one['state_dict'], one['ema_state_dict']  # they are saved in exchange
    trained = {k.removeprefix('module.'): v for k, v in trained.items() if k != 'steps'}
    changes = [learned(state, start) for state in (average, trained)]
    assert not any(torch.equal(changes[1][key], change) for key, change in changes[0].items())


# Fragment, its schedule, how often that saves, and what else the evaluator takes.
LIBRARIES = {
    'mmseg': ('seg', 'max_iters=4', 2, {}),
    'mmdet': (
        'det',
        'max_iters=4',
        2,
        dict(ann_file='scenes/annotations/scenes_val.json', metric=['bbox']),
    ),
    'mmpretrain': ('cls', 'max_epochs=2', 1, {}),
}
STAGE_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/disalign_{fragment}.py')]
model = dict(type=f'mmdisalign.{plugin}.Calibrated{{_base_.model.type}}', class_prior={prior})
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule[:4]
test_evaluator = dict(_base_.disalign.evaluator, _delete_=True, class_prior={prior}, **{options})
load_from = 'stage1.pth'

train_cfg.update({length})
default_hooks.checkpoint.interval = {interval}
"""


def stage1_project(library: str, root: Path) -> Config:
    """Write images of a few classes; a config of one of the new families for them."""
    if library == 'mmpretrain':
        write_classifier(root)
        cfg = Config.fromstring(CLASSIFIER, '.py')
        cfg.model = deit()
        cfg.model.backbone.img_size, cfg.model.head.num_classes = 32, 3
        return cfg
    if library == 'mmseg':
        spec, name = SceneSpec(num_classes=C), 'fcn_r18_scenes-96x96'
        write_ade20k(spec, root / 'scenes', num_train=spec.block_size('training'), num_val=2)
        classes, model = spec.classes, test_seg_layers.stage1_cfg('MaskFormerHead')
    else:
        spec, name = SceneSpec(num_classes=C + 1), 'mask-rcnn_r18_fpn_scenes-96x96'
        write_lvis(spec, root / 'scenes', num_train=spec.block_size('training'), num_val=2)
        classes, model = spec.classes[1:], stage1('RetinaNet')
    cfg = Config.fromfile(config_path(f'demo/{name}.py'))
    cfg.model = model
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.update(data_root='scenes/', metainfo=dict(classes=classes))
    return cfg


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a project outside the checkout: data, an untrained stage 1, a config of stage 2."""
    cfg = stage1_project(request.param, tmp_path)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        # mmengine does not save the state of generators: others are flipped after a resumed epoch.
        steps = loader.dataset.pipeline
        loader.dataset.pipeline = [step for step in steps if step.type != 'RandomFlip']
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg.pop(key, None)
    cfg.dump(tmp_path / 'stage1.py')
    save_untrained(tmp_path / 'stage1.py', tmp_path / 'stage1.pth')
    fragment, length, interval, options = LIBRARIES[request.param]
    text = STAGE_2.format(
        fragment=fragment,
        plugin=PLUGINS[request.param],
        prior=PRIOR[: 3 if request.param == 'mmpretrain' else C],
        options=options,
        length=length,
        interval=interval,
    )
    (tmp_path / 'stage2.py').write_text(text)
    return request.param


def test_the_librarys_own_tools_train_and_test_and_ours_resume(
    repo: Path, tmp_path: Path, library: str
) -> None:
    stock = Path(importlib.util.find_spec(library).origin).parent / '.mim/tools'
    run(repo, tmp_path, sys.executable, stock / 'train.py', 'stage2.py', '--work-dir', 'unbroken')
    first, last = sorted((tmp_path / 'unbroken').glob('*.pth'))
    resume = ['stage2.py', '--work-dir', 'resumed', '--resume', first]
    assert 'resumed epoch' in run(repo, tmp_path, sys.executable, repo / 'tools/train.py', *resume)
    resumed, unbroken, before = (
        torch.load(path, weights_only=False)['state_dict']
        for path in (tmp_path / 'resumed' / last.name, last, tmp_path / 'stage1.pth')
    )
    assert all(torch.equal(resumed[key], value) for key, value in unbroken.items())
    assert all(torch.equal(resumed[key], value) for key, value in before.items())
    assert all(resumed[key].any() for key in set(resumed) - set(before))
    results = []
    for name, tool in {'ours': repo / 'tools/test.py', 'theirs': stock / 'test.py'}.items():
        option = f'test_evaluator.result_file={name}.json'
        run(repo, tmp_path, sys.executable, tool, 'stage2.py', last, '--cfg-options', option)
        results.append(json.loads((tmp_path / f'{name}.json').read_text()))
    assert results[0] == results[1]
    assert any(value > 0 for value in results[0]['summary'].values())
