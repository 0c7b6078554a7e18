"""train.py, test.py and the launchers, ours and mmseg's, on a project outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from project import environment, kill_after_first_checkpoint, run

from mmdisalign.data.scenes import SceneSpec, write_ade20k
from mmdisalign.engine import launch

MAX_ITERS = 30
STAGE_1 = """
_base_ = __import__('mmdisalign').config_path('demo/fcn_r18_scenes-96x96.py')
data_root = '{root}/scenes'
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(data_root=data_root))
val_dataloader = test_dataloader = dict(dataset=dict(data_root=data_root))
# Without random augmentation, the global batch does not depend on the number of processes.
train_dataloader['dataset']['pipeline'] = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
"""
STAGE_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/disalign_seg.py')]
model = dict(_base_.disalign.model, class_prior='{root}/prior.json')
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.schedule
val_evaluator = test_evaluator = dict(_base_.disalign.evaluator, class_prior='{root}/prior.json')
load_from = '{root}/stage1.pth'

train_cfg.update(max_iters=30, val_interval=1000)
default_hooks.checkpoint.interval = 5
randomness = dict(seed=3)
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project outside the checkout: data, a stage-1 model, configs that inherit ours."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    root = tmp_path_factory.mktemp('project')
    write_ade20k(SceneSpec(), root / 'scenes', num_train=132, num_val=3)
    (root / 'stage1.py').write_text(STAGE_1.format(root=root))
    (root / 'stage2.py').write_text(STAGE_2.format(root=root))
    cfg = Config.fromfile(root / 'stage1.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), root / 'stage1.pth')
    return root


def train(repo: Path, project: Path, work_dir: str, *arguments: object, **kwargs) -> str:
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py', '--work-dir', work_dir]
    return run(repo, project, *command, *arguments, **kwargs)


def mmseg_tool(name: str) -> Path:
    import mmseg

    return Path(mmseg.__file__).parent / '.mim/tools' / name


def calibration_of(project: Path, work_dir: str) -> dict[str, torch.Tensor]:
    path = project / work_dir / f'iter_{MAX_ITERS}.pth'
    state = torch.load(path, map_location='cpu', weights_only=False)['state_dict']
    return {key: value for key, value in state.items() if '.calibration.' in key}


def assert_same_calibration(project: Path, one: str, other: str, rtol: float) -> None:
    expected, found = calibration_of(project, one), calibration_of(project, other)
    assert len(expected) == 4
    for key, value in expected.items():
        assert value.any()
        # Entries near zero are sums that cancel: compare them with the largest one.
        torch.testing.assert_close(
            found[key], value, rtol=rtol, atol=rtol * float(value.abs().max())
        )


@pytest.fixture(scope='module')
def trained(repo: Path, project: Path) -> str:
    """Work directory of an unbroken run of our train.py."""
    count = [sys.executable, repo / 'tools/class_prior.py', 'stage1.py', '--out', 'prior.json']
    run(repo, project, *count)
    train(repo, project, 'single')
    return 'single'


def test_class_prior_counts_the_training_pixels(repo, project, trained) -> None:
    import numpy as np
    from PIL import Image

    from mmdisalign.calibration import ClassPrior

    prior = ClassPrior.build(project / 'prior.json')
    maps = [np.asarray(Image.open(p)) for p in (project / 'scenes/annotations/training').iterdir()]
    counts = [sum(int((m == label).sum()) for m in maps) for label in range(1, 13)]
    assert prior.counts.tolist() == counts
    assert prior.classes == SceneSpec().classes


def test_training_changes_the_calibration_alone(project, trained) -> None:
    before = torch.load(project / 'stage1.pth')['state_dict']
    path = project / trained / f'iter_{MAX_ITERS}.pth'
    after = torch.load(path, weights_only=False)['state_dict']
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert set(after) - set(before) == set(calibration_of(project, trained))
    assert all(value.any() for value in calibration_of(project, trained).values())


def test_two_processes_reach_the_parameters_of_one(repo, project, trained) -> None:
    run(
        repo, project, 'bash', repo / 'tools/dist_train.sh', 'stage2.py', 2, '--work-dir', 'two',
        '--cfg-options', 'train_dataloader.batch_size=2',
    )  # fmt: skip
    assert_same_calibration(project, trained, 'two', rtol=1e-4)


def test_resuming_after_kill_9_ends_with_the_parameters_of_an_unbroken_run(
    repo, project, trained
) -> None:
    command = [sys.executable, repo / 'tools/train.py', 'stage2.py']
    kill_after_first_checkpoint(repo, project, 'killed', *command)
    assert not (project / f'killed/iter_{MAX_ITERS}.pth').exists()
    output = train(repo, project, 'killed', '--resume')
    assert 'resumed epoch' in output
    # Same data, same order of operations: not a rounding error of difference.
    assert_same_calibration(project, trained, 'killed', rtol=0)


def test_a_kill_while_the_name_of_a_checkpoint_was_written_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').touch()
    cfg = Config(dict(work_dir=str(tmp_path), load_from='stage1.pth'))
    launch.resume(cfg, 'auto')
    assert cfg.load_from == 'stage1.pth'
    for number in (12, 4):
        (tmp_path / f'iter_{number}.pth').touch()
        os.utime(tmp_path / f'iter_{number}.pth', (number, number))
    launch.resume(cfg, 'auto')
    assert cfg.resume and cfg.load_from == str(tmp_path / 'iter_12.pth')


def test_resume_starts_from_stage_1_where_there_is_nothing_to_resume(
    repo, project, trained
) -> None:
    output = train(repo, project, 'fresh', '--resume', '--cfg-options', 'train_cfg.max_iters=1')
    assert 'Nothing to resume in fresh' in output
    assert (project / 'fresh/iter_1.pth').exists()


def test_mmsegs_own_train_and_test_run_the_config(repo, project, trained) -> None:
    stock = [sys.executable, mmseg_tool('train.py'), 'stage2.py', '--work-dir', 'stock']
    run(repo, project, *stock)
    assert_same_calibration(project, trained, 'stock', rtol=0)
    checkpoint = f'stock/iter_{MAX_ITERS}.pth'
    output = run(
        repo, project, sys.executable, mmseg_tool('test.py'), 'stage2.py', checkpoint
    )  # fmt: skip
    assert 'mTailIoU' in output


def test_a_full_disk_is_said_with_what_to_do(repo, project, trained) -> None:
    # No file may be larger, as if the disk had no more room.
    (project / 'limited.py').write_text(
        'import resource, runpy, sys\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n'
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    tool = [sys.executable, 'limited.py', repo / 'tools/train.py', 'stage2.py']
    output = run(repo, project, *tool, '--work-dir', 'full', ok=False)
    assert 'error: a checkpoint cannot be written into' in output
    assert 'the disk is full. Make room' in output


def test_amp_trains_on_the_cpu(repo, project, trained) -> None:
    train(repo, project, 'amp', '--amp', '--cfg-options', 'train_cfg.max_iters=2')
    assert (project / 'amp/iter_2.pth').exists()


def test_test_writes_label_maps_and_paintings_and_tests_in_scales(repo, project, trained) -> None:
    checkpoint = f'{trained}/iter_{MAX_ITERS}.pth'
    command = [sys.executable, repo / 'tools/test.py', 'stage2.py', checkpoint]
    output = run(repo, project, *command, '--tta', '--out', 'maps', '--show-dir', 'painted')
    assert 'mHeadIoU' in output
    assert len(list((project / 'maps').glob('*.png'))) == 3
    assert len(list((project / 'painted').rglob('*.png'))) == 3


def test_distributed_test_gives_the_result_of_one_process(repo, project, trained) -> None:
    checkpoint = f'{trained}/iter_{MAX_ITERS}.pth'
    results = []
    for name, command in {
        'one': [sys.executable, repo / 'tools/test.py', 'stage2.py', checkpoint],
        'two': ['bash', repo / 'tools/dist_test.sh', 'stage2.py', checkpoint, 2],
    }.items():
        option = f'test_evaluator.result_file={name}.json'
        run(repo, project, *command, '--cfg-options', option)
        results.append((project / f'{name}.json').read_text())
    assert results[0] == results[1]


def test_missing_data_is_named_with_the_layout_before_anything_is_built(repo, project) -> None:
    config = repo / 'configs/ade20k_disalign.py'
    output = run(repo, project, sys.executable, repo / 'tools/train.py', config, ok=False)
    assert 'data/ade/ADEChallengeData2016/images/training' in output
    assert 'is expected in mmseg' in output
    assert 'ADEChallengeData2016.zip' in output
    assert 'load_from' not in output


def test_missing_checkpoint_is_named_before_anything_is_built(repo, project, trained) -> None:
    for tool, arguments in {
        'train.py': ['--cfg-options', 'load_from=nowhere.pth'],
        'test.py': ['nowhere.pth'],
    }.items():
        command = [sys.executable, repo / 'tools' / tool, 'stage2.py', *arguments]
        output = run(repo, project, *command, ok=False)
        assert 'there is no' in output and 'nowhere.pth (seen from ' in output
        assert 'System environment' not in output


def test_processes_of_slurm_and_mpi_find_who_they_are(monkeypatch) -> None:
    from mmdisalign import processes

    scontrol = subprocess.CompletedProcess([], 0, stdout='node7\nnode8\n')
    monkeypatch.setattr(processes.subprocess, 'run', lambda *args, **kwargs: scontrol)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    slurm = dict(PROCID='5', NTASKS='8', LOCALID='1', NODELIST='node[7-8]')
    for name, value in slurm.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    processes._export_ranks('slurm')
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    assert [os.environ[name] for name in names] == ['5', '8', '1', 'node7', '29500']


def test_slurm_launchers_pass_on_what_they_are_given(repo, tmp_path) -> None:
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = {**environment(repo), 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'GPUS': '4'}
    for script, arguments in {
        'slurm_train.sh': ['part', 'job', 'CONFIG', '--amp'],
        'slurm_test.sh': ['part', 'job', 'CONFIG', 'CKPT', '--tta'],
        'slurm_calibrate.sh': ['part', 'job', 'CONFIG', 'CKPT', '--seed'],
    }.items():
        output = subprocess.run(
            ['bash', repo / 'tools' / script, *arguments], env=env, capture_output=True, text=True
        ).stdout
        assert '-p part --job-name=job --gres=gpu:4 --ntasks-per-node=4 --ntasks=4' in output
        assert f'{" ".join(arguments[2:-1])} --launcher slurm {arguments[-1]}' in output
