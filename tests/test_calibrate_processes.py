"""tools/calibrate.py in several processes, and what a kill leaves of one and of several."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from project import (
    environment,
    run,
    run_together,
    save_untrained,
    write_classifier,
    write_stage1,
)

from mmdisalign.data.scenes import SceneSpec, write_lvis

# Small parts, for the fit of few samples to have several; saves after each batch; and a fit that
# says when it has begun, and waits to be killed.
WRAPPED = """
import runpy, sys, time
from pathlib import Path
from mmdisalign.onepass import collect, fitting

fitting.CHUNK, collect.SECONDS_BETWEEN_SAVES = int(sys.argv[1]), 0
own, calls = fitting.sampled_loss, []

def sampled_loss(*args, **options):
    calls.append(1)
    if len(calls) == 20 and Path('kill_in_fit').exists():
        Path('in_fit').touch()
        time.sleep(60)
    return own(*args, **options)

fitting.sampled_loss = sampled_loss
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
DETECTOR = """
_base_ = __import__('mmdisalign').config_path('demo/mask-rcnn_r18_fpn_scenes-96x96.py')
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(data_root='scenes/'))
"""
# Fewer slots than samples, so that what is kept depends on all of them.
SMALL = {'segmentation': '300KB', 'classification': '10KB', 'detection': '3MB'}
PARTS = {'segmentation': 1 << 16, 'classification': 1 << 9, 'detection': 1 << 19}
FEW = ['--images-per-class', 4, '--passes', 1]
OPTIONS = {
    'segmentation': [*FEW, '--exp-scale', 0.5, '--fit-on', 'both'],
    'classification': ['--exp-scale', 'auto', '--passes', 2],
    'detection': ['--exp-scale', 0.5, '--passes', 1, '--zero-count', 'min'],
}


@pytest.fixture(scope='module')
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each task."""
    roots = {name: tmp_path_factory.mktemp(name) for name in OPTIONS}
    write_stage1(roots['segmentation'], num_train=88, num_val=8, num_workers=0)
    write_classifier(roots['classification'])
    write_lvis(SceneSpec(), roots['detection'] / 'scenes', num_train=88, num_val=1)
    (roots['detection'] / 'stage1.py').write_text(DETECTOR)
    save_untrained(roots['detection'] / 'stage1.py', roots['detection'] / 'stage1.pth')
    for root in roots.values():
        (root / 'wrapped.py').write_text(WRAPPED)
    return roots


def command(repo: Path, task: str, out: str, *options: object) -> list[object]:
    tool = [sys.executable, 'wrapped.py', PARTS[task], repo / 'tools/calibrate.py']
    files = ['stage1.py', 'stage1.pth', '--out', out, '--cache-size', SMALL[task]]
    return [*tool, *files, *OPTIONS[task], *options]


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def assert_close(project: Path, name: str, tolerance: float) -> None:
    expected, found = state(project / 'one.pth'), state(project / name)
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope='module')
def one(repo: Path, projects: dict[str, Path]) -> dict[str, str]:
    """What one process printed, by task; its samples are kept."""
    return {
        task: run(repo, root, *command(repo, task, 'one.pth')) for task, root in projects.items()
    }


def told(output: str) -> list[str]:
    """What was said of the fit, and the table by which something was chosen, but for the times."""
    lines = re.findall(r'loss .* samples|^\|.*', output, re.MULTILINE)
    return [re.sub(r' [\d.]+ (?=\| +(?:yes|no) )', '', line) for line in lines]


@pytest.mark.parametrize('task', OPTIONS)
def test_two_processes_end_with_the_checkpoint_of_one(
    repo: Path, projects: dict[str, Path], one: dict[str, str], task: str
) -> None:
    project = projects[task]
    options = ['--launcher', 'pytorch']
    first, second = run_together(repo, project, 2, *command(repo, task, 'two.pth', *options))
    # Loss, steps and samples of the fit, and the table by which it was chosen, are the same.
    assert told(first) == told(one[task]) != []
    assert 'Written to two.pth' in first and 'Loads checkpoint' in first
    assert 'Written' not in second and 'Loads checkpoint' not in second
    assert_close(project, 'two.pth', 1e-5)
    learned = [v for key, v in state(project / 'two.pth').items() if '.calibration.' in key]
    assert learned and all(value.any() for value in learned)
    assert not (project / 'two.samples').exists()


# That of one process in collection is in test_calibrate.py.
@pytest.mark.parametrize(('number', 'where'), [(1, 'validation'), (1, 'fit'), (2, 'collection')])
def test_killed_9_anywhere_it_ends_with_the_same_checkpoint(
    repo: Path, projects: dict[str, Path], one: dict[str, str], number: int, where: str
) -> None:
    project, out = projects['segmentation'], f'{where}_{number}'
    options = ['--launcher', 'pytorch'] if number > 1 else []
    start = command(repo, 'segmentation', f'{out}.pth', *options)
    marker = {
        'collection': f'{out}.samples/samples_*/0_of_{number}/state.json',
        'validation': f'{out}.samples/validation/samples_*/0_of_{number}/state.json',
        'fit': 'in_fit',
    }[where]
    if where == 'fit':
        (project / 'kill_in_fit').touch()
    run_together(repo, project, number, *start, kill_at=marker)
    for name in ('kill_in_fit', 'in_fit'):
        (project / name).unlink(missing_ok=True)
    assert not (project / f'{out}.pth').exists()
    first, *_ = run_together(repo, project, number, *start)
    passed = re.findall(r'Going on after (\d+) images', first)
    (images,) = re.findall(r'(\d+) of 88 images', first)
    if where == 'collection':
        assert 0 < int(passed[0]) < int(images)
    else:
        assert passed[0] == images
        assert (passed[1] == '8') if where == 'fit' else 0 < int(passed[1]) < 8
    assert_close(project, f'{out}.pth', 0 if number == 1 else 1e-5)
    assert not (project / f'{out}.samples').exists()


def test_samples_of_another_number_of_processes_are_named(
    repo: Path, projects: dict[str, Path], one: dict[str, str]
) -> None:
    project, options = projects['classification'], ['--cache-dir', 'kept']
    run(repo, project, *command(repo, 'classification', 'kept.pth', *options))
    start = command(repo, 'classification', 'no.pth', *options, '--launcher', 'pytorch')
    outputs = run_together(repo, project, 2, *start, ok=False)
    said = r'error: the samples in kept/\S+ are of 1 processes, and these are 2: go on with 1, or'
    assert all(re.search(said, output) for output in outputs)
    # They are still there, for one.
    again = run(repo, project, *command(repo, 'classification', 'again.pth', *options))
    assert 'Going on after' in again


def test_a_process_that_fails_ends_all(repo: Path, tmp_path: Path) -> None:
    write_classifier(tmp_path)
    # In the second batch of 8, which is the second process's; the first goes on to wait for it.
    (tmp_path / 'images/class_0/15.png').write_bytes(b'no image')
    tool = ['bash', repo / 'tools/dist_calibrate.sh', 'stage1.py', 'stage1.pth', 2]
    output = run(repo, tmp_path, *tool, '--out', 'no.pth', '--exp-scale', 1, ok=False)
    assert 'error: the training pipeline cannot load an image' in output
    assert not (tmp_path / 'no.pth').exists()


def test_the_launcher_calibrates(
    repo: Path, projects: dict[str, Path], one: dict[str, str]
) -> None:
    project = projects['classification']
    tool = ['bash', repo / 'tools/dist_calibrate.sh', 'stage1.py', 'stage1.pth', 2]
    options = [*OPTIONS['classification'], '--cache-size', SMALL['classification']]
    output = run(repo, project, *tool, '--out', 'launched.pth', *options)
    assert output.count('Written to launched.pth') == 1
    # As with one process, whose parts were smaller: 1e-3 is what rounding can make of a fit.
    assert_close(project, 'launched.pth', 1e-3)


def test_what_a_launcher_needs_is_said(repo: Path) -> None:
    for script, usage in {
        'dist_calibrate.sh': 'dist_calibrate.sh CONFIG CHECKPOINT PROCESSES --out FILE',
        'slurm_calibrate.sh': 'slurm_calibrate.sh PARTITION JOB_NAME CONFIG CHECKPOINT --out',
    }.items():
        done = subprocess.run(
            ['bash', repo / 'tools' / script], env=environment(repo), capture_output=True, text=True
        )
        assert done.returncode == 2 and usage in done.stderr
