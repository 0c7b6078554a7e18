"""train.py and test.py on a detector, in two processes, too, on a project outside the checkout."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from project import kill_after_first_checkpoint, run, run_in_two

from mmdisalign.data.scenes import SceneSpec, write_lvis
from mmdisalign.onepass import method_names

MAX_ITERS = 12
STAGE_1 = """
_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')
train_dataloader = dict(batch_size=2, dataset=dict(data_root='scenes/'))
val_dataloader = test_dataloader = dict(dataset=dict(data_root='scenes/'))
val_evaluator = test_evaluator = dict(ann_file='scenes/annotations/scenes_val.json')
"""
STAGE_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/disalign_det.py')]
model = dict(_base_.disalign.model, class_prior='scenes/annotations/scenes_train.json')
train_cfg, optim_wrapper, param_scheduler, default_hooks, log_processor = (
    _base_.disalign.short_schedule)
load_from = 'stage1.pth'

train_cfg.update(max_iters=12, val_interval=1000)
default_hooks.checkpoint.interval = 4
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project outside the checkout: data, a stage-1 model, configs that inherit ours."""
    root = tmp_path_factory.mktemp('project')
    write_lvis(SceneSpec(), root / 'scenes', num_train=88, num_val=4)
    (root / 'stage1.py').write_text(STAGE_1)
    (root / 'stage2.py').write_text(STAGE_2)
    cfg = Config.fromfile(root / 'stage1.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), root / 'stage1.pth')
    return root


def train_in_two(repo: Path, project: Path, *arguments: object) -> str:
    return run_in_two(repo, project, *in_two(repo, *arguments))


def in_two(repo: Path, *arguments: object) -> list[object]:
    return [sys.executable, repo / 'tools/train.py', '--launcher', 'pytorch', *arguments]


@pytest.fixture(scope='module')
def trained(repo: Path, project: Path) -> str:
    """Work directory of a run of two processes that was killed and resumed."""
    kill_after_first_checkpoint(repo, project, 'two', *in_two(repo, 'stage2.py'), ranks=2)
    assert not (project / f'two/iter_{MAX_ITERS}.pth').exists()
    output = train_in_two(repo, project, 'stage2.py', '--work-dir', 'two', '--resume')
    assert 'resumed epoch' in output
    return 'two'


def test_a_killed_run_of_two_processes_resumes_and_trains_the_calibration_alone(
    project: Path, trained: str
) -> None:
    before = torch.load(project / 'stage1.pth')['state_dict']
    path = project / trained / f'iter_{MAX_ITERS}.pth'
    after = torch.load(path, weights_only=False)['state_dict']
    assert all(torch.equal(after[key], value) for key, value in before.items())
    added = [value for key, value in after.items() if key not in before]
    assert len(added) == 4
    assert all(value.any() for value in added)


def test_our_test_and_mmdets_own_agree(repo: Path, project: Path, trained: str) -> None:
    import mmdet

    theirs = Path(mmdet.__file__).parent / '.mim/tools/test.py'
    results = []
    for name, tool in {'ours': repo / 'tools/test.py', 'theirs': theirs}.items():
        option = f'test_evaluator.result_file={name}.json'
        checkpoint = f'{trained}/iter_{MAX_ITERS}.pth'
        run(repo, project, sys.executable, tool, 'stage2.py', checkpoint, '--cfg-options', option)
        results.append(json.loads((project / f'{name}.json').read_text()))
    assert results[0] == results[1]
    assert {'bbox_APr', 'segm_APr', 'segm_fixed_AP'} < set(results[0]['summary'])


def test_mmdets_own_train_runs_the_config(repo: Path, project: Path) -> None:
    import mmdet

    tool = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    options = ['--work-dir', 'stock', '--cfg-options', 'train_cfg.max_iters=2']
    run(repo, project, sys.executable, tool, 'stage2.py', *options)
    assert (project / 'stock/iter_2.pth').exists()


def test_a_missing_annotation_file_is_named(repo: Path, project: Path) -> None:
    options = ['--cfg-options', 'train_dataloader.dataset.ann_file=nowhere.json']
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py', *options]
    output = run(repo, project, *command, ok=False)
    assert 'nowhere.json' in output
    assert 'System environment' not in output


def test_a_checkpoint_of_80_classes_stops_training_with_the_classes_named(
    repo: Path, project: Path
) -> None:
    state = torch.load(project / 'stage1.pth')['state_dict']
    state['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(81, 128)
    state['roi_head.bbox_head.fc_cls.bias'] = torch.zeros(81)
    torch.save(dict(state_dict=state), project / 'foreign.pth')
    options = ['--work-dir', 'foreign', '--cfg-options', 'load_from=foreign.pth']
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py', *options]
    output = run(repo, project, *command, ok=False)
    assert 'the checkpoint has 80 classes, the config 11' in output
    assert 'Iter(train)' not in output


def test_two_processes_train_and_resume_the_facade_benchmark(
    repo: Path, project: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(shared / 'bench'))
    command = [repo / 'benchmarks/disalign_facade.py', '--work-dir', 'facade', '--resume']
    options = ['--cfg-options']
    # Few proposals of an image: what is tested is that it runs, not the result.
    options += ['train_dataloader.batch_size=1', 'default_hooks.checkpoint.interval=1']
    options += ['model.train_cfg.rcnn.sampler.num=64', 'train_cfg.val_begin=1000000']
    train_in_two(repo, project, *command, *options, 'train_cfg.max_iters=2')
    output = train_in_two(repo, project, *command, *options, 'train_cfg.max_iters=3')
    assert 'resumed epoch' in output
    assert (project / 'facade/iter_3.pth').exists()


def test_methods_are_compared_by_the_ap_of_validation_images(repo: Path, project: Path) -> None:
    command = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    options = ['--passes', 1, '--cache-dir', 'kept', '--metric', 'AP', '--method']
    output = run(repo, project, *command, '--out', 'best.pth', *options, 'best')
    assert '4 of 4 validation images, and all that their boxes are predicted of' in output
    assert 'chosen by the AP of 2 validation images, and the table is of 2 others' in output
    assert '| AP | APf | APc | APr |' in re.sub(' +', ' ', output)
    rows = json.loads((project / 'best_methods.json').read_text())['methods']
    assert [row['method'] for row in rows] == [None, *method_names()]
    compared = {row['method'] for row in rows if row['refused'] is None}
    assert compared > {None, 'disalign', 'disalign-constant', 'crt', 'norcal'}
    # What a killed run has of the images is gone on from, to the same numbers.
    (last,) = (project / 'kept/validation').glob('samples_*/3.pth')
    last.unlink()
    output = run(repo, project, *command, '--out', 'norcal.pth', *options, 'norcal')
    assert 'Going on after 3 validation images.' in output
    again = json.loads((project / 'norcal_methods.json').read_text())['methods']
    before = [row for row in rows if row['method'] in (None, 'norcal')]
    for row in (*before, *again):
        del row['seconds']
    assert json.dumps(again) == json.dumps(before)  # NaN is not NaN, but their names are the same


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--metric', 'mIoU'], '--metric mIoU is none of AP, APf, APc, APr'),
        (
            ['--choose', 'val', '--cfg-options', 'val_dataloader.dataset.ann_file={train}'],
            'validation images cannot choose: the validation images are among those of training',
        ),
    ],
)
def test_what_cannot_choose_for_a_detector_is_said(
    repo: Path, project: Path, options: list[str], message: str
) -> None:
    data = Config.fromfile(project / 'stage1.py').train_dataloader.dataset
    options = [own.format(train=data.ann_file) for own in options]
    if '--cfg-options' in options:
        options.append(f'val_dataloader.dataset.data_prefix.img={data.data_prefix.img}')
    command = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    output = run(repo, project, *command, '--out', 'no.pth', *options, ok=False)
    assert f'error: {message}' in output


def test_norcal_divides_by_the_image_counts_and_leaves_the_background(
    repo: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FORMATTED', '1')
    command = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth']
    annotations, gamma = 'scenes/annotations/scenes_train.json', 0.6
    options = ['--prior', annotations, '--method', 'norcal', '--value', gamma, '--fold']
    output = run(repo, project, *command, '--out', 'norcal.pth', *options)
    assert 'norcal, γ = 0.6. Written to norcal.pth, the stock model' in output
    before, after = (
        torch.load(project / path, weights_only=False)['state_dict']
        for path in ('stage1.pth', 'norcal.pth')
    )
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed == {'roi_head.bbox_head.fc_cls.bias'}
    content = json.loads((project / annotations).read_text())
    images = [category['image_count'] for category in content['categories']]
    expected = torch.cat([-gamma * torch.tensor(images).float().log(), torch.zeros(1)])
    shift = after['roi_head.bbox_head.fc_cls.bias'] - before['roi_head.bbox_head.fc_cls.bias']
    torch.testing.assert_close(shift, expected)


def test_amp_on_a_cpu_is_refused_where_mmcv_cannot(repo: Path, project: Path) -> None:
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py', '--amp']
    assert '--amp needs a GPU for detectors' in run(repo, project, *command, ok=False)
