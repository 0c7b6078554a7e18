"""A classification layer that calibrates its own scores, whatever it is and its outputs are."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from mmdisalign.calibration import (
    AdaptiveCalibration,
    CosineConv2d,
    CosineLinear,
    ScoreLayout,
    adaptive,
    calibrate_layer,
)

CLASSES, CHANNELS = 5, 6
# A layer, the shape of what it sees, and its layout.
LAYERS = {
    'linear': (lambda: nn.Linear(6, 5), (4, 6), ScoreLayout(5)),
    'queries': (lambda: nn.Linear(6, 6), (2, 7, 6), ScoreLayout(5, after=1)),
    'decoder layers': (lambda: nn.Linear(6, 6), (3, 2, 7, 6), ScoreLayout(5, after=1)),
    'cosine': (lambda: CosineLinear(6, 6), (4, 6), ScoreLayout(5, after=1)),
    '1x1': (lambda: nn.Conv2d(6, 5, 1), (2, 6, 3, 4), ScoreLayout(5)),
    '3x3': (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 3, 4), ScoreLayout(5)),
    'dilated': (
        lambda: nn.Conv2d(6, 5, 3, padding=2, dilation=2),
        (2, 6, 5, 4),
        ScoreLayout(5),
    ),
    'anchors': (lambda: nn.Conv2d(6, 3 * 5, 3, padding='same'), (2, 6, 3, 4), ScoreLayout(5)),
    'anchors with a background': (
        lambda: nn.Conv2d(6, 3 * 6, 1),
        (2, 6, 3, 4),
        ScoreLayout(5, after=1),
    ),
    'anchors with a box': (lambda: nn.Conv2d(6, 3 * 10, 1), (2, 6, 3, 4), ScoreLayout(5, before=5)),
    'cosine of maps': (lambda: CosineConv2d(6, 5), (2, 6, 3, 4), ScoreLayout(5)),
}


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, ScoreLayout]:
    torch.manual_seed(0)
    build, shape, layout = LAYERS[request.param]
    return build(), torch.randn(shape), layout


@pytest.fixture(params=[torch.enable_grad, torch.no_grad, torch.inference_mode])
def mode(request: pytest.FixtureRequest) -> AbstractContextManager:
    """Without gradients, scores are calibrated in place."""
    return request.param()


@pytest.fixture(params=[adaptive.TILE, 7], ids=['whole', 'in tiles'])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, 'TILE', request.param)


@pytest.mark.usefixtures('tile')
def test_untouched_it_is_the_layer_bit_for_bit(case, mode: AbstractContextManager) -> None:
    layer, features, layout = case
    plain = copy.deepcopy(layer)
    calibrated = calibrate_layer(layer, layout)
    assert calibrated is layer and isinstance(layer, type(plain))
    with mode:
        assert torch.equal(layer(features), plain(features))


def test_its_parameters_keep_their_names(case) -> None:
    layer, _, layout = case
    before = copy.deepcopy(layer.state_dict())
    calibrate_layer(layer, layout)
    added = layer.state_dict().keys() - before.keys()
    assert {key.partition('.')[0] for key in added} == {'calibration'}
    missing, unexpected = layer.load_state_dict(before, strict=False)
    assert set(missing) == added and not unexpected


def learned(calibration: AdaptiveCalibration) -> None:
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.copy_(torch.randn_like(parameter))


def test_each_score_is_calibrated_by_the_sigma_of_its_position(case) -> None:
    layer, features, layout = case
    plain = copy.deepcopy(layer)
    calibration = calibrate_layer(layer, layout).calibration
    learned(calibration)
    # Positions first, channels last, one position and one anchor at a time.
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    before, after = (own(features).movedim(axis, -1).detach() for own in (plain, layer))
    seen = features.movedim(axis, -1).flatten(0, -2)
    weight, bias = calibration.confidence.weight[0], calibration.confidence.bias
    size = layout.before + layout.num_classes + layout.after
    for x, old, new in zip(seen, before.flatten(0, -2), after.flatten(0, -2)):
        sigma = torch.sigmoid(weight @ x + bias)
        for z, found in zip(old.split(size), new.split(size)):
            expected = z.clone()
            own = slice(layout.before, layout.before + CLASSES)
            expected[own] = (1 + sigma * calibration.magnitude) * z[
                own
            ] + sigma * calibration.margin
            torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures('tile')
@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_in_place_it_makes_the_scores_that_it_trains_with(case, precision: torch.dtype) -> None:
    layer, features, layout = case
    learned(calibrate_layer(layer, layout).calibration)
    layer, features = layer.to(precision), features.to(precision)
    trained_with, given = layer(features).detach(), features.clone()
    with torch.no_grad():
        out = layer(features)
    assert out.dtype == torch.float32
    assert torch.equal(features, given)
    # The same sums and products of float32; a vector of them may be rounded once less at its ends.
    torch.testing.assert_close(out, trained_with, rtol=1e-6, atol=1e-6)


def test_under_autocast_it_is_in_float32_as_well(case, mode: AbstractContextManager) -> None:
    layer, features, layout = case
    plain = copy.deepcopy(layer)
    calibrate_layer(layer, layout)
    with mode, torch.autocast('cpu', dtype=torch.bfloat16):
        out, before = layer(features), plain(features)
    assert out.dtype == torch.float32
    assert torch.equal(out, before.float())


class Keeping(nn.Linear):
    """Keeps the scores that it makes, and gives them again."""

    def forward(self, features: Tensor) -> Tensor:
        if not hasattr(self, 'kept'):
            self.kept = super().forward(features)
        return self.kept


def test_what_a_layer_keeps_is_calibrated_once(mode: AbstractContextManager) -> None:
    features, layer = torch.randn(4, 6), Keeping(6, 5)
    plain = copy.deepcopy(layer)
    learned(calibrate_layer(layer, ScoreLayout(5)).calibration)
    with mode:
        first, second = layer(features), layer(features)
        assert torch.equal(layer.kept, plain(features))
        assert not torch.equal(first, plain(features))
        assert torch.equal(first, second)


def test_hooks_see_the_scores_before_and_after(case, mode: AbstractContextManager) -> None:
    layer, features, layout = case
    plain = copy.deepcopy(layer)
    calibration = calibrate_layer(layer, layout).calibration
    learned(calibration)
    seen = []
    with mode:
        unwatched = layer(features)
        calibration.register_forward_hook(lambda _, inputs, out: seen.extend([inputs[0], out]))
        layer.register_forward_hook(lambda _, inputs, out: seen.extend([plain(*inputs), out]))
        out = layer(features)
    before, after, outputs, last = seen
    assert last is out
    # Once more as the layer is watched: the same but for the rounding of a product.
    torch.testing.assert_close(out, unwatched, rtol=1e-6, atol=1e-6)
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    for found, whole in ((before, outputs), (after, out)):
        rows = whole.movedim(axis, -1).unflatten(-1, (-1, layout.size))
        own = rows[..., layout.before : layout.before + CLASSES]
        assert torch.equal(found.flatten().sort().values, own.flatten().sort().values)


@pytest.mark.usefixtures('tile')
def test_a_traced_layer_takes_other_sizes(case) -> None:
    layer, features, layout = case
    learned(calibrate_layer(layer, layout).calibration)
    more = torch.cat([features, features.flip(0)])
    with torch.no_grad():
        traced = torch.jit.trace(layer, features)
        torch.testing.assert_close(traced(more), layer(more), rtol=1e-6, atol=1e-6)


def test_a_copy_is_calibrated_as_well(case) -> None:
    layer, features, layout = case
    learned(calibrate_layer(layer, layout).calibration)
    assert torch.equal(copy.deepcopy(layer)(features), layer(features))


def test_layers_may_share_a_calibration() -> None:
    first, second = (calibrate_layer(nn.Conv2d(6, 5, 1), ScoreLayout(5)) for _ in range(2))
    assert first.calibration is not second.calibration
    third = calibrate_layer(nn.Conv2d(6, 10, 1), ScoreLayout(5), first.calibration)
    assert third.calibration is first.calibration


def test_calibrated_twice_it_is_calibrated_once() -> None:
    layer = calibrate_layer(nn.Linear(6, 5), ScoreLayout(5))
    calibration = layer.calibration
    assert calibrate_layer(layer, ScoreLayout(5)).calibration is calibration


@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (nn.Conv2d(6, 5, 3), 'no score for each position of its input'),
        (nn.Conv2d(6, 5, 1, stride=2), 'no score for each position of its input'),
        (nn.Linear(6, 7), '7 outputs are not those of anchors with 5 classes'),
        (nn.ReLU(), 'a ReLU cannot be calibrated: it is not a Linear or Conv2d'),
    ],
)
def test_what_cannot_be_calibrated_is_said(layer: nn.Module, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        calibrate_layer(layer, ScoreLayout(5))
