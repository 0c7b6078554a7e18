"""Second-stage methods on samples: each against its formula, and folded into the classifier."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmdisalign.calibration import (
    INVERSE_FREQUENCIES,
    ClassPrior,
    CosineLinear,
    generalized_reweight,
    tau_normalized,
)
from mmdisalign.losses import BalancedSoftmaxLoss, IIFLoss
from mmdisalign.onepass import calibrate, fit, method_named, method_names
from mmdisalign.onepass.methods import checked_value
from mmdisalign.onepass.options import Options

COUNTS = (120, 60, 25, 10)
C, FEATURES = len(COUNTS), 6
DECAY = 5e-3
FOLDED = (
    'balanced-softmax',
    'crt',
    'disalign-constant',
    'iif',
    'logit-adjustment',
    'lws',
    'marc',
    'ncm',
    'tau-norm',
    'temperature',
)


class Problem:
    """Features around a mean of each class, long-tailed, and a classifier trained on them."""

    def __init__(self, background: int = 0) -> None:
        rng = np.random.default_rng(0)
        counts = (*COUNTS, *[150] * background)
        means = rng.normal(size=(len(counts), FEATURES))
        self.labels = np.repeat(np.arange(len(counts)), counts)
        noise = 1.2 * rng.normal(size=(len(self.labels), FEATURES))
        # In half precision, as samples are kept.
        x = (means[self.labels] + noise).astype(np.float16).astype(np.float32)
        self.features = torch.from_numpy(x)
        self.target = torch.from_numpy(self.labels)
        self.layer = torch.nn.Linear(FEATURES, len(counts))
        optimizer = torch.optim.LBFGS(self.layer.parameters(), max_iter=100)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(self.layer(self.features), self.target)
            (loss + 1e-3 * self.layer.weight.square().sum()).backward()
            return loss

        optimizer.step(closure)
        self.layer.requires_grad_(False)
        self.logits = self.layer(self.features)

    def fit(self, method: str, value: float | None = None, **options):
        options = {'weight_decay': DECAY, **options}
        own = {'weight': self.layer.weight, 'bias': self.layer.bias}
        own['background'] = len(self.layer.weight) > C
        arrays = self.features, self.logits, self.labels
        return fit(*arrays, COUNTS, method, value, **own, **options)


@pytest.fixture(scope='module')
def problem() -> Problem:
    torch.manual_seed(0)
    return Problem()


@pytest.fixture(scope='module')
def detector() -> Problem:
    torch.manual_seed(0)
    return Problem(background=1)


def gradient(problem: Problem, scores, parameters, weight=None, decay: float = 0.0) -> float:
    """The largest derivative of the weighted mean loss, with the penalty of a weight decay."""
    parameters = [p.detach().double().requires_grad_() for p in parameters]
    loss = F.cross_entropy(scores(*parameters), problem.target, weight)
    loss = loss + decay / 2 * sum(p.square().sum() for p in parameters)
    return max(g.abs().max().item() for g in torch.autograd.grad(loss, parameters))


BALANCED = generalized_reweight(COUNTS, 1.0).double()
# A fit ends where a step changes the loss by 1e-6: derivatives are some 1e-3 there, at most.
FLAT = 2e-3


def test_methods_are_found_by_their_names() -> None:
    assert {*FOLDED, 'disalign', 'norcal'} <= set(method_names())
    for name in method_names():
        module = method_named(name)
        assert module.VALUES and callable(module.fit)
        assert (module.PARAMETER is None) == (len(module.VALUES) == 1)
    with pytest.raises(ValueError, match="no method 'magic'; there are balanced-softmax, crt"):
        method_named('magic')


def test_disalign_balances_the_classes(problem: Problem) -> None:
    fitted = problem.fit('disalign', 1.0)
    before, after = (
        np.bincount(scores.argmax(1), minlength=C)
        for scores in (problem.logits, fitted(problem.features, problem.logits))
    )
    assert after[-1] > before[-1]
    again = problem.fit('disalign', 1.0)(problem.features, problem.logits)
    assert torch.equal(again, fitted(problem.features, problem.logits))


def test_disalign_constant_is_at_the_minimum_of_its_loss(problem: Problem) -> None:
    fitted = problem.fit('disalign-constant', 1.0).scores
    z = problem.logits.double()
    own = [fitted.magnitude, fitted.margin]
    assert gradient(problem, lambda a, b: (1 + a) * z + b, own, BALANCED, DECAY) < FLAT


def test_logit_adjustment_by_hand(problem: Problem) -> None:
    scores = problem.fit('logit-adjustment', 2.0)(problem.features, problem.logits)
    shift = -2 * np.log(np.array(COUNTS) / sum(COUNTS))
    torch.testing.assert_close(scores, problem.logits + torch.tensor(shift).float())


def test_tau_norm_is_the_one_of_the_paper(problem: Problem) -> None:
    scores = problem.fit('tau-norm', 0.7)(problem.features, problem.logits)
    torch.testing.assert_close(
        scores, problem.features @ tau_normalized(problem.layer.weight, 0.7).T
    )
    same = problem.fit('tau-norm', 0.0)(problem.features, problem.logits)
    torch.testing.assert_close(same, problem.logits)


def test_lws_is_at_the_minimum_of_the_class_balanced_loss(problem: Problem) -> None:
    scale = problem.fit('lws').scores.scale
    z = problem.logits.double()
    assert gradient(problem, lambda f: f * z, [scale], BALANCED) < FLAT


def test_crt_is_at_the_minimum_of_the_class_balanced_loss(problem: Problem) -> None:
    own = problem.fit('crt', DECAY).scores
    x = problem.features.double()
    parameters = [own.weight, own.bias]
    assert gradient(problem, lambda w, b: x @ w.T + b, parameters, BALANCED, DECAY) < FLAT


def test_balanced_softmax_is_at_the_minimum_of_its_loss(problem: Problem) -> None:
    own = problem.fit('balanced-softmax', DECAY).scores
    x, log_counts = problem.features.double(), torch.tensor(COUNTS).double().log()
    parameters = [own.weight, own.bias]
    assert gradient(problem, lambda w, b: x @ w.T + b + log_counts, parameters, decay=DECAY) < FLAT
    loss = BalancedSoftmaxLoss(COUNTS)
    scores = F.linear(problem.features, own.weight, own.bias)
    expected = F.cross_entropy(scores + log_counts.float(), problem.target)
    torch.testing.assert_close(loss(scores, problem.target), expected)


def test_marc_is_at_the_minimum_of_its_loss(problem: Problem) -> None:
    own = problem.fit('marc', 1.0).scores
    z, norms = problem.logits.double(), problem.layer.weight.double().norm(dim=1)
    parameters = [own.magnitude, own.margin]
    assert (
        gradient(problem, lambda a, b: (1 + a) * z + b * norms, parameters, BALANCED, DECAY) < FLAT
    )


def test_ncm_decides_as_a_cosine_classifier_of_class_means(problem: Problem) -> None:
    cosine = CosineLinear(FEATURES, C)
    with torch.no_grad():
        for number in range(C):
            cosine.weight[number] = problem.features[problem.target == number].mean(dim=0)
        expected = cosine(problem.features).argmax(dim=1)
    assert torch.equal(problem.fit('ncm')(problem.features, problem.logits).argmax(1), expected)


def test_temperature_finds_the_factor_and_changes_no_decision(problem: Problem) -> None:
    fitted = fit(problem.features, 3 * problem.logits, problem.labels, COUNTS, 'temperature')
    one = fit(problem.features, problem.logits, problem.labels, COUNTS, 'temperature')
    temperature, own = (f.scores.log_temperature.exp().item() for f in (fitted, one))
    assert temperature == pytest.approx(3 * own, rel=1e-2)
    scores = fitted(problem.features, 3 * problem.logits)
    assert torch.equal(scores.argmax(1), problem.logits.argmax(1))


def test_iif_multiplies_as_the_loss_of_that_name_does(detector: Problem) -> None:
    for variant in INVERSE_FREQUENCIES:
        scores = detector.fit('iif', variant)(detector.features, detector.logits)
        loss = IIFLoss(COUNTS, variant, background=True)
        torch.testing.assert_close(scores, loss.adjusted(detector.logits).float())
        assert torch.equal(scores[:, C], detector.logits[:, C])


def test_norcal_divides_the_probabilities_of_the_foreground(detector: Problem) -> None:
    scores = detector.fit('norcal', 0.8)(detector.features, detector.logits)
    p = detector.logits.double().softmax(1)
    p[:, :C] /= torch.tensor(COUNTS).double() ** 0.8
    torch.testing.assert_close(
        scores.double().softmax(1), p / p.sum(1, keepdim=True), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('method', FOLDED)
def test_folded_the_classifier_makes_the_same_scores(problem: Problem, method: str) -> None:
    fitted = problem.fit(method)
    scores = fitted(problem.features, problem.logits)
    weight, bias = fitted.folded(problem.layer.weight, problem.layer.bias)
    torch.testing.assert_close(
        F.linear(problem.features, weight, bias), scores, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    'method',
    ['balanced-softmax', 'crt', 'disalign-constant', 'lws', 'marc', 'norcal', 'temperature'],
)
def test_folded_beside_a_background(detector: Problem, method: str) -> None:
    fitted = detector.fit(method)
    scores = fitted(detector.features, detector.logits)
    assert scores.shape == (len(detector.labels), C + 1)
    if method not in ('balanced-softmax', 'crt', 'temperature'):
        assert torch.equal(scores[:, C], detector.logits[:, C])
    weight, bias = fitted.folded(detector.layer.weight, detector.layer.bias)
    torch.testing.assert_close(
        F.linear(detector.features, weight, bias), scores, rtol=1e-5, atol=1e-5
    )


def test_a_varying_confidence_does_not_fold(problem: Problem) -> None:
    fitted = problem.fit('disalign')
    with pytest.raises(ValueError, match=r'disalign does not fold .* disalign-constant does'):
        fitted.folded(problem.layer.weight, problem.layer.bias)


def test_a_shift_gives_a_bias_to_a_classifier_that_has_none(problem: Problem) -> None:
    z = problem.features @ problem.layer.weight.T
    fitted = fit(problem.features, z, problem.labels, COUNTS, 'logit-adjustment', 1.0)
    weight, bias = fitted.folded(problem.layer.weight)
    torch.testing.assert_close(
        F.linear(problem.features, weight, bias), fitted(problem.features, z), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ('method', 'message'),
    [
        ('logit-adjustment', 'logit-adjustment cannot be fitted: beside a background .* norcal'),
        ('tau-norm', 'tau-norm cannot be fitted: the norm of a background'),
        ('ncm', 'ncm cannot be fitted: a background is many things'),
    ],
)
def test_what_has_no_meaning_beside_a_background_is_refused(
    detector: Problem, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detector.fit(method)


def test_what_needs_a_linear_classifier_or_a_background_says_so(problem: Problem) -> None:
    with pytest.raises(ValueError, match='norcal cannot be fitted: there is no background'):
        problem.fit('norcal')
    for method in ('balanced-softmax', 'crt', 'marc', 'ncm', 'tau-norm'):
        with pytest.raises(ValueError, match=f'{method} cannot be fitted: it changes the weights'):
            fit(problem.features, problem.logits, problem.labels, COUNTS, method)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(features=np.zeros((2, 3, 4))), r'expected features \(N, F\)'),
        (dict(labels=np.zeros(0, int)), 'expected as many features as logits and labels'),
        (dict(prior=[1, 2]), 'the class prior has 2 classes, but there are 4 logits'),
        (dict(prior=[1, 2, 3]), 'of a detector, say background=True'),
        (dict(logits=np.full((sum(COUNTS), C), np.nan)), 'logits are not all finite'),
        (dict(labels=np.arange(sum(COUNTS)) % 3), 'no sample of class 3'),
        (dict(weight=np.zeros((5, FEATURES))), r'the last layer has weight \(4, 6\) and bias'),
        (dict(weight=np.ones((C, FEATURES))), 'does not make these logits of these features'),
        (dict(method='lws', value=3.0), r'lws has no number, got value=3\.0'),
        (dict(method='crt', value=-1.0), r'weight decay of crt is a number of at least 0'),
        (
            dict(method='iif', value='base3'),
            "iif is one of raw, base2, base10, rel, .*'base3'",
        ),
        (dict(method='norcal', value='a'), "γ of norcal is a number of at least 0, got 'a'"),
        (dict(labels=np.full(sum(COUNTS), 4)), 'label 4 is of none of the 4 logits'),
    ],
)
def test_arrays_that_do_not_fit_are_named(problem: Problem, change: dict, message: str) -> None:
    own = dict(
        features=problem.features, logits=problem.logits, labels=problem.labels, prior=COUNTS
    )
    with pytest.raises(ValueError, match=message):
        fit(**{**own, **change})


@pytest.mark.parametrize('wrong', [-1.0, float('nan'), float('inf'), '0.5', True])
@pytest.mark.parametrize('name', ['value', 'exp_scale'])
def test_a_wrong_rho_is_refused_before_anything_runs(
    tmp_path: Path, name: str, wrong: object
) -> None:
    message = f'ρ of disalign is a number of at least 0, got {wrong!r}'
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrate('no.py', 'no.pth', out=tmp_path / 'out.pth', **{name: wrong})


@pytest.mark.parametrize('value', [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_the_value_of_a_method_is_a_number_of_any_kind(value: object, tmp_path: Path) -> None:
    assert checked_value('disalign', value) == float(value)
    assert type(checked_value('disalign', value)) is float
    # It is written into a config.
    options = Options(tmp_path / 'a.py', 'b.pth', tmp_path / 'c.pth', value=value)
    assert type(options.value) is type(options.exp_scale) is float
    with pytest.raises(ValueError, match='is a number of at least 0'):
        checked_value('disalign', np.bool_(True))


def test_labels_are_integers(problem: Problem) -> None:
    with pytest.raises(TypeError, match='labels are integers, got float64'):
        fit(problem.features, problem.logits, problem.labels.astype(float), COUNTS)


def test_scores_of_other_classes_are_refused(problem: Problem) -> None:
    fitted = problem.fit('logit-adjustment')
    with pytest.raises(ValueError, match=r'expected logits \(N, 4\) .* got \(215, 3\)'):
        fitted(problem.features, problem.logits[:, :3])


def test_numpy_in_numpy_out(problem: Problem) -> None:
    x, z = problem.features.numpy(), problem.logits.numpy()
    fitted = fit(x, z, problem.labels, ClassPrior.build(COUNTS), 'logit-adjustment', 1.0)
    assert isinstance(fitted(x, z), np.ndarray)


def test_the_example_of_the_docs_runs() -> None:
    text = (Path(__file__).parents[1] / 'docs/methods.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    names: dict = {}
    exec(code, names)
    expected = F.linear(names['features'], names['weight'], names['bias'])
    torch.testing.assert_close(names['scores'], expected, rtol=1e-4, atol=1e-4)
    listed = re.findall(r'^\| `([\w-]+)` \|', text, re.MULTILINE)
    assert sorted(listed) == method_names()
