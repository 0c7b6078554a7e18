"""Balanced Softmax and Balanced Sigmoid."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmdisalign.losses import BalancedSigmoidLoss, BalancedSoftmaxLoss

COUNTS = [60, 30, 10]


def softmax_reference(z: list[float], y: int, counts: list[float]) -> float:
    total = sum(n * math.exp(v) for n, v in zip(counts, z))
    return -math.log(counts[y] * math.exp(z[y]) / total)


def sigmoid_reference(z: list[float], y: int, counts: list[float], background: float = 0) -> float:
    n = sum(counts) + background
    loss = 0.0
    for j, (v, count) in enumerate(zip(z, counts)):
        p = 1 / (1 + math.exp(-(v + math.log(count / (n - count)))))
        loss -= math.log(p if j == y else 1 - p)
    return loss


def test_balanced_softmax_by_hand() -> None:
    # 3 : 1 and equal scores: 3 / 4 and 1 / 4.
    loss = BalancedSoftmaxLoss([3, 1], reduction='none')
    losses = loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])


def test_balanced_sigmoid_by_hand() -> None:
    # Log-odds log 3 and log(1/3): the probabilities are 3/4 and 1/4, whatever the class is.
    loss = BalancedSigmoidLoss([3, 1], reduction='none')
    losses = loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([2 * math.log(4 / 3), 2 * math.log(4)])


@pytest.mark.parametrize(
    ('loss', 'reference'),
    [
        (BalancedSoftmaxLoss(COUNTS), softmax_reference),
        (BalancedSigmoidLoss(COUNTS), sigmoid_reference),
    ],
)
def test_against_the_formula(loss: torch.nn.Module, reference) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(50, 3), torch.randint(0, 3, (50,))
    each = torch.tensor([reference(a, b, COUNTS) for a, b in zip(z.tolist(), y.tolist())])
    torch.testing.assert_close(loss(z, y, reduction_override='none'), each)
    torch.testing.assert_close(loss(z, y), each.mean())
    weight = torch.rand(50)
    torch.testing.assert_close(loss(z, y, weight, avg_factor=7), (each * weight).sum() / 7)
    y[:20] = loss.ignore_index
    assert not loss(z, y, reduction_override='none')[:20].any()
    torch.testing.assert_close(loss(z, y, reduction_override='sum'), each[20:].sum())


@pytest.mark.parametrize('kind', [BalancedSoftmaxLoss, BalancedSigmoidLoss])
def test_gradient_against_finite_differences(kind: type) -> None:
    torch.manual_seed(0)
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 2, 1, 255])
    loss = kind(COUNTS).double()
    assert torch.autograd.gradcheck(lambda scores: loss(scores, y), z)


def test_equal_counts_are_plain_cross_entropy() -> None:
    z, y = torch.randn(9, 4), torch.randint(0, 4, (9,))
    torch.testing.assert_close(BalancedSoftmaxLoss([5] * 4)(z, y), F.cross_entropy(z, y))
    # Two equally frequent classes: the log-odds are 0.
    target = F.one_hot(y % 2, 2).float()
    expected = F.binary_cross_entropy_with_logits(z[:, :2], target, reduction='none').sum(1).mean()
    torch.testing.assert_close(BalancedSigmoidLoss([5, 5])(z[:, :2], y % 2), expected)


def test_training_with_it_undoes_the_prior() -> None:
    """Features that say nothing: the scores end equal, so at test time no class is favoured."""
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    z = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([z], lr=1.0)
    loss = BalancedSoftmaxLoss(COUNTS)
    with torch.no_grad():
        z.copy_(torch.tensor([2.0, 0, -1]))
    for _ in range(300):
        optimizer.zero_grad()
        loss(z.expand(100, 3), y).backward()
        optimizer.step()
    assert (z - z.mean()).abs().max() < 1e-3


def test_maps_of_scores() -> None:
    z, y = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    flat = z.permute(0, 2, 3, 1).reshape(-1, 3)
    loss = BalancedSoftmaxLoss(COUNTS)
    torch.testing.assert_close(loss(z, y), loss(flat, y.flatten()))


@pytest.mark.parametrize(
    ('kind', 'reference'),
    [(BalancedSoftmaxLoss, softmax_reference), (BalancedSigmoidLoss, sigmoid_reference)],
)
def test_an_unseen_class_is_an_error_or_as_zero_count_says(kind: type, reference) -> None:
    z, y = torch.tensor([[1.0, 5.0, 0.0]]), torch.tensor([0])
    with pytest.raises(ValueError, match='zero frequency: class 1'):
        kind([60, 0, 10])
    ignoring = kind([60, 0, 10], zero_count='ignore')
    assert ignoring(z, y) == pytest.approx(reference([1, 0], 0, [60, 10]))
    as_the_rarest = kind([60, 0, 10], zero_count='min')
    assert as_the_rarest(z, y) == pytest.approx(reference([1, 5, 0], 0, [60, 10, 10]))


def test_background_is_a_class_with_a_count_or_left_out() -> None:
    z, y = torch.tensor([[0.5, -0.5, 1.0]]), torch.tensor([2])
    with_count = BalancedSoftmaxLoss([6, 2], background_count=30)
    assert with_count(z, y) == pytest.approx(softmax_reference([0.5, -0.5, 1.0], 2, [6, 2, 30]))
    left_out = BalancedSoftmaxLoss([8, 2], background_count='left_out')
    # The geometric mean of 8 and 2 is 4.
    assert left_out(z, y) == pytest.approx(softmax_reference([0.5, -0.5, 1.0], 2, [2, 0.5, 1]))
    sigmoid = BalancedSigmoidLoss([6, 2], background_count=30)
    expected = sigmoid_reference([0.5, -0.5], 2, [6, 2], background=30)
    assert sigmoid(z[:, :2], y) == pytest.approx(expected)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="got 'all'"):
        BalancedSoftmaxLoss(COUNTS, background_count='all')
    with pytest.raises(ValueError, match='got -1'):
        BalancedSoftmaxLoss(COUNTS, background_count=-1)
    with pytest.raises(ValueError, match=r'every sample is cat \(0\)'):
        BalancedSigmoidLoss({'cat': 5})
    with pytest.raises(ValueError, match='3 classes, but the scores have 2'):
        BalancedSoftmaxLoss(COUNTS)(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match='3 classes and background, but the scores have 3'):
        BalancedSoftmaxLoss(COUNTS, background_count=1)(torch.zeros(1, 3), torch.tensor([0]))


def test_each_library_has_them() -> None:
    from mmdet.registry import MODELS as MMDET
    from mmpretrain.registry import MODELS as MMPRETRAIN
    from mmseg.registry import MODELS as MMSEG

    import mmdisalign.classification
    import mmdisalign.detection
    import mmdisalign.segmentation  # noqa: F401

    cfg = dict(type='BalancedSoftmaxLoss', class_prior=COUNTS)
    assert len(MMSEG.build(dict(cfg)).log_counts) == 3
    assert len(MMPRETRAIN.build(dict(cfg)).log_counts) == 3
    assert len(MMDET.build(dict(cfg)).log_counts) == 4
    cfg = dict(type='BalancedSigmoidLoss', class_prior=COUNTS)
    assert MMPRETRAIN.build(dict(cfg)).num_classes == 3
    head = MMDET.build(
        dict(type='Shared2FCBBoxHead', in_channels=4, fc_out_channels=8, roi_feat_size=2)
        | dict(num_classes=3, loss_cls=cfg)
    )
    scores, _ = head(torch.randn(5, 4, 2, 2))
    assert scores.shape == (5, 3)
    labels, ones = torch.tensor([0, 1, 3, 3, 2]), torch.ones(5)
    losses = head.loss(scores, None, None, labels, ones, None, None)
    assert losses['loss_cls'] > 0
    assert 0 <= losses['acc_classes'] <= 100
    probabilities = head.loss_cls.get_activation(scores)
    assert probabilities.shape == (5, 4)
    assert not probabilities[:, 3].any()
