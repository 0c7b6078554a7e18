"""The seed papers' detection losses: the authors' numbers, and what all losses keep to.

The tables have inputs and outputs of each author's own code, in float64 and to
twelve digits, its repository and commit beside each; where that differs from the formula, the
formula is followed (EFL where the released code overflows).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmdisalign import detection, losses
from mmdisalign.calibration import inverse_frequency
from mmdisalign.losses.gradient_ratio import GradientRatio

TABLES = Path(__file__).parent / 'tables'
TABLE = json.loads((TABLES / 'detection_losses.json').read_text())
INVERSE = json.loads((TABLES / 'inverse_frequency.json').read_text())
STATE = {'sums': 'gradient_ratio.sums', 'confusion': 'balance.confusion'}
STATE.update(instances='balance.instances', cum_samples='cum_samples')


def build(case: dict) -> nn.Module:
    """The loss of a case, with the state it has before."""
    module = detection if case['loss'] == 'SeesawPCBLoss' else losses
    options = dict(case['options'])
    constant = options.pop('constant_weight', False)
    loss = getattr(module, case['loss'])(**options).double()
    if constant:  # the other reading of the paper
        weights = loss.class_weights
        loss.class_weights = lambda *args: weights(*args).detach()
    for name, value in case.get('before', {}).items():
        loss.get_buffer(STATE[name]).copy_(torch.tensor(value, dtype=torch.float64))
    for own in loss.modules():
        if isinstance(own, losses.PairwiseBalance):
            own.progress = case['epoch']
    return loss


def called(
    loss: nn.Module, call: dict, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses by name, and the gradient of their sum."""
    scores = torch.tensor(call['scores'], dtype=torch.float64, requires_grad=True)
    weight = call.get('weight')
    if 'uniform' in call:
        drawn = torch.tensor(call['uniform'], dtype=torch.float64)
        monkeypatch.setattr(torch, 'rand_like', lambda _: drawn)
    found = loss(
        scores,
        torch.tensor(call['label']),
        None if weight is None else torch.tensor(weight, dtype=torch.float64),
        avg_factor=call.get('avg_factor'),
    )
    found = found if isinstance(found, dict) else {'loss': found}
    return found, scores


@pytest.mark.parametrize('case', TABLE, ids=[case['id'] for case in TABLE])
def test_it_is_what_the_authors_have(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    if case['loss'] == 'SeesawPCBLoss':
        from mmengine.logging import MessageHub

        hub = MessageHub.get_current_instance()
        monkeypatch.setattr(type(hub), 'get_info', lambda *_: case['epoch'])
    # Twelve digits are in the table; mmdet adds 1e-7 to what a mean divides by.
    rel = 1e-7 if case['loss'] == 'SeesawPCBLoss' else 1e-9
    close = {'rtol': rel, 'atol': rel / 10}
    loss = build(case)
    for number, calls in enumerate(case.get('iterations', [])):
        made = [called(loss, call, monkeypatch) for call in calls]
        sum(value for found, _ in made for value in found.values()).backward()
        for call, (found, scores) in zip(calls, made):
            expected = call['loss'] if isinstance(call['loss'], dict) else {'loss': call['loss']}
            for name, value in expected.items():
                assert found[name].item() == pytest.approx(value, rel=rel)
            grad = torch.tensor(call['grad'], dtype=torch.float64)
            torch.testing.assert_close(scores.grad, grad, **close)
        if 'states' in case:
            for own in loss.modules():
                if isinstance(own, GradientRatio):
                    own.begin()  # what an iteration added counts from the next one on
            for name, value in case['states'][number].items():
                expected = torch.tensor(value, dtype=torch.float64)
                torch.testing.assert_close(loss.get_buffer(STATE[name]).double(), expected, **close)
    if 'factors' in case:
        factors = torch.tensor(case['factors'], dtype=torch.float64)
        torch.testing.assert_close(loss.factors, factors, **close)
    if 'probabilities' in case and hasattr(loss, 'probabilities'):
        scores, expected = (torch.tensor(v, dtype=torch.float64) for v in case['probabilities'])
        found = loss.probabilities(scores)
        torch.testing.assert_close(found[:, : expected.shape[1]], expected, **close)


def test_the_weights_of_eql_v2_follow_the_ratio() -> None:
    ratio = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.8, 0.9, 1.0, 1.5, 100.0], dtype=torch.float64)
    positive, negative = losses.EQLv2Loss(9).weights_of(ratio)
    known = [6.77241496197701e-05, 0.000746028833836696, 0.0265969935768658, 0.231475216500982]
    known += [0.5, 0.768524783499018, 0.916827303506078, 0.999775183229767, 1.0]
    assert negative.tolist() == pytest.approx(known, rel=1e-12)
    assert positive.tolist() == pytest.approx([1 + 4 * (1 - own) for own in known], rel=1e-12)


def test_a_gumbel_loss_is_finite_and_ends_where_scores_are_clamped() -> None:
    # The released code divides by max(p (1 - p), 1e-12), by which a positive below -3.3 fades; the
    # formula's derivative, minus its loss, does not.
    scores = torch.tensor([-6.0, -3.9, -3.5, 0.0, 9.5, 12.0], dtype=torch.float64)
    scores.requires_grad_()
    found = losses.links.LINKS['gumbel'].losses(scores, torch.tensor([0.0, 1, 0, 0, 0, 0]).double())
    known = [0, 49.4024491055302, 4.10782519111309e-15, 0.458675145387082, 9.50003742568149]
    assert found.tolist() == pytest.approx([*known, 10.000022699879], rel=1e-9, abs=1e-14)
    found.sum().backward()
    slopes = [0, -49.4024491055302, 1.37458827543356e-13, 0.581976706869326, 0.999962574551956, 0]
    assert scores.grad.tolist() == pytest.approx(slopes, rel=1e-9, abs=1e-12)
    assert losses.links.LINKS['gumbel'].score(6.17979e-4) == pytest.approx(-2, abs=1e-5)


@pytest.mark.parametrize('variant', INVERSE['formulas']['factors'])
def test_inverse_frequencies_are_those_of_the_released_tables(variant: str) -> None:
    known, lvis = INVERSE['formulas'], INVERSE['lvis_v1']
    found = inverse_frequency(known['counts'], variant, number=known['number'])
    assert found.tolist() == pytest.approx(known['factors'][variant], rel=1e-10)
    images = {'source': 'lvis_v1', 'unit': 'images'}
    found = inverse_frequency(images, variant, number=lvis['number'])[lvis['classes']]
    assert found.tolist() == pytest.approx(lvis['factors'][variant], rel=1e-10)


def test_instances_may_be_counted_in_the_place_of_images() -> None:
    found = inverse_frequency('lvis_v1', 'raw')[INVERSE['lvis_v1']['classes']]
    assert found.tolist() == pytest.approx(INVERSE['lvis_v1']['of_instances'], rel=1e-10)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'variant': 'log'}, 'variant must be one of raw, base2, base10, rel, normit, gombit'),
        ({'zero_count': 'ignore'}, "zero_count='ignore' gives no factor"),
        ({'number': 50}, r'class 0 is in 60 of 50 samples: give their number'),
    ],
)
def test_an_inverse_frequency_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inverse_frequency([60, 25, 9], **options)


C = 4
COUNTS = dict(class_prior=[60, 25, 9, 0], num_images=100)  # one class was never seen
BINARY = {
    'EQLLoss': dict(COUNTS, lambda_=0.1),
    'gumbel EQLLoss': dict(COUNTS, lambda_=0.1, link='gumbel'),
    'DropLoss': dict(COUNTS, lambda_=0.1),
    'EQLv2Loss': dict(num_classes=C),
    'EqualizedFocalLoss': dict(num_classes=C),
    'GradLibraLoss': dict(num_classes=C),
    'GumbelLoss': dict(num_classes=C),
    'EQLv2PCBLoss': dict(num_classes=C, balance=dict(begin=0)),
}
SOFTMAX = {
    'SoftmaxEQLLoss': dict(COUNTS, lambda_=0.1, background=True),
    'IIFLoss': dict(class_prior=[60, 25, 9, 0], num_samples=100, zero_count='min', background=True),
    'PCBLoss': dict(num_classes=C, begin=0),
    'SeesawPCBLoss': dict(num_classes=C, balance=dict(begin=0)),
}
ALL = {**BINARY, **SOFTMAX}
UNWEIGHED = [name for name in ALL if name != 'SeesawPCBLoss']  # mmdet's counts every object
STATEFUL = ['EQLv2Loss', 'EqualizedFocalLoss', 'EQLv2PCBLoss', 'PCBLoss', 'SeesawPCBLoss']


def made(name: str) -> nn.Module:
    return getattr(detection, name.split()[-1])(**copy.deepcopy(ALL[name]))


def batch(name: str, seed: int = 0, number: int = 12) -> tuple[Tensor, Tensor]:
    """Scores and labels, each class and the background among them but the last class."""
    generator = torch.Generator().manual_seed(seed)
    columns = getattr(made(name), 'num_scores', C + 2 if 'Seesaw' in name else C + 1)
    scores = 2 * torch.randn(number, columns, generator=generator)
    return scores, torch.tensor([0, 1, 2, C, C, C] * (number // 6))


def total(found: Tensor | dict[str, Tensor]) -> Tensor:
    return sum(found.values()) if isinstance(found, dict) else found


@pytest.mark.parametrize('name', UNWEIGHED)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, (scores, label) = made(name).double(), batch(name)
    for own in loss.modules():
        if isinstance(own, losses.PairwiseBalance):  # what it holds has no gradient, and stays
            own.momentum, own.scaled = 1.0, False
            own.confusion.copy_(torch.rand(C, C).softmax(1)), own.instances.fill_(1.0)

    def of(values: Tensor) -> Tensor:
        torch.manual_seed(0)  # of what is left out at random
        return total(copy.deepcopy(loss)(values, label))

    # Scores of Gumbel losses within their clamps.
    assert torch.autograd.gradcheck(of, scores.double().clamp(-3, 3).requires_grad_())


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    scores, label = batch(name)
    found = []
    for values in (scores.to(dtype), scores.to(dtype).float()):
        torch.manual_seed(0)
        found.append(total(made(name)(values, label)))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ALL)
def test_autocast_is_computed_in_single(name: str) -> None:
    (scores, label), found = batch(name), []
    for enabled in (False, True):
        torch.manual_seed(0)
        loss = made(name)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            value = total(loss(scores.clone().requires_grad_(), label))
        found.append((value, dict(loss.named_buffers())))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize('name', STATEFUL)
def test_what_is_not_trained_with_moves_no_state(name: str) -> None:
    loss, (scores, label) = made(name), batch(name)
    cumulated = 'cum_samples'  # mmdet's, which counts all calls
    before = {k: v.clone() for k, v in loss.named_buffers() if k != cumulated}
    with torch.no_grad():  # as samplers and assigners ask
        loss(scores, label)
    loss.eval()(scores.requires_grad_(), label)
    after = dict(loss.named_buffers())
    assert all(torch.equal(after[key], value) for key, value in before.items())
    total(loss.train()(scores, label)).backward()
    assert any(not torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize('name', ['EQLv2Loss', 'EqualizedFocalLoss', 'GradLibraLoss'])
def test_what_is_of_sigmoids_takes_no_other_link(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is of sigmoids alone, got link='gumbel'"):
        getattr(losses, name)(3, link='gumbel')


@pytest.mark.parametrize('name', UNWEIGHED)
def test_what_has_no_weight_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, label = batch(name)
    kept = torch.tensor([1.0, 0, 1, 1, 0, 1] * 2)
    monkeypatch.setattr(torch, 'rand_like', lambda values: torch.full_like(values, 0.5))
    whole, part = made(name), made(name)
    found = []
    for loss, rows, weight in ((whole, slice(None), kept), (part, kept > 0, None)):
        values = scores[rows].clone().requires_grad_()
        value = total(loss(values, label[rows], weight, avg_factor=5.0))
        value.backward()
        loss(values, label[rows], weight, avg_factor=5.0)  # what the first added counts now
        found.append((value, values.grad if weight is None else values.grad[kept > 0]))
        if weight is not None:
            assert not values.grad[kept == 0].any()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(dict(whole.named_buffers()), dict(part.named_buffers()))


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('labels', ['background', 'objects'])
def test_batches_of_one_kind_are_finite(name: str, labels: str) -> None:
    loss, (scores, label) = made(name), batch(name)
    label = torch.full_like(label, C) if labels == 'background' else label % 3
    for _ in range(3):
        values = (40 * scores).requires_grad_()
        value = total(loss(values, label))
        value.backward()
        assert value.isfinite() and values.grad.isfinite().all()


@pytest.mark.parametrize('name', [*BINARY, 'PCBLoss'])
def test_negative_labels_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, label = batch(name)
    monkeypatch.setattr(torch, 'rand_like', lambda values: torch.full_like(values, 0.5))
    ignored = label.clone()
    ignored[1], ignored[5] = -1, C + 1
    weight = torch.ones(len(label))
    weight[[1, 5]] = 0
    found = [
        made(name)(scores, own, given, avg_factor=3.0)
        for own, given in ((ignored, None), (label, weight))
    ]
    torch.testing.assert_close(*found)
    each = made(name)(scores, ignored, reduction_override='none')
    each = each[:, None].expand_as(scores) if each.dim() == 1 else each
    assert each.shape == scores.shape and not each[[1, 5]].any()


@pytest.mark.parametrize('name', ALL)
def test_compiled_it_has_the_same_values(name: str) -> None:
    scores, label = batch(name)
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        loss = made(name)
        call = torch.compile(loss, backend='aot_eager') if compiled else loss
        values = scores.clone().requires_grad_()
        for _ in range(3):
            torch.manual_seed(0)
            value = total(call(values, label))
            value.backward()
        found.append((value.detach(), values.grad, dict(loss.named_buffers())))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize('name', STATEFUL)
def test_a_resumed_loss_is_an_unbroken_one(name: str) -> None:
    unbroken, values = made(name), []
    for seed in range(4):
        if seed == 2:
            resumed = made(name)
            resumed.load_state_dict(copy.deepcopy(unbroken.state_dict()))
        for loss in (unbroken, resumed) if seed >= 2 else (unbroken,):
            scores, label = batch(name, seed)
            value = total(loss(scores.requires_grad_(), label))
            value.backward()
            values.append(value.detach())
    assert torch.equal(values[2], values[3]) and torch.equal(values[4], values[5])
    ended = [dict(loss.named_buffers()) for loss in (unbroken, resumed)]
    assert all(torch.equal(value, ended[1][key]) for key, value in ended[0].items())
