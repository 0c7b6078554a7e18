"""The von Mises-Fisher classifier and its calibration, against the authors' numbers.

Those are in ``zoo/classification.json`` of the project's shared data (cases ``vmf_normaliser`` and
``vmf_inference``), by the code of Wang et al. (ECCV 2022), SiLangWHL/vMF-OP, commit 964d491.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdisalign.calibration import (
    ScoreLayout,
    VMFLinear,
    calibrate_layer,
    calibrated_kappa,
    mean_overlap,
)
from mmdisalign.calibration.vmf import log_normalizer, mean_resultant
from mmdisalign.onepass import fit
from mmdisalign.onepass.folding import check_foldable, folded_state

# Dimension, κ, log C(κ) - log C(16), A(κ).
NORMALIZERS = (
    (64, 1.0, 1.935880311984, 0.01562130259862),
    (64, 300.0, -215.4455142693, 0.9003410221734),
    (512, 32.0, -0.7481858953958, 0.06225867652066),
    (768, 128.0, -10.35745180631, 0.1622879253516),
    (2048, 1.0, 0.06225395407102, 0.0004882811336983),
    (2048, 300.0, -21.6811144565, 0.1434719352644),
)
FEATURES = (
    (-0.4148, -0.3334, 0.0811, -0.791, -0.2186, -0.7632, -0.7771, 1.8494),
    (-0.7056, -0.086, 0.2879, -0.1314, -0.9827, -0.9188, 1.1994, -0.3414),
)
WEIGHT = (
    (-0.2093, 0.5902, 0.3486, 0.0422, 0.4665, 0.3492, 0.8831, 0.9979),
    (-0.1567, -0.4132, -0.417, 1.1643, 1.0832, 0.2738, -0.3449, 0.0685),
    (0.9081, 0.2107, -0.0534, 0.5502, 0.3034, -0.4892, 0.2335, -0.255),
    (0.0238, -0.3168, -0.3062, -0.533, 0.6526, 0.404, -0.6404, 0.7308),
    (2.0182, -0.4994, -0.2042, -1.1151, 0.0005, 0.2109, 0.9129, -0.4083),
)
KAPPA = (16.0, 18.5, 12.25, 20.0, 9.5)
CONSTANT = (0.0, -2.030832607213, 2.904500996798, -3.276577236158, 4.876494881803)
OVERLAP = (0.2643851403055, 0.2689685148152, 0.278491660858, 0.2666112573905, 0.2715773817392)
SCORES = {
    1.0: (
        (2.824374559608, -5.608080946246, -2.113097364385, 8.019148804864, 2.643529153299),
        (0.6484158762361, -11.94981523245, 1.804605524242, -17.69589524275, 4.408270456337),
    ),
    0.5: (
        (2.17632676061, -5.019329531511, -3.506751014286, 5.160120500195, 2.08437599582),
        (0.4996379884021, -10.31732721377, 1.499106114067, -14.04626367722, 4.291023172796),
    ),
    0.0: (
        (1.676972394767, -4.527476122031, -5.287496327582, 3.024732519062, 1.385206245374),
        (0.3849969265152, -8.95351767067, 1.108753286502, -11.32037972292, 4.144416196018),
    ),
}


def layer_of(dtype: torch.dtype = torch.float64) -> VMFLinear:
    layer = VMFLinear(8, 5).to(dtype)
    layer.weight.data = torch.tensor(WEIGHT, dtype=dtype)
    layer.kappa.data = torch.tensor(KAPPA, dtype=dtype)
    return layer.requires_grad_(False)


@pytest.mark.parametrize(('dimension', 'kappa', 'constant', 'resultant'), NORMALIZERS)
def test_the_normalizer_and_its_slope(
    dimension: int, kappa: float, constant: float, resultant: float
) -> None:
    own = torch.tensor([kappa], dtype=torch.float64)
    # The references have 13 digits.
    assert log_normalizer(own, dimension).item() == pytest.approx(constant, rel=1e-9)
    assert mean_resultant(own, dimension).item() == pytest.approx(resultant, rel=1e-9)


def test_the_classifier_and_the_overlap_of_its_classes() -> None:
    layer = layer_of()
    torch.testing.assert_close(layer.constant(), torch.tensor(CONSTANT, dtype=torch.float64))
    overlap = mean_overlap(layer.weight, layer.kappa)
    torch.testing.assert_close(overlap, torch.tensor(OVERLAP, dtype=torch.float64))
    features = torch.tensor(FEATURES, dtype=torch.float64)
    torch.testing.assert_close(layer(features), torch.tensor(SCORES[1.0], dtype=torch.float64))


def test_its_scores_have_gradients_in_all_that_is_learned() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    layer = VMFLinear(6, 4).double()
    layer.kappa.data = torch.tensor([2.0, 16.0, 30.0, 5.0], dtype=torch.float64)
    parameters = layer.weight, layer.kappa

    def scores(x: torch.Tensor, weight: torch.Tensor, kappa: torch.Tensor) -> torch.Tensor:
        own = {'weight': weight, 'kappa': kappa}
        return torch.func.functional_call(layer, own, (x,))

    assert torch.autograd.gradcheck(scores, (features, *parameters))


def test_below_one_kappa_is_one() -> None:
    layer = layer_of()
    layer.kappa[4] = 0.5
    below = layer(torch.tensor(FEATURES, dtype=torch.float64))
    layer.kappa[4] = 1.0
    torch.testing.assert_close(below, layer(torch.tensor(FEATURES, dtype=torch.float64)))


@pytest.mark.parametrize('alpha', SCORES)
def test_calibrated_after_training_it_scores_as_the_authors(alpha: float) -> None:
    layer, features = layer_of(torch.float32), torch.tensor(FEATURES).repeat(3, 1)
    fitted = fit(
        features, layer(features), torch.arange(6) % 5, [9, 4, 2, 2, 1], 'vmf', alpha, vmf=layer
    )
    # In single precision.
    expected = torch.tensor(SCORES[alpha])
    torch.testing.assert_close(
        fitted(features, layer(features))[:2], expected, rtol=1e-4, atol=1e-4
    )


def test_classes_that_overlap_alike_stay() -> None:
    kappa = torch.tensor([3.0, 9.0])
    assert calibrated_kappa(kappa, torch.tensor([0.2, 0.2]), 0.5) is kappa


def test_it_folds_into_the_classifier() -> None:
    layer, features = layer_of(torch.float32), torch.tensor(FEATURES).repeat(3, 1)
    before = layer(features)
    fitted = fit(features, before, torch.arange(6) % 5, [9, 4, 2, 2, 1], 'vmf', 0.5, vmf=layer)
    model = nn.Sequential(calibrate_layer(layer, ScoreLayout(5)))
    state = folded_state(model, {'0.calibration': fitted.scores})
    stock = nn.Sequential(VMFLinear(8, 5))
    stock.load_state_dict(state)
    torch.testing.assert_close(stock(features), fitted(features, before), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_refused_before_anything_runs() -> None:
    model = nn.Sequential(calibrate_layer(layer_of(torch.float32), ScoreLayout(5)))
    check_foldable(model, 'vmf')
    check_foldable(model, 'disalign')
    with pytest.raises(ValueError, match='marc is written into the weights of a linear classifier'):
        check_foldable(model, 'marc')
    plain = nn.Sequential(calibrate_layer(nn.Linear(8, 5), ScoreLayout(5)))
    check_foldable(plain, 'marc')
    with pytest.raises(ValueError, match='the classifier is not a VMFLinear'):
        check_foldable(plain, 'vmf')


def test_of_another_classifier_it_is_refused() -> None:
    features = torch.tensor(FEATURES).repeat(3, 1)
    logits = F.linear(features, torch.tensor(WEIGHT))
    labels = torch.arange(6) % 5
    with pytest.raises(ValueError, match='vmf cannot be fitted: the classifier is not a VMFLinear'):
        fit(features, logits, labels, [9, 4, 2, 2, 1], 'vmf')
    with pytest.raises(ValueError, match='does not make these logits'):
        fit(features, logits, labels, [9, 4, 2, 2, 1], 'vmf', vmf=layer_of(torch.float32))
