"""Generalized re-weighting and the cross-entropy built on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmdisalign.calibration import generalized_reweight
from mmdisalign.losses import GRWCrossEntropyLoss

PRIOR = [80, 15, 5]


def reference_weights(counts: list[float], rho: float) -> list[float]:
    powers = [(sum(counts) / count) ** rho for count in counts]
    return [len(counts) * power / sum(powers) for power in powers]


def reference_loss(pred, label, weights, ignore_index=255):
    """Weighted loss of each element, in plain Python; None where it is ignored."""
    losses = []
    for z, y in zip(pred.tolist(), label.tolist()):
        if y == ignore_index:
            losses.append(None)
            continue
        losses.append(weights[y] * (math.log(sum(math.exp(v) for v in z)) - z[y]))
    return losses


def test_worked_example_of_the_weights() -> None:
    # r = (4/5, 1/5) and rho = 1: 1/r = (5/4, 5), their sum is 25/4, times C = 2.
    torch.testing.assert_close(generalized_reweight([4, 1], 1.0), torch.tensor([0.4, 1.6]))


@pytest.mark.parametrize('rho', [0.2, 0.8, 1.2, 3.0])
def test_weights_against_the_formula(rho: float) -> None:
    weights = generalized_reweight(PRIOR, rho)
    torch.testing.assert_close(weights, torch.tensor(reference_weights(PRIOR, rho)))
    assert math.isclose(weights.mean(), 1, rel_tol=1e-6)


def test_rho_zero_gives_ones() -> None:
    assert generalized_reweight(PRIOR, 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize('rho', [-0.1, float('nan'), float('inf')])
def test_an_exponent_that_is_no_number_of_at_least_0_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match=f'exp_scale must be at least 0, got {rho}'):
        generalized_reweight(PRIOR, rho)


def test_weights_do_not_depend_on_the_unit_of_the_counts() -> None:
    in_pixels = generalized_reweight([c * 1e12 for c in PRIOR], 0.6)
    torch.testing.assert_close(in_pixels, generalized_reweight([c / 100 for c in PRIOR], 0.6))


def test_a_class_of_zero_frequency_is_named() -> None:
    with pytest.raises(ValueError, match=r'zero frequency: cat \(1\)\..*zero_count'):
        generalized_reweight({'dog': 5, 'cat': 0}, 0.2)


def test_zero_count_says_how_to_treat_it() -> None:
    torch.testing.assert_close(
        generalized_reweight([8, 2, 0], 1.0, zero_count='min'), generalized_reweight([8, 2, 2], 1.0)
    )
    torch.testing.assert_close(
        generalized_reweight([8, 2, 0], 1.0, zero_count=1), generalized_reweight([8, 2, 1], 1.0)
    )
    ignored = generalized_reweight([8, 2, 0], 1.0, zero_count='ignore')
    torch.testing.assert_close(ignored[:2], generalized_reweight([8, 2], 1.0))
    assert ignored[2] == 0


@pytest.mark.parametrize('zero_count', ['max', 0, -1])
def test_bad_zero_count_is_named(zero_count) -> None:
    with pytest.raises(ValueError, match=str(zero_count)):
        generalized_reweight([8, 0], 1.0, zero_count=zero_count)


def test_negative_exp_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r'-0\.2'):
        generalized_reweight(PRIOR, -0.2)


def test_worked_example_of_the_loss() -> None:
    # Two equal scores: -log(1/2) each, weighted by 0.4 and 1.6; the third element is ignored.
    loss = GRWCrossEntropyLoss([4, 1], exp_scale=1.0, normalizer='valid')
    value = loss(torch.zeros(3, 2), torch.tensor([0, 1, 255]))
    assert math.isclose(value, math.log(2) * (0.4 + 1.6) / 2, rel_tol=1e-6)


@pytest.mark.parametrize('normalizer', ['elements', 'valid', 'class_weight'])
@pytest.mark.parametrize('weighted', [False, True])
def test_normalisers_against_plain_python(normalizer: str, weighted: bool) -> None:
    torch.manual_seed(0)
    pred, label = torch.randn(6, 3), torch.tensor([0, 1, 255, 2, 2, 0])
    weight = torch.rand(6) if weighted else torch.ones(6)
    class_weight = reference_weights(PRIOR, 0.5)
    losses = reference_loss(pred, label, class_weight)
    total = sum(u * x for u, x in zip(weight.tolist(), losses) if x is not None)
    divisor = {
        'elements': 6,
        'valid': 5,
        'class_weight': sum(
            u * class_weight[y] for u, y in zip(weight.tolist(), label.tolist()) if y != 255
        ),
    }[normalizer]
    loss = GRWCrossEntropyLoss(PRIOR, 0.5, normalizer=normalizer)
    value = loss(pred, label, weight=weight if weighted else None)
    assert math.isclose(value, total / divisor, rel_tol=1e-5)


def test_class_weight_normaliser_is_pytorchs() -> None:
    pred, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    label[0, 0] = 255
    loss = GRWCrossEntropyLoss(PRIOR, 0.8, normalizer='class_weight')
    expected = F.cross_entropy(pred, label, generalized_reweight(PRIOR, 0.8), ignore_index=255)
    torch.testing.assert_close(loss(pred, label), expected)


def test_rho_zero_is_plain_cross_entropy() -> None:
    pred, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    torch.testing.assert_close(
        GRWCrossEntropyLoss(PRIOR, 0)(pred, label), F.cross_entropy(pred, label)
    )


def test_elements_is_the_default_and_counts_ignored_pixels() -> None:
    pred, label = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 255], [255, 255]]])
    assert math.isclose(GRWCrossEntropyLoss(PRIOR, 0)(pred, label), math.log(3) / 4, rel_tol=1e-6)


def test_reduction_override_and_avg_factor() -> None:
    pred, label = torch.randn(5, 3), torch.tensor([0, 1, 2, 255, 1])
    loss = GRWCrossEntropyLoss(PRIOR, 0.5, loss_weight=2.0)
    each = loss(pred, label, reduction_override='none')
    assert each.shape == (5,)
    assert each[3] == 0
    torch.testing.assert_close(loss(pred, label, reduction_override='sum'), each.sum())
    torch.testing.assert_close(loss(pred, label, avg_factor=7), each.sum() / 7)


@pytest.mark.parametrize('normalizer', ['elements', 'valid', 'class_weight'])
def test_nothing_valid_gives_zero_with_a_gradient(normalizer: str) -> None:
    for size in (0, 4):
        pred = torch.randn(size, 3, requires_grad=True)
        loss = GRWCrossEntropyLoss(PRIOR, 0.5, normalizer=normalizer)
        value = loss(pred, torch.full((size,), 255))
        value.backward()
        assert value == 0
        assert not pred.grad.any()


def test_gradient_against_finite_differences() -> None:
    label = torch.tensor([0, 1, 2, 255])
    pred = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for normalizer in ('elements', 'valid', 'class_weight'):
        loss = GRWCrossEntropyLoss(PRIOR, 0.7, normalizer=normalizer)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, label), pred)


def test_label_255_is_a_class_where_there_are_more() -> None:
    loss = GRWCrossEntropyLoss([1] * 300, 0.0)
    assert loss(torch.zeros(1, 300), torch.tensor([255])) > 0
    assert loss(torch.zeros(1, 300), torch.tensor([255]), ignore_index=255) == 0


def test_half_precision_is_computed_in_float32() -> None:
    pred, label = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = GRWCrossEntropyLoss(PRIOR, 0.5)
    value = loss(pred.bfloat16(), label)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(pred.bfloat16().float(), label))


def test_it_adds_nothing_to_a_checkpoint() -> None:
    loss = GRWCrossEntropyLoss(PRIOR, 0.5, loss_name='loss_tail')
    assert not loss.state_dict()
    assert loss.loss_name == 'loss_tail'


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="'pixels'"):
        GRWCrossEntropyLoss(PRIOR, 0.5, normalizer='pixels')
    with pytest.raises(ValueError, match="'avg'"):
        GRWCrossEntropyLoss(PRIOR, 0.5)(
            torch.zeros(1, 3), torch.tensor([0]), reduction_override='avg'
        )
    with pytest.raises(ValueError, match='3 classes, but the scores have 4'):
        GRWCrossEntropyLoss(PRIOR, 0.5)(torch.zeros(1, 4), torch.tensor([0]))
