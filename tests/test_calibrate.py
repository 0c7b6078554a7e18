"""tools/calibrate.py: a stock checkpoint in, a calibrated one and its config out."""

from __future__ import annotations

import json
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from project import kill_when, run, write_stage1

IMAGES, PASSES = 88, 2


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a config that knows nothing of calibration, and a checkpoint."""
    root = tmp_path_factory.mktemp('project')
    write_stage1(root, num_train=IMAGES, num_val=11, num_workers=1)
    return root


def command(repo: Path, out: str, *options: object) -> list[object]:
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth', '--out', out]
    # Enough passes to be killed in the middle of.
    return [*tool, '--exp-scale', 0.5, '--images-per-class', 'all', '--passes', PASSES, *options]


@pytest.fixture(scope='module')
def calibrated(repo: Path, project: Path) -> str:
    """What the tool printed in an unbroken run, whose samples are kept."""
    return run(repo, project, *command(repo, 'whole.pth', '--cache-dir', 'kept'))


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def test_only_the_calibration_changed(project: Path, calibrated: str) -> None:
    before, after = state(project / 'stage1.pth'), state(project / 'whole.pth')
    assert all(torch.equal(after[key], value) for key, value in before.items())
    learned = {key for key in after if '.calibration.' in key}
    assert set(after) - set(before) == learned and len(learned) == 4
    assert all(after[key].any() for key in learned)


def test_it_says_what_it_does(project: Path, calibrated: str) -> None:
    assert '88 of 88 images, 2 times, 176 in all, and at most 64 pixels' in calibrated
    assert 'MB in kept' in calibrated
    assert json.loads((project / 'whole_prior.json').read_text())['classes'][0]


def test_it_checks_the_samples_against_every_pixel(calibrated: str) -> None:
    found = re.search(r'of 4 images: (\S+) to (\S+); by their samples, (\S+) ±', calibrated)
    before, after, sampled = (float(value.rstrip(',')) for value in found.groups())
    assert after < before
    assert sampled == pytest.approx(after, rel=0.2)  # of 4 small images
    assert 'mistrust' not in calibrated


def test_few_images_do_and_a_config_of_stage_2_has_its_own_exp_scale(
    repo: Path, project: Path, calibrated: str
) -> None:
    (project / 'stage2.py').write_text(
        "_base_ = './stage1.py'\n"
        "model = dict(type='mmdisalign.segmentation.CalibratedEncoderDecoder',\n"
        "    class_prior='whole_prior.json')\n"
    )
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage2.py', 'stage1.pth']
    output = run(repo, project, *tool, '--out', 'few.pth', '--images-per-class', 6)
    (images,) = re.search(r'(\d+) of 88 images', output).groups()
    assert 6 <= int(images) < 44
    assert 'ρ = 0.2. Written to few.pth' in output  # the default of the model


def test_mmsegs_own_test_takes_the_pair(repo: Path, project: Path, calibrated: str) -> None:
    import mmseg

    tool = Path(mmseg.__file__).parent / '.mim/tools/test.py'
    output = run(repo, project, sys.executable, tool, 'whole.py', 'whole.pth')
    assert 'mIoU' in output
    assert 'starts anew' not in output  # the calibration was loaded


def test_killed_while_collecting_it_ends_with_the_same_checkpoint(
    repo: Path, project: Path, calibrated: str
) -> None:
    start = command(repo, 'killed.pth')
    # As where collecting takes hours: it saves between the first batch and the last.
    (project / 'saving.py').write_text(
        'import runpy, sys\nfrom mmdisalign.onepass import collect\n'
        'collect.SECONDS_BETWEEN_SAVES = 0\nsys.argv = sys.argv[1:]\n'
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    saving = [start[0], 'saving.py', *start[1:]]
    states = partial(project.glob, 'killed.samples/*/*/state.json')
    kill_when(repo, project, lambda: list(states()), *saving)
    (saved,) = states()
    done = json.loads(saved.read_text())['done']
    assert 0 < done < PASSES * IMAGES / 4
    assert not (project / 'killed.pth').exists() and not (project / 'killed.py').exists()
    assert f'Going on after {4 * done:,} images' in run(repo, project, *start)
    assert_same(project, 'killed.pth')
    assert not (project / 'killed.samples').exists()


def test_samples_that_are_complete_are_fitted_to_the_same_checkpoint(
    repo: Path, project: Path, calibrated: str
) -> None:
    # They are what a kill in the fit leaves behind.
    output = run(repo, project, *command(repo, 'fitted.pth', '--cache-dir', 'kept'))
    assert f'Going on after {PASSES * IMAGES:,} images' in output
    assert_same(project, 'fitted.pth')


def test_exp_scale_is_chosen_by_a_curve_that_is_printed(
    repo: Path, project: Path, calibrated: str
) -> None:
    options = ['--cache-dir', 'kept', '--exp-scale', 'auto']
    output = run(repo, project, *command(repo, 'auto.pth', *options))
    curve = dict(re.findall(r'\| ([\d.]+) +\| +([\d.]+) \|', output))
    assert len(curve) == 9
    best = max(curve, key=lambda exp_scale: float(curve[exp_scale]))
    assert f'ρ = {best}. Written to auto.pth' in output
    assert f'exp_scale={float(best)}' in (project / 'auto.py').read_text()


def assert_same(project: Path, name: str) -> None:
    expected, found = state(project / 'whole.pth'), state(project / name)
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--cache-size', '7'], 'a size is like 500MB or 2GB, got 7'),
        (['--out', 'stage1.pth'], '--out stage1.pth would overwrite stage1.'),
        (['--images-per-class', '0'], "a number of at least 1, or 'all', got 0"),
        (['--exp-scale', '1,5'], "ρ is a number, or 'auto', got 1,5"),
        (['--exp-scale', '-1'], 'ρ is at least 0, got -1'),
    ],
)
def test_what_cannot_be_done_is_said_before_it_starts(
    repo: Path,
    options: list,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(
        sys, 'argv', [str(part) for part in command(repo, 'none.pth', *options)][1:]
    )
    # In this process: starting another takes seconds.
    with pytest.raises(SystemExit):
        runpy.run_path(sys.argv[0], run_name='__main__')
    assert message in capsys.readouterr().err


FEW = ['--images-per-class', 2, '--passes', 1]


def test_a_run_that_could_not_write_goes_on_from_its_samples(repo: Path, project: Path) -> None:
    (project / 'blocked.pth.part').mkdir()  # where the checkpoint is written before it is whole
    output = run(repo, project, *command(repo, 'blocked.pth', *FEW), ok=False)
    assert 'error: blocked.pth cannot be written' in output
    assert 'stay in blocked.samples/samples_' in output
    (project / 'blocked.pth.part').rmdir()
    assert 'Going on after' in run(repo, project, *command(repo, 'blocked.pth', *FEW))
    assert (project / 'blocked.pth').is_file()
    assert not (project / 'blocked.samples').exists()


def test_a_run_that_would_fail_again_leaves_nothing(repo: Path, project: Path) -> None:
    (project / 'ones.json').write_text(str([1] * 12))
    options = ['--prior', 'ones.json', '--cfg-options', 'train_dataloader.dataset.indices=2']
    before = set(project.rglob('*'))
    output = run(repo, project, *command(repo, 'new/none.pth', *options), ok=False)
    assert 'Collected in' in output and '\nerror: ' in output
    assert set(project.rglob('*')) == before


def test_a_prior_of_other_classes_is_refused(repo: Path, project: Path) -> None:
    (project / 'counts.json').write_text('{"a": 1, "b": 2}')
    output = run(repo, project, *command(repo, 'none.pth', '--prior', 'counts.json'), ok=False)
    assert 'has 2 classes, but the' in output
    assert not (project / 'none.pth').exists()
