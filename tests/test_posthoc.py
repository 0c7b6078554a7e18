"""Post-hoc baselines: the formulas, and the tool that chooses how far."""

from __future__ import annotations

import math

import pytest
import torch

from mmdisalign.calibration import (
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)

COUNTS = [60, 30, 10]


def test_tau_normalization_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])  # norms 5 and 2
    assert torch.equal(tau_normalized(weight, 0), weight)
    torch.testing.assert_close(tau_normalized(weight, 1), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    half = tau_normalized(weight, 0.5)
    assert half.norm(dim=1).tolist() == pytest.approx([math.sqrt(5), math.sqrt(2)])


@pytest.mark.parametrize('tau', [0.3, 0.7])
def test_tau_normalization_against_its_formula(tau: float) -> None:
    weight = torch.randn(5, 8)
    expected = torch.stack([w / sum(v * v for v in w.tolist()) ** (tau / 2) for w in weight])
    torch.testing.assert_close(tau_normalized(weight, tau), expected)


def test_tau_normalization_of_a_convolution_is_that_of_its_matrix() -> None:
    weight = torch.randn(3, 4, 1, 1)
    expected = tau_normalized(weight.flatten(1), 0.7)
    torch.testing.assert_close(tau_normalized(weight, 0.7).flatten(1), expected)


def test_logit_adjustment_by_hand() -> None:
    # Two classes, 3 : 1. Scores that are the log-frequencies become equal with tau = 1.
    shift = logit_adjustment([3, 1], 1.0)
    adjusted = torch.tensor([0.75, 0.25]).log() + shift
    assert float(adjusted[0] - adjusted[1]) == pytest.approx(0, abs=1e-6)
    assert not logit_adjustment([3, 1], 0.0).any()


@pytest.mark.parametrize('tau', [0.5, 1.0, 2.0])
def test_logit_adjustment_divides_probabilities_by_a_power_of_the_prior(tau: float) -> None:
    z = torch.randn(8, 3)
    powers = torch.tensor([0.6, 0.3, 0.1]) ** tau
    expected = z.softmax(1) / powers
    expected /= expected.sum(1, keepdim=True)
    adjusted = (z + logit_adjustment(COUNTS, tau)).softmax(1)
    torch.testing.assert_close(adjusted, expected)


def test_norcal_by_hand() -> None:
    # p = (1/2, 1/4) and background 1/4; counts 4 and 1, gamma = 1: 1/8, 1/4, 1/4, sum 5/8.
    z = torch.tensor([0.5, 0.25, 0.25]).log()
    z[:2] += normalized_calibration([4, 1], 1.0)
    assert z.softmax(0).tolist() == pytest.approx([1 / 5, 2 / 5, 2 / 5])


@pytest.mark.parametrize('gamma', [0.3, 1.0])
def test_norcal_divides_the_probabilities_of_the_foreground(gamma: float) -> None:
    z = torch.randn(8, 4)
    p = z.softmax(1)
    p[:, :3] /= torch.tensor(COUNTS) ** gamma
    expected = p / p.sum(1, keepdim=True)
    z[:, :3] += normalized_calibration(COUNTS, gamma)
    torch.testing.assert_close(z.softmax(1), expected)


def test_a_class_that_was_never_seen_counts_as_the_rarest() -> None:
    shift = logit_adjustment([8, 0, 2], 1.0)
    assert shift[1] == shift[2]
    assert torch.isfinite(shift).all()
