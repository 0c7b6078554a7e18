"""CalibrationHook: what TensorBoard and its kin get to see of a calibration that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdisalign import config_path
from mmdisalign.calibration import AdaptiveCalibration, ScoreLayout, calibrate_layer
from mmdisalign.classification.metrics import LongTailAccuracy
from mmdisalign.engine import CalibrationHook
from mmdisalign.engine.confidence import calibrations_of, watch_confidence
from mmdisalign.engine.hooks import calibration_scalars
from mmdisalign.losses import GRWCrossEntropyLoss
from mmdisalign.onepass.confidence import GateObserver, Viewer

PRIOR = dict(source=[900, 80, 15, 5], groups=dict(head=[0], body=[1], tail=[2, 3]))


class Calibrated(BaseModel):
    """Scores of random features, calibrated."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4).requires_grad_(False)
        self.calibration = AdaptiveCalibration(4, 8)
        self.loss = GRWCrossEntropyLoss(PRIOR, exp_scale=0.5)

    def forward(self, inputs: Tensor, label: Tensor, mode: str) -> Any:
        scores = self.calibration(self.fc(inputs), inputs)
        if mode == 'loss':
            return dict(loss_grw=self.loss(scores, label))
        pairs = zip(scores, label)
        return [DataSample().set_pred_score(s).set_gt_label(int(own)) for s, own in pairs]


def run(work_dir: Path, hooks: dict) -> tuple[Calibrated, list[dict]]:
    """Train for 6 iterations and evaluate; returns the model and all that the visualizer got."""
    torch.manual_seed(0)
    data = [dict(inputs=torch.randn(8), label=number % 4) for number in range(12)]
    loader = dict(batch_size=2, dataset=data, collate_fn=dict(type='default_collate'))
    in_order = dict(type='DefaultSampler', shuffle=False)
    runner = Runner(
        Calibrated(),
        str(work_dir),
        train_dataloader=dict(loader, sampler=in_order),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        val_dataloader=dict(loader, sampler=in_order),
        val_cfg=dict(),
        val_evaluator=[LongTailAccuracy(PRIOR)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=3), **hooks),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        experiment_name=work_dir.name,
        log_level='WARNING',
    )
    runner.train()
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    return runner.model, [json.loads(line) for line in scalars.read_text().splitlines()]


HOOK = dict(calibration=dict(type='mmdisalign.engine.CalibrationHook', interval=3))


def test_alpha_beta_sigma_and_the_groups_metrics_are_logged(tmp_path: Path) -> None:
    model, entries = run(tmp_path / 'logged', HOOK)
    logged = [entry for entry in entries if 'calibration/magnitude_tail' in entry]
    assert [entry['step'] for entry in logged] == [3, 6]
    last = logged[-1]
    # After the last step, so of the trained model.
    for name in ('magnitude', 'margin'):
        values = getattr(model.calibration, name).detach()
        assert last[f'calibration/{name}_head'] == pytest.approx(values[0].item())
        assert last[f'calibration/{name}_tail'] == pytest.approx(values[2:].mean().item())
        assert last[f'calibration/{name}_min'] == values.min().item()
        assert last[f'calibration/{name}_max'] == values.max().item()
    assert 0 < last['calibration/confidence_mean'] < 1
    assert last['calibration/confidence_std'] > 0
    (evaluated,) = (entry for entry in entries if 'accuracy/few' in entry)
    assert {'accuracy/many', 'accuracy/medium', 'accuracy/top1'} <= set(evaluated)


def test_a_short_run_is_logged_at_its_end(tmp_path: Path) -> None:
    hook = dict(calibration=dict(HOOK['calibration'], interval=4))
    model, entries = run(tmp_path / 'short', hook)
    logged = [entry for entry in entries if 'calibration/margin_tail' in entry]
    assert [entry['step'] for entry in logged] == [4, 6]
    margin = model.calibration.margin[2:].mean().item()
    assert logged[-1]['calibration/margin_tail'] == pytest.approx(margin)


def test_the_hook_changes_nothing_that_trains(tmp_path: Path) -> None:
    states = [run(tmp_path / n, h)[0].state_dict() for n, h in (('with', HOOK), ('without', {}))]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_confidence_of_the_iteration_is_that_of_its_inputs() -> None:
    model, inputs = Calibrated(), torch.randn(5, 8)
    seen = []
    with watch_confidence(model, lambda *found: seen.append(found)):
        model(inputs, torch.zeros(5, dtype=torch.int64), 'loss')
    model(inputs, torch.zeros(5, dtype=torch.int64), 'loss')  # no longer watched
    ((name, logits, sigma),) = seen
    assert name == 'calibration'
    torch.testing.assert_close(logits, model.fc(inputs))
    layer = model.calibration.confidence
    expected = torch.sigmoid(inputs @ layer.weight[0] + layer.bias)
    torch.testing.assert_close(sigma[:, 0], expected)


def test_groups_are_those_of_a_prior_of_the_same_classes() -> None:
    model = Calibrated()
    other = nn.Module()
    other.class_prior = ['not', 'a', 'prior']
    auxiliary = GRWCrossEntropyLoss([5, 5, 5, 5, 5, 5], exp_scale=0.5)
    scalars = calibration_scalars(nn.ModuleList([other, auxiliary, model]))
    assert scalars['2.calibration/magnitude_tail'] == 0


def test_a_model_without_calibration_logs_none(tmp_path: Path) -> None:
    hook = CalibrationHook(interval=1)
    with pytest.raises(ValueError, match='at least 1, got 0'):
        CalibrationHook(interval=0)

    class Runs:
        model, iter = nn.Linear(1, 1), 0
        visualizer = None  # an attempt to log would fail

    hook.before_train_iter(Runs, 0)
    hook.after_train_iter(Runs, 0)


@pytest.mark.parametrize('name', ['seg', 'det', 'cls'])
@pytest.mark.parametrize('schedule', ['schedule', 'short_schedule'])
def test_it_is_on_in_every_schedule(name: str, schedule: str) -> None:
    cfg = Config.fromfile(config_path(f'_base_/disalign_{name}.py')).disalign[schedule]
    hooks = next(part for part in cfg if 'checkpoint' in part)
    assert hooks['calibration']['type'] == 'mmdisalign.engine.CalibrationHook'
    assert hooks['calibration']['interval'] == hooks['logger']['interval']


def test_the_confidence_of_a_position_is_shown_for_each_of_its_anchors() -> None:
    layer = nn.Conv2d(6, 3 * 4, 1)
    calibration = calibrate_layer(layer, ScoreLayout(4)).calibration
    seen = []
    model = nn.Sequential(layer)
    observer = GateObserver(calibrations_of(model), Viewer(model, None))
    features = torch.randn(2, 6, 5, 5)
    for see in (lambda _, logits, sigma: seen.append((logits.shape, sigma)), observer.see):
        with watch_confidence(model, see), torch.no_grad():
            model(features)
    ((shape, sigma),) = seen
    assert shape == (2, 4, 3, 5, 5) and sigma.shape == (2, 1, 3, 5, 5)
    assert torch.equal(sigma[:, :, 1], calibration.sigma(features))
    assert observer.of('0.calibration').counts.sum() == 2 * 3 * 5 * 5
