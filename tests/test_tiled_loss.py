"""The loss in tiles is the plain one, in value and gradient, and holds no upsampled scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mmdisalign.segmentation  # noqa: F401
from mmdisalign.losses import tiled, tiled_cross_entropy, weighted_cross_entropy

CLASSES = 5
NORMALIZERS = ('elements', 'valid', 'class_weight')
# Scores and labels: a multiple, not a multiple, odd and not square, the same, one row, smaller.
SIZES = [
    ((8, 8), (32, 32)),
    ((7, 9), (25, 40)),
    ((5, 3), (13, 8)),
    ((6, 6), (6, 6)),
    ((1, 1), (9, 4)),
    ((12, 10), (5, 7)),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows in a band, several bands in an image, the last one shorter."""
    monkeypatch.setattr(tiled, 'CPU_TILE', 3 * CLASSES * 40)


def problem(
    scores: tuple[int, int] = (7, 9), labels: tuple[int, int] = (25, 40), dtype: Any = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels, some of them ignored, and class weights."""
    torch.manual_seed(0)
    label = torch.randint(0, CLASSES, (2, *labels))
    label[torch.rand(label.shape) < 0.2] = 255
    pred = 3 * torch.randn(2, CLASSES, *scores, dtype=dtype)
    return pred.requires_grad_(), label, torch.rand(CLASSES, dtype=dtype) + 0.5


def plain(scores: Tensor, label: Tensor, class_weight: Tensor, align_corners: bool, **kwargs):
    """What the tiles replace: the loss and the accuracy of all scores."""
    scores = resize(
        scores, label.shape[1:], mode='bilinear', align_corners=align_corners, warning=False
    )
    loss = weighted_cross_entropy(scores, label, class_weight, ignore_index=255, **kwargs)
    return loss, accuracy(scores, label, ignore_index=255)


def both(align_corners: bool = False, problem_of: dict | None = None, **kwargs):
    """Loss, gradient and accuracy of the tiles and of the plain path."""
    results = []
    for in_tiles in (True, False):
        scores, label, class_weight = problem(**(problem_of or {}))
        if in_tiles:
            loss, correct = tiled_cross_entropy(
                scores,
                label,
                class_weight,
                align_corners=align_corners,
                ignore_index=255,
                **kwargs,
            )
            percent = 100 * correct / (label != 255).sum()
        else:
            loss, percent = plain(scores, label, class_weight, align_corners, **kwargs)
        (3 * loss).backward()
        results.append((loss, scores.grad, percent.view(())))
    return results


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('scores', 'labels'), SIZES)
def test_value_gradient_and_accuracy_are_those_of_the_plain_path(
    scores: tuple[int, int], labels: tuple[int, int], align_corners: bool
) -> None:
    tiles, expected = both(align_corners, {'scores': scores, 'labels': labels})
    torch.testing.assert_close(tiles, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('normalizer', NORMALIZERS)
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_each_reduction(normalizer: str, reduction: str) -> None:
    tiles, expected = both(normalizer=normalizer, reduction=reduction)
    torch.testing.assert_close(tiles, expected, rtol=1e-5, atol=1e-6)
    double = {'dtype': torch.float64}
    tiles, expected = both(problem_of=double, normalizer=normalizer, reduction=reduction)
    torch.testing.assert_close(tiles[:2], expected[:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('rows', [0.5, 1, 4, 25, 1000])
def test_the_size_of_a_tile_changes_nothing(monkeypatch: pytest.MonkeyPatch, rows: float) -> None:
    monkeypatch.setattr(tiled, 'CPU_TILE', int(rows * CLASSES * 40))
    tiles, expected = both()
    torch.testing.assert_close(tiles, expected, rtol=1e-5, atol=1e-7)


def test_against_plain_python() -> None:
    """One row of two scores to four pixels, half-pixel centres: weights 0, 1/4, 3/4 and 1."""
    scores = torch.tensor([[[[0.0, 2.0]], [[1.0, -1.0]]]])
    label = torch.tensor([[[0, 1, 255, 1]]])
    class_weight = torch.tensor([0.5, 2.0])
    losses = []
    for tap, target in zip((0.0, 0.25, 0.75, 1.0), label.flatten().tolist()):
        z = [(1 - tap) * left + tap * right for left, right in scores[0, :, 0].tolist()]
        if target != 255:
            log_sum = math.log(sum(math.exp(score) for score in z))
            losses.append(class_weight[target].item() * (log_sum - z[target]))
    loss, correct = tiled_cross_entropy(scores, label, class_weight, ignore_index=255)
    assert math.isclose(loss, sum(losses) / 4, rel_tol=1e-6)
    # z is (0, 1), (0.5, 0.5), a tie, (1.5, -0.5) and (2, -1).
    assert correct in (0, 1)


@pytest.mark.parametrize('align_corners', [False, True])
def test_gradient_against_finite_differences(align_corners: bool) -> None:
    scores, label, class_weight = problem((3, 2), (7, 5), torch.float64)
    for normalizer in NORMALIZERS:
        assert torch.autograd.gradcheck(
            lambda z, normalizer=normalizer: tiled_cross_entropy(
                z,
                label,
                class_weight,
                align_corners=align_corners,
                ignore_index=255,
                normalizer=normalizer,
            )[0],
            scores,
        )


@pytest.mark.parametrize('normalizer', NORMALIZERS)
def test_nothing_valid_gives_zero_with_a_gradient(normalizer: str) -> None:
    scores, label, class_weight = problem()
    loss, correct = tiled_cross_entropy(
        scores,
        torch.full_like(label, 255),
        class_weight,
        ignore_index=255,
        normalizer=normalizer,
    )
    loss.backward()
    assert loss == correct == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_under_autocast_too(dtype: torch.dtype) -> None:
    scores, label, class_weight = problem()
    half = scores.detach().to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss, _ = tiled_cross_entropy(half, label, class_weight, ignore_index=255)
    # As a gradient scaler does, so that small gradients are not 0 in half precision.
    (1024 * loss).backward()
    single = half.detach().float().requires_grad_()
    expected, _ = plain(single, label, class_weight, False)
    (1024 * expected).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(half.grad, single.grad.to(dtype))


def test_ties_count_as_in_mmseg() -> None:
    scores, label, class_weight = problem()
    tied = torch.zeros_like(scores)
    _, correct = tiled_cross_entropy(tied, label, class_weight, ignore_index=255)
    _, percent = plain(tied, label, class_weight, False)
    torch.testing.assert_close(100 * correct / (label != 255).sum(), percent.view(()))


def test_without_gradient_and_twice_differentiated() -> None:
    scores, label, class_weight = problem()
    loss, _ = tiled_cross_entropy(scores, label, class_weight, ignore_index=255)
    value, _ = tiled_cross_entropy(scores.detach(), label, class_weight, ignore_index=255)
    assert torch.equal(value, loss.detach())
    assert not value.requires_grad
    (gradient,) = torch.autograd.grad(loss**2, scores, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        gradient.sum().backward()


def test_a_loss_of_each_element_is_refused() -> None:
    with pytest.raises(ValueError, match="'none'"):
        tiled_cross_entropy(*problem(), reduction='none')


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def test_no_tensor_is_as_large_as_the_upsampled_scores() -> None:
    scores, label, class_weight = problem((8, 8), (64, 64))
    with LargestTensor() as largest:
        plain(scores, label, class_weight, False)[0].backward()
    assert largest.numel == 2 * CLASSES * 64 * 64
    with LargestTensor() as largest:
        tiled_cross_entropy(scores, label, class_weight, ignore_index=255)[0].backward()
    # Labels, or an image's scores in rows of their final width.
    assert largest.numel == max(2 * 64 * 64, CLASSES * 8 * 64)


PRIOR = [50, 30, 15, 4, 1]
NORM = dict(type='BN')
HEAD = dict(
    type='FCNHead', in_channels=16, in_index=0, channels=8, num_classes=CLASSES, norm_cfg=NORM
)  # fmt: skip
SAMPLER = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10)


@pytest.fixture
def scope() -> None:
    init_default_scope('mmseg')


def segmentor(head: dict | None = None, cascade: bool = False, **kwargs) -> torch.nn.Module:
    """A segmentor of stage 2 with weights that are the same whatever the arguments."""
    heads = {**HEAD, **(head or {})}
    if cascade:
        heads = [HEAD, dict(heads, type='OCRHead', ocr_channels=4)]
        kwargs['num_stages'] = 2
    torch.manual_seed(0)
    model = MODELS.build(
        ConfigDict(
            type=f'Calibrated{"Cascade" * cascade}EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(36, 28), seg_pad_val=255),
            backbone=dict(
                type='ResNetV1c', depth=18, base_channels=16, stem_channels=4, norm_cfg=NORM
            ),
            decode_head=heads,
            **{'class_prior': PRIOR, **kwargs},
        )
    )
    state = {key: value for key, value in model.state_dict().items() if 'calibration' not in key}
    model.load_state_dict(state)
    return model.train()


def losses_and_gradients(**kwargs) -> tuple[dict, list[Tensor]]:
    model = segmentor(**kwargs)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    label = torch.randint(0, CLASSES, (2, 1, 36, 28))
    label[:, :, :3] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=data)) for data in label]
    losses = model.loss(torch.randn(2, 3, 36, 28), samples)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return losses, [p.grad for p in model.parameters() if p.requires_grad]


GRW = dict(type='GRWCrossEntropyLoss', class_prior=PRIOR, exp_scale=0.5)


@pytest.mark.usefixtures('scope')
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        dict(cascade=True),
        dict(head=dict(align_corners=True)),
        dict(
            head=dict(
                loss_decode=dict(
                    GRW, normalizer='class_weight', loss_weight=0.4, loss_name='loss_tail'
                )
            ),
            class_prior=None,
        ),
    ],
    ids=['plain', 'cascade', 'align_corners', 'loss'],
)
def test_the_option_changes_neither_losses_nor_gradients(kwargs: dict) -> None:
    losses, gradients = losses_and_gradients(**kwargs)
    tiles, tiled_gradients = losses_and_gradients(**kwargs, tiled_loss=True)
    assert list(tiles) == list(losses)
    torch.testing.assert_close(tiles, losses, rtol=1e-5, atol=1e-7)
    assert len(gradients) == 4
    assert all(gradient.any() for gradient in gradients)
    torch.testing.assert_close(tiled_gradients, gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures('scope')
def test_it_trains_with_amp(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        'mmdisalign.segmentation.decode_heads.tiled_cross_entropy',
        lambda *args, **kwargs: calls.append(args) or tiled_cross_entropy(*args, **kwargs),
    )
    model = segmentor(tiled_loss=True)
    wrapper = build_optim_wrapper(
        model, dict(type='CPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    )
    meta = dict(img_shape=(36, 28), ori_shape=(36, 28), pad_shape=(36, 28))
    label = PixelData(data=torch.randint(0, CLASSES, (1, 36, 28)))
    data = dict(
        inputs=[torch.randint(0, 255, (3, 36, 28), dtype=torch.uint8)],
        data_samples=[SegDataSample(gt_sem_seg=label, metainfo=meta)],
    )
    assert model.train_step(data, wrapper)['loss'].dtype == torch.float32
    assert len(calls) == 1
    assert model.decode_head.calibration.margin.any()


@pytest.mark.usefixtures('scope')
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(stage='joint'), "not of 'joint'.*leave tiled_loss out"),
        (dict(head=dict(sampler=SAMPLER)), 'OHEMPixelSampler all scores.*leave the sampler out'),
        (
            dict(
                head=dict(loss_decode=dict(type='BalancedSoftmaxLoss', class_prior=PRIOR)),
                class_prior=None,
            ),
            'loss_decode is BalancedSoftmaxLoss: replace it',
        ),
        (
            dict(head=dict(loss_decode=dict(GRW, reduction='none')), class_prior=None),
            "another reduction than 'none'",
        ),
    ],
)
def test_what_cannot_be_tiled_is_refused_when_the_model_is_built(
    kwargs: dict, message: str
) -> None:
    segmentor(**kwargs)
    with pytest.raises(ValueError, match=message):
        segmentor(**kwargs, tiled_loss=True)
