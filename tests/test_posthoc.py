"""Post-hoc baselines: the formulas, and the tool that chooses how far."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mmdisalign.calibration import (
    AdaptiveCalibration,
    ClassPrior,
    CosineLinear,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from mmdisalign.onepass.posthoc import choose, find_classifiers, shift_scores

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


def test_shifting_a_classifier_leaves_a_background_as_it_is() -> None:
    shift = torch.tensor([1.0, 2, 3])
    for classifier, background in ((nn.Linear(5, 4), True), (nn.Conv2d(5, 3, 1), False)):
        before = classifier.bias.clone()
        shift_scores(classifier, shift, background=background)
        expected = torch.zeros(len(before))
        expected[:3] = shift
        torch.testing.assert_close(classifier.bias - before, expected)
    with pytest.raises(ValueError, match='prior has 3 classes, but the classifier has 80'):
        shift_scores(nn.Linear(5, 80), shift)
    with pytest.raises(ValueError, match='3 classes and background, but the classifier has 3'):
        shift_scores(nn.Linear(5, 3), shift, background=True)
    with pytest.raises(ValueError, match='has no bias'):
        shift_scores(nn.Linear(5, 3, bias=False), shift)


class StubRunner:
    """What the choice needs of a Runner: the metric is how near the weight's norm is to 1."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def val(self) -> dict[str, float]:
        norm = float(self.model['head']['fc'].weight.norm())
        return {'near': -abs(norm - 1), 'nan': math.nan}


def test_the_best_value_is_kept_and_each_is_tried_from_the_start() -> None:
    fc = nn.Linear(1, 1)
    with torch.no_grad():
        fc.weight.fill_(8.0)
    runner = StubRunner(nn.ModuleDict({'head': nn.ModuleDict({'fc': fc})}))

    def divide(classifier: nn.Module, value: float) -> None:
        with torch.no_grad():
            classifier.weight /= value

    best, scores, metric = choose(runner, divide, [2, 7, 8, 16], ['other', 'near'])
    assert (best, metric) == (8, 'near')
    assert scores == pytest.approx({2: -3, 7: -1 / 7, 8: 0, 16: -0.5})
    assert fc.weight.item() == 1
    with pytest.raises(KeyError, match='no mIoU; it has near, nan'):
        choose(runner, divide, [1, 2], ['mIoU'])
    with pytest.raises(ValueError, match='nan of the validation data is NaN'):
        choose(runner, divide, [1, 2], ['nan'])


def test_classifiers_that_cannot_be_changed_are_refused() -> None:
    calibrated = nn.ModuleDict({'fc': nn.Linear(2, 2), 'calibration': AdaptiveCalibration(2, 2)})
    with pytest.raises(TypeError, match='is calibrated already'):
        find_classifiers(nn.ModuleDict({'head': calibrated}))
    with pytest.raises(TypeError, match=r'head\.fc of the model is a CosineLinear, not linear'):
        find_classifiers(nn.ModuleDict({'head': nn.ModuleDict({'fc': CosineLinear(2, 2)})}))


def test_classifiers_are_found_in_all_three_libraries() -> None:
    def model(**modules: nn.Module) -> nn.Module:
        return nn.ModuleDict(modules)

    linear = nn.Linear(2, 2)
    heads = nn.ModuleList([model(fc_cls=nn.Linear(2, 2), fc_reg=linear) for _ in range(3)])
    cascade = model(roi_head=model(bbox_head=heads))
    assert list(find_classifiers(cascade)) == [f'roi_head.bbox_head.{i}.fc_cls' for i in range(3)]
    segmentor = model(decode_head=model(conv_seg=nn.Conv2d(2, 2, 1)))
    segmentor['auxiliary_head'] = model(conv_seg=nn.Conv2d(2, 2, 1))
    assert list(find_classifiers(segmentor)) == ['decode_head.conv_seg']
    assert list(find_classifiers(model(head=model(fc=linear)))) == ['head.fc']
    vit = model(head=model(layers=model(head=linear)))
    assert list(find_classifiers(vit)) == ['head.layers.head']
    with pytest.raises(TypeError, match='no classifier of a known name'):
        find_classifiers(linear)


def test_prior_of_a_table_may_be_given() -> None:
    assert len(logit_adjustment('ade20k', 1.0)) == len(ClassPrior.build('ade20k'))
