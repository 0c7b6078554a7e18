"""GRW inside mmdet's own losses, against sums over elements and classes that are written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import losses
from torch import Tensor, nn

from mmdisalign.losses import reweight_loss

CLASSES, NUMBER = 4, 9
WEIGHT = torch.tensor([0.2, 0.6, 1.2, 2.0])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def reweighted(loss: nn.Module, on_sigmoids: bool = True) -> nn.Module:
    own = copy.deepcopy(loss)
    reweight_loss(own, WEIGHT, on_sigmoids=on_sigmoids)
    assert isinstance(own, type(loss)) and own.state_dict().keys() == loss.state_dict().keys()
    return own


def labels() -> Tensor:
    """Of all classes, and CLASSES: a negative."""
    return torch.arange(NUMBER) % (CLASSES + 1)


def qualities() -> Tensor:
    """A target (N, C) above 0 at the label."""
    target = torch.zeros(NUMBER, CLASSES + 1)
    target[torch.arange(NUMBER), labels()] = torch.rand(NUMBER).clamp(min=0.1)
    return target[:, :CLASSES]


def focal(p: Tensor, y: Tensor) -> Tensor:
    return -(0.25 * y * (1 - p) ** 2 * p.log() + 0.75 * (1 - y) * p**2 * (1 - p).log())


def quality_focal(p: Tensor, y: Tensor) -> Tensor:
    return (y - p).abs() ** 2 * F.binary_cross_entropy(p, y, reduction='none')


def varifocal(p: Tensor, y: Tensor) -> Tensor:
    weight = torch.where(y > 0, y, 0.75 * p**2)
    return weight * F.binary_cross_entropy(p, y, reduction='none')


def binary(p: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy(p, y, reduction='none')


CASES = {
    'focal': (losses.FocalLoss(), focal, 'labels'),
    'quality focal': (losses.QualityFocalLoss(), quality_focal, 'both'),
    'quality focal, a map': (losses.QualityFocalLoss(), quality_focal, 'map'),
    'varifocal': (losses.VarifocalLoss(), varifocal, 'map'),
    'binary': (losses.CrossEntropyLoss(use_sigmoid=True), binary, 'map'),
}


def target_of(kind: str) -> tuple[Tensor, Tensor]:
    """What the loss is given, and the target of each term (N, C)."""
    quality = qualities()
    if kind == 'labels':
        return labels(), (quality > 0).float()
    if kind == 'both':
        return (labels(), quality.sum(1)), quality
    return quality, quality


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('weighted', [False, True])
def test_the_positive_term_of_each_class_has_its_weight(case: str, weighted: bool) -> None:
    loss, term, kind = CASES[case]
    scores = torch.randn(NUMBER, CLASSES, requires_grad=True)
    target, y = target_of(kind)
    of_elements = torch.rand(NUMBER) if weighted else torch.ones(NUMBER)
    # Where the target is a map, so is the weight, but for the quality focal loss.
    is_map = kind == 'map' and 'quality' not in case
    given = of_elements[:, None].expand(-1, CLASSES) if is_map else of_elements
    found = reweighted(loss)(scores, target, given if weighted else None, avg_factor=3.0)
    w = torch.where(y > 0, WEIGHT, torch.ones(1))
    expected = (w * term(scores.sigmoid(), y) * of_elements[:, None]).sum() / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    theirs, ours = (torch.autograd.grad(value, scores)[0] for value in (expected, found))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_equal_weights_change_nothing(case: str) -> None:
    loss, _, kind = CASES[case]
    own = copy.deepcopy(loss)
    reweight_loss(own, torch.ones(CLASSES), on_sigmoids=True)
    scores, (target, _) = torch.randn(NUMBER, CLASSES), target_of(kind)
    expected = loss(scores, target, avg_factor=3.0)
    torch.testing.assert_close(own(scores, target, avg_factor=3.0), expected)


def test_peaks_of_a_heat_map_have_the_weight_of_their_class() -> None:
    loss = losses.GaussianFocalLoss()
    p = torch.rand(2, CLASSES, 3, 3).clamp(0.1, 0.9)
    target = torch.rand(2, CLASSES, 3, 3) * 0.9
    target[0, 1, 2, 0] = target[1, 3, 1, 1] = 1.0
    found = reweighted(loss)(p, target, avg_factor=2.0)
    peak = target == 1
    positive = -((1 - p) ** 2) * p.log() * peak * WEIGHT.view(1, -1, 1, 1)
    negative = -(p**2) * (1 - p).log() * (1 - target) ** 4
    torch.testing.assert_close(found, (positive + negative).sum() / 2, rtol=1e-4, atol=1e-4)


def test_a_map_with_the_classes_last_is_no_heat_map() -> None:
    scores, y = torch.randn(2, 6, CLASSES), torch.zeros(2, 6, CLASSES)
    y[0, 5, 3] = y[1, 2, 0] = 1.0
    loss = losses.CrossEntropyLoss(use_sigmoid=True, reduction='sum')
    weight = torch.rand(2, 6, 1)
    found = reweighted(loss)(scores, y, weight)
    w = torch.where(y > 0, WEIGHT, torch.ones(1))
    expected = (w * weight * binary(scores.sigmoid(), y)).sum()
    torch.testing.assert_close(found, expected)


def test_without_a_mean_each_element_or_term_has_its_own() -> None:
    scores, (target, y) = torch.randn(NUMBER, CLASSES), target_of('labels')
    found = reweighted(losses.FocalLoss())(scores, target, reduction_override='none')
    w = torch.where(y > 0, WEIGHT, torch.ones(1))
    torch.testing.assert_close(found, w * focal(scores.sigmoid(), y), rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # an assignment, which stays the library's
        plain = losses.FocalLoss()(scores, target, reduction_override='none')
        found = reweighted(losses.FocalLoss())(scores, target, reduction_override='none')
    assert torch.equal(found, plain)


def test_of_a_softmax_each_element_has_the_weight_of_its_class_and_no_object_its_own() -> None:
    no_object = 0.1
    loss = losses.CrossEntropyLoss(class_weight=[1.0] * CLASSES + [no_object])
    scores = torch.randn(NUMBER, CLASSES + 1)
    found = reweighted(loss, on_sigmoids=False)(scores, labels(), avg_factor=3.0)
    weight = torch.cat([WEIGHT, torch.tensor([no_object])])[labels()]
    expected = (weight * F.cross_entropy(scores, labels(), reduction='none')).sum() / 3
    torch.testing.assert_close(found, expected)


def test_what_seesaw_has_counted_stays() -> None:
    loss = losses.SeesawLoss(num_classes=CLASSES)
    loss.cum_samples.copy_(torch.arange(CLASSES + 1.0))
    own = reweighted(loss, on_sigmoids=False)
    scores = torch.randn(NUMBER, CLASSES + 2, requires_grad=True)
    sum(own(scores, labels()).values()).backward()
    assert own.cum_samples.tolist() == list(range(CLASSES + 1))
    assert scores.grad.abs().sum() > 0
