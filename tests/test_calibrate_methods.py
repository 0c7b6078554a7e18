"""tools/calibrate.py with other methods than DisAlign, chosen on validation images, and folded."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.apis import init_model
from mmseg.registry import DATASETS, MODELS
from project import run, write_classifier, write_stage1
from torch.utils.data import DataLoader

import mmdisalign
from mmdisalign.analysis.bootstrap import draws_of, intervals_of_difference, once
from mmdisalign.analysis.figures import pareto_front
from mmdisalign.calibration import ClassPrior, logit_adjustment
from mmdisalign.onepass import method_names
from mmdisalign.onepass.comparison import searched
from mmdisalign.onepass.fitting import Samples
from mmdisalign.onepass.judging import Decided, SampleJudge


def calibrate(repo: Path, project: Path, *options: object, fails: bool = False) -> str:
    tool = [sys.executable, repo / 'tools/calibrate.py', 'stage1.py', 'stage1.pth', '--passes', 1]
    return run(repo, project, *tool, *options, ok=not fails)


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('methods')
    write_stage1(root, num_train=88, num_val=22, num_workers=0)
    return root


@pytest.fixture(scope='module')
def best(repo: Path, project: Path) -> str:
    """What the tool printed of all methods."""
    return calibrate(repo, project, '--method', 'best', '--out', 'best.pth')


def test_every_method_is_compared_or_says_why_not(project: Path, best: str) -> None:
    assert 'Numbers are chosen by the mIoU of 11 validation images, and the table is of 11' in best
    table = re.findall(r'^\| (\w[\w-]+) +\|', best, re.MULTILINE)
    refused = ['norcal', 'tde', 'vmf']
    assert table == sorted(set(method_names()) - set(refused))
    assert 'norcal cannot be fitted: there is no background score' in best
    content = json.loads((project / 'best_methods.json').read_text())
    rows = content['methods']
    assert 'mIoU is of sampled pixels: its standard error is at most' in best
    assert 0 < content['sampling_error'] < 20
    assert [row['method'] for row in rows] == [None, *method_names()]
    page = (project / 'best_methods.html').read_text()
    assert '<svg role="img"' in page and 'tail against mIoU' in page
    assert all(f'>{name}</text>' in page and f'>{name}</td>' in page for name in table)
    assert 'norcal cannot be fitted' in page
    temperature = next(row for row in rows if row['method'] == 'temperature')
    assert temperature['gains']['mIoU'] == [0, 0]  # it changes no decision


def test_what_folds_is_a_checkpoint_of_the_stock_config(
    repo: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FORMATTED', '1')
    options = ['--method', 'logit-adjustment', '--value', 1, '--fold']
    output = calibrate(repo, project, *options, '--out', 'folded.pth')
    assert 'logit-adjustment, τ = 1. Written to folded.pth, the stock model' in output
    before, after = state(project / 'stage1.pth'), state(project / 'folded.pth')
    assert set(before) == set(after)
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {'decode_head.conv_seg.bias'}
    prior = ClassPrior.build(str(project / 'folded_prior.json'))
    shift = after['decode_head.conv_seg.bias'] - before['decode_head.conv_seg.bias']
    torch.testing.assert_close(shift, logit_adjustment(prior, 1.0), rtol=1e-5, atol=1e-5)
    cfg = Config.fromfile(project / 'folded.py')
    init_default_scope('mmseg')
    MODELS.build(cfg.model).load_state_dict(after)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--method', 'magic'], "no method 'magic'; there are balanced-softmax, crt"),
        (['--fold'], 'σ(x) of disalign varies with the input, so it does not fold: --method'),
        (['--method', 'marc', '--choose', 'train'], 'marc is not chosen on training images'),
        (
            ['--choose', 'val', '--cfg-options', 'val_dataloader.dataset.data_prefix={}'],
            'validation images cannot choose: ',
        ),
        (
            ['--method', 'lws', '--choose', 'val', '--metric', 'AP'],
            '--metric AP is none of mIoU, head, body, tail',
        ),
    ],
)
def test_what_cannot_be_is_said(
    repo: Path, project: Path, options: list[str], message: str
) -> None:
    if '--cfg-options' in options:
        data = Config.fromfile(project / 'stage1.py').train_dataloader.dataset
        prefix = [f'{key}={value}' for key, value in data.data_prefix.items()]
        options = [*options[:-1], *(f'val_dataloader.dataset.data_prefix.{own}' for own in prefix)]
        message += 'the validation images are among those of training'
    output = calibrate(repo, project, *options, '--out', 'no.pth', fails=True)
    assert f'error: {message}' in output
    assert not (project / 'no.pth').exists()


def test_rho_is_chosen_on_validation_images_where_there_are_some(
    repo: Path, tmp_path: Path
) -> None:
    write_classifier(tmp_path)
    output = calibrate(repo, tmp_path, '--out', 'calibrated.pth')
    said = 'Numbers are chosen by the top1 of' in output
    assert said or 'Validation images cannot choose' in output
    assert any('.calibration.' in key for key in state(tmp_path / 'calibrated.pth'))


def test_the_error_of_sampled_pixels_is_what_other_samples_differ_by() -> None:
    rng, size = np.random.default_rng(0), 2000
    label, image = rng.integers(0, 3, size), rng.integers(0, 10, size)
    logits = np.eye(3)[label] + rng.normal(size=(size, 3))
    prior, found, errors = ClassPrior.build([3, 2, 1]), [], []

    def judge_of(weight: np.ndarray, kind: str = 'IoU') -> SampleJudge:
        """Of pixels that are drawn, each by itself, so that they stand for all."""
        own = rng.random(size) < 1 / weight
        zeros = np.zeros((int(own.sum()), 1, 1), np.float32)
        judged = Samples(
            zeros, logits[own, None].astype(np.float32), zeros[:, 0] + 1, label[own],
            weight[own], image[own],
        )  # fmt: skip
        return SampleJudge(judged, prior, kind)

    weight = np.array([2.0, 1.5, 1.0])[label]  # of the last class, all are kept
    for _ in range(50):
        judge = judge_of(weight)
        found.append(once(judge((None, judge.images)), len(judge.images))['mIoU'])
        errors.append(judge.sampling_error(judge.images))
    # 50 draws and 50 samples know a standard deviation to a tenth.
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.3)
    # Where there are no other samples, there is no error; and there is none of images.
    every = judge_of(np.ones(size))
    assert every.sampling_error(every.images) == pytest.approx(0.0, abs=1e-9)
    assert judge_of(weight, 'accuracy').sampling_error(judge.images) is None


def test_in_python_it_is_a_call(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    options = dict(method='marc', passes=1, images_per_class='all')
    result = mmdisalign.calibrate('stage1.py', 'stage1.pth', out='called.pth', **options)
    assert (result.method, result.rows[0].method) == ('marc', None)
    assert '| marc ' in result.table and result.value == result.rows[1].value
    state = result.model.state_dict()
    stored = torch.load('called.pth', weights_only=False)['state_dict']
    assert all(torch.equal(state[key], value) for key, value in stored.items())
    with pytest.raises(AttributeError, match="has no attribute 'calibrated'"):
        _ = mmdisalign.calibrated


def test_a_config_or_a_model_in_memory_is_calibrated(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    options = dict(method='logit-adjustment', value=1.0, passes=1)
    cfg = Config.fromfile('stage1.py')
    from_file = mmdisalign.calibrate('stage1.py', 'stage1.pth', out='file.pth', **options)
    from_config = mmdisalign.calibrate(cfg, 'stage1.pth', out='config.pth', **options)
    assert Config.fromfile('config_stage1.py').model == cfg.model
    model = init_model('stage1.py', device='cpu')
    load_checkpoint(model, 'stage1.pth')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    loader = DataLoader(dataset, batch_size=4, collate_fn=pseudo_collate)
    prior = str(project / 'file_prior.json')
    from_model = mmdisalign.calibrate(
        model, out='model.pth', dataloader=loader, prior=prior, **options
    )
    expected = from_file.model.state_dict()
    for result in (from_config, from_model):
        assert all(torch.equal(v, expected[k]) for k, v in result.model.state_dict().items())
    with pytest.raises(ValueError, match='is not counted: give its prior'):
        mmdisalign.calibrate(model, out='model.pth', dataloader=loader, **options)
    with pytest.raises(ValueError, match='a Config has no weights'):
        mmdisalign.calibrate(cfg, out='model.pth')
    with pytest.raises(ValueError, match='EncoderDecoder has no config in cfg or _config'):
        mmdisalign.calibrate(from_file.model, out='model.pth')


def test_every_second_value_is_tried_and_those_beside_the_best() -> None:
    for top in range(9):
        asked: list[float] = []
        found = searched(lambda v, t=top, a=asked: a.append(v) or -abs(v - t), list(range(9))[::-1])
        assert max(found, key=found.get) == top
        assert len(asked) == len(set(asked)) <= 7
    assert searched(lambda value: value, [3.0]) == {3.0: 3.0}
    assert searched(len, ['abc', 'b', 'ab']) == {'abc': 3, 'b': 1, 'ab': 2}
    assert searched(lambda value: value, [1.0, 2.0]) == {1.0: 1.0, 2.0: 2.0}


def test_what_is_better_in_one_value_and_as_good_in_the_other_is_the_front() -> None:
    points = {'a': (3.0, 1.0), 'b': (2.0, 2.0), 'c': (2.0, 1.5), 'd': (1.0, 2.0), 'e': (0.0, 5.0)}
    assert pareto_front(points) == [(0.0, 5.0), (2.0, 2.0), (3.0, 1.0)]


def test_values_and_their_interval_by_hand() -> None:
    prior = ClassPrior.build([8, 4, 1])
    label, weight = np.array([0, 0, 1, 2]), np.array([2.0, 1, 1, 1])

    def decided(predicted: list[int], kind: str = 'accuracy') -> Decided:
        return Decided(label, np.array(predicted), weight, np.arange(4), prior, kind)

    before, after = decided([0, 0, 0, 0]), decided([0, 0, 1, 0])
    accuracy = once(before, 4)
    assert accuracy['top1'] == pytest.approx(60) and accuracy['mean'] == pytest.approx(100 / 3)
    assert once(after, 4)['mean'] == pytest.approx(200 / 3)
    # Class 0: 3 right of 3 true and 5 predicted ones.
    assert once(decided([0, 0, 0, 0], 'IoU'), 4)['mIoU'] == pytest.approx(100 * 3 / 5 / 3)
    first, second = (own.values(draws_of(4, seed=0)) for own in (before, after))
    assert intervals_of_difference(first, first)['top1'] == (0, 0)
    low, high = intervals_of_difference(first, second)['top1']
    # The third image is in a draw 0 to 4 times; it alone gains.
    assert low == 0 and 0 < high <= 100
