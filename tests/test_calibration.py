"""AdaptiveCalibration against the paper's formula and against the released code's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mmdisalign.calibration import AdaptiveCalibration, convert_released_keys


def trained_calibration(num_classes: int = 5, in_channels: int = 7) -> AdaptiveCalibration:
    calibration = AdaptiveCalibration(num_classes, in_channels)
    with torch.no_grad():
        for parameter in calibration.parameters():
            parameter.normal_()
    return calibration


def reference(module: AdaptiveCalibration, logits: Tensor, features: Tensor) -> Tensor:
    """The formula, element by element, on vectors."""
    rows = []
    for z, x in zip(logits, features):
        score = (module.confidence.weight[0] * x).sum() + module.confidence.bias[0]
        sigma = 1 / (1 + torch.exp(-score))
        rows.append((1 + sigma * module.magnitude) * z + sigma * module.margin)
    return torch.stack(rows)


@pytest.mark.parametrize('positions', [(), (3,), (3, 2)])
def test_in_place_scores_are_overwritten_where_nothing_needs_them(positions: tuple) -> None:
    calibration = trained_calibration()
    logits, features = torch.randn(4, 5, *positions), torch.randn(4, 7, *positions)
    given = logits.clone(), features.clone()
    expected = calibration.in_place(logits, features)
    assert expected is not logits and expected.requires_grad
    with torch.no_grad():
        calibration(logits, features)
        assert torch.equal(logits, given[0])
        out = calibration.in_place(logits, features)
    assert out is logits
    assert torch.equal(features, given[1])
    # The same sums and products of float32; a vector of them may be rounded once less at its ends.
    torch.testing.assert_close(out, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('hook', ['register_forward_hook', 'register_forward_pre_hook'])
def test_in_place_scores_that_a_hook_may_keep_stay_as_they_are(hook: str) -> None:
    calibration = trained_calibration()
    logits, features = torch.randn(4, 5), torch.randn(4, 7)
    given, kept = logits.clone(), []
    getattr(calibration, hook)(lambda _, inputs, *out: kept.append(inputs[0]))
    with torch.no_grad():
        assert calibration.in_place(logits, features) is not logits
    assert torch.equal(kept[0], given)


def test_worked_example() -> None:
    # sigma = sigmoid(0) = 1/2, so z = (2, -1) becomes (1 + 1/2) 2 + 1/2 = 3.5 and -1 + (-4)/2 = -3.
    calibration = AdaptiveCalibration(num_classes=2, in_channels=1)
    with torch.no_grad():
        calibration.magnitude.copy_(torch.tensor([1.0, 0.0]))
        calibration.margin.copy_(torch.tensor([1.0, -4.0]))
        calibration.confidence.weight.zero_()
    out = calibration(torch.tensor([[2.0, -1.0]]), torch.tensor([[9.0]]))
    assert out.tolist() == [[3.5, -3.0]]


def test_vectors_against_the_formula() -> None:
    calibration = trained_calibration()
    logits, features = torch.randn(4, 5), torch.randn(4, 7)
    # 1e-5: float32 sums of 7 terms, in another order.
    torch.testing.assert_close(
        calibration(logits, features),
        reference(calibration, logits, features),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize('positions', [(3,), (3, 2), (2, 3, 2)])
def test_maps_are_calibrated_position_by_position(positions: tuple[int, ...]) -> None:
    calibration = trained_calibration()
    logits, features = torch.randn(2, 5, *positions), torch.randn(2, 7, *positions)
    flat = [t.flatten(2).transpose(1, 2).flatten(0, 1) for t in (logits, features)]
    expected = reference(calibration, *flat)
    out = calibration(logits, features)
    assert out.shape == logits.shape
    out = out.flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('shape', [(), (4, 6)])
def test_starts_as_the_identity(shape: tuple[int, ...]) -> None:
    calibration = AdaptiveCalibration(5, 7)
    logits = torch.randn(2, 5, *shape) * 100
    assert torch.equal(calibration(logits, torch.randn(2, 7, *shape) * 100), logits)


def test_confidence_is_between_zero_and_one() -> None:
    sigma = trained_calibration().sigma(torch.randn(2, 7, 4, 6))
    assert sigma.shape == (2, 1, 4, 6)
    assert sigma.min() > 0 and sigma.max() < 1


def test_parameters_are_named_as_the_contract_says() -> None:
    assert {name: tuple(p.shape) for name, p in AdaptiveCalibration(5, 7).named_parameters()} == {
        'magnitude': (5,),
        'margin': (5,),
        'confidence.weight': (1, 7),
        'confidence.bias': (1,),
    }


@pytest.mark.parametrize('positions', [(), (3, 2)])
def test_gradients_against_finite_differences(positions: tuple[int, ...]) -> None:
    calibration = trained_calibration().double()
    logits = torch.randn(2, 5, *positions, dtype=torch.float64, requires_grad=True)
    features = torch.randn(2, 7, *positions, dtype=torch.float64, requires_grad=True)
    parameters = dict(calibration.named_parameters())

    def call(z: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(calibration, dict(zip(parameters, values)), (z, x))

    assert torch.autograd.gradcheck(call, (logits, features, *parameters.values()))


@pytest.mark.parametrize('old', [False, True])
def test_computes_in_float32_under_autocast(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = trained_calibration()
    logits, features = torch.randn(3, 5).bfloat16(), torch.randn(3, 7).bfloat16()
    expected = calibration(logits.float(), features.float())

    def takes_no_device(*_: object) -> bool:
        monkeypatch.undo()  # for autocast itself asks
        raise TypeError

    with torch.autocast('cpu', dtype=torch.bfloat16):
        if old:  # as PyTorch before 2.4
            monkeypatch.setattr(torch, 'is_autocast_enabled', takes_no_device)
        out = calibration(logits, features)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)


def test_empty_batch_forward_and_backward() -> None:
    calibration = AdaptiveCalibration(5, 7)
    calibration(torch.zeros(0, 5), torch.zeros(0, 7)).sum().backward()
    assert not calibration.magnitude.grad.any()


@pytest.mark.parametrize(
    ('logits', 'features'), [((2, 4), (2, 7)), ((2, 5), (2, 6)), ((2, 5, 3), (2, 7, 4))]
)
def test_wrong_shapes_are_named(logits: tuple, features: tuple) -> None:
    with pytest.raises(ValueError, match=r'\(2, 4\)|\(2, 6\)|\(2, 7, 4\)'):
        AdaptiveCalibration(5, 7)(torch.zeros(logits), torch.zeros(features))


# The formulas of the three released forks, as their forwards compute them.


def released_interpolation(z: Tensor, sigma: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return sigma * (z * scale + bias) + (1 - sigma) * z


def released_increment(z: Tensor, sigma: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return (1 + sigma * scale) * z + sigma * bias


@pytest.mark.parametrize(
    ('formula', 'released'),
    [('interpolation', released_interpolation), ('increment', released_increment)],
)
@pytest.mark.parametrize('shape', [(5,), (1, 5)])
def test_released_linear_checkpoints_give_the_same_outputs(formula, released, shape) -> None:
    confidence_layer = nn.Linear(7, 1)
    scale, bias = torch.randn(shape), torch.randn(shape)
    state_dict = {
        'box_predictor.logit_scale': scale,
        'box_predictor.logit_bias': bias,
        'box_predictor.confidence_layer.weight': confidence_layer.weight.data,
        'box_predictor.confidence_layer.bias': confidence_layer.bias.data,
        'box_predictor.cls_score.weight': torch.zeros(1),
    }
    convert_released_keys(state_dict, 'box_predictor.', formula=formula)
    assert state_dict.pop('box_predictor.cls_score.weight') is not None
    calibration = AdaptiveCalibration(5, 7)
    prefix = 'box_predictor.calibration.'
    calibration.load_state_dict({k.removeprefix(prefix): v for k, v in state_dict.items()})
    z, x = torch.randn(4, 5), torch.randn(4, 7)
    expected = released(z, confidence_layer(x).sigmoid(), scale, bias)
    torch.testing.assert_close(calibration(z, x), expected, rtol=1e-5, atol=1e-5)


def test_a_released_bare_convolution_loads_as_the_linear_layer() -> None:
    conv = nn.Conv2d(7, 1, 1)
    state_dict = {f'confidence_layer.{key}': value for key, value in conv.state_dict().items()}
    state_dict.update(logit_scale=torch.ones(1, 5, 1, 1), logit_bias=torch.zeros(1, 5, 1, 1))
    convert_released_keys(state_dict, target='')
    calibration = AdaptiveCalibration(5, 7)
    calibration.load_state_dict(state_dict)
    x = torch.randn(2, 7, 3, 4)
    torch.testing.assert_close(calibration.sigma(x), conv(x).sigmoid(), rtol=1e-5, atol=1e-6)


def test_a_model_cast_to_half_precision_is_calibrated_in_float32() -> None:
    for confidence in (None, nn.Conv2d(7, 1, 1)):
        calibration = AdaptiveCalibration(5, 7, confidence).half()
        z, x = torch.randn(2, 5, 3, 4).half(), torch.randn(2, 7, 3, 4).half()
        out = calibration(z, x)
        assert out.dtype == torch.float32
        assert torch.equal(out, z.float())


def test_an_unknown_released_formula_is_refused() -> None:
    with pytest.raises(ValueError, match='interpolation'):
        convert_released_keys({}, formula='segmentation')


def test_identity_does_not_depend_on_the_confidence() -> None:
    calibration = AdaptiveCalibration(3, 2)
    with torch.no_grad():
        calibration.confidence.bias.fill_(math.inf)
    z = torch.randn(4, 3)
    assert torch.equal(calibration(z, torch.zeros(4, 2)), z)
