"""What can go wrong on a GPU and shows without one.

Under PyTorch's fake tensors, a CUDA tensor has a device and a shape but no numbers: a tensor that
was left on the CPU is an error, and so is code that waits for a number. A backward pass would need
the driver.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from project import run
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

from mmdisalign import losses
from mmdisalign.calibration import (
    AdaptiveCalibration,
    CausalLinear,
    ClassScale,
    CosineConv2d,
    CosineLinear,
    VMFLinear,
    Whitening,
)
from mmdisalign.losses import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    GRWCrossEntropyLoss,
    tiled,
    tiled_cross_entropy,
)
from mmdisalign.onepass import fit, fitting, method_names
from mmdisalign.onepass.fitting import Samples

CLASSES, CHANNELS = 5, 7
COUNTS = [50, 30, 15, 4, 1]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
POSITIONS = [(), (3,), (4, 3)]
# What has a loss of maps and rows, and what has one of rows alone. Where 'valid' elements are
# counted the count is waited for, see WAITS.
LOSSES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: GRWCrossEntropyLoss(COUNTS, 0.5), (4, 3)),
    (lambda: GRWCrossEntropyLoss(COUNTS, 0.5, normalizer='class_weight'), ()),
    (lambda: GRWCrossEntropyLoss(COUNTS[1:], 0.5, background_weight=2.0), ()),
    (lambda: BalancedSoftmaxLoss(COUNTS), (4, 3)),
    (lambda: BalancedSoftmaxLoss(COUNTS[1:], background_count='left_out'), ()),
    (lambda: BalancedSigmoidLoss(COUNTS), ()),
]


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    """All tensors are fake, those of CUDA too."""
    with FakeTensorMode() as mode:
        yield mode


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device='cuda').to(dtype)


def cuda_labels(*shape: int) -> Tensor:
    return torch.randint(0, CLASSES, shape, device='cuda')


def on_gpu(module: nn.Module) -> nn.Module:
    """Move a module; its own ``to`` does not swap fake parameters that PyTorch still refers to."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(parameter.detach().to('cuda'))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to('cuda')
    return module


def check(output: Tensor, shape: tuple[int, ...]) -> None:
    """It is on the GPU, of a shape, and in float32 whatever the precision of the scores."""
    assert output.device.type == 'cuda'
    assert output.shape == shape
    assert output.dtype == torch.float32


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('positions', POSITIONS)
def test_calibration(positions: tuple[int, ...], dtype: torch.dtype) -> None:
    calibration = on_gpu(AdaptiveCalibration(CLASSES, CHANNELS))
    logits = cuda(2, CLASSES, *positions, dtype=dtype)
    features = cuda(2, CHANNELS, *positions, dtype=dtype)
    check(calibration(logits, features), (2, CLASSES, *positions))


@pytest.mark.usefixtures('fake')
def test_other_classifiers() -> None:
    scores, features = cuda(2, CLASSES), cuda(2, CHANNELS)
    check(on_gpu(ClassScale(CLASSES))(scores, features), (2, CLASSES))
    check(on_gpu(CosineLinear(CHANNELS, CLASSES))(features), (2, CLASSES))
    maps = cuda(2, CHANNELS, 4, 3)
    check(on_gpu(CosineConv2d(CHANNELS, CLASSES))(maps), (2, CLASSES, 4, 3))


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(('build', 'positions'), LOSSES)
def test_losses(
    build: Callable[[], nn.Module], positions: tuple[int, ...], dtype: torch.dtype
) -> None:
    scores, label = cuda(2, CLASSES, *positions, dtype=dtype), cuda_labels(2, *positions)
    loss = on_gpu(build())
    check(loss(scores, label), ())
    check(loss(scores, label, reduction_override='sum'), ())
    weight = cuda(2, *positions)
    check(loss(scores, label, weight, reduction_override='none'), (2, *positions))


SHARES = dict(class_prior=COUNTS, num_images=60, lambda_=0.1)
# Of the rows of one task alone: built with, and how many scores beside the classes'.
OF_ROWS: list[tuple[str, dict, int]] = [
    ('CDBLoss', dict(class_prior=COUNTS), 0),
    ('ClassBalancedLoss', dict(class_prior=COUNTS), 0),
    ('DifficultyNetLoss', dict(class_prior=COUNTS), 0),
    ('DropLoss', SHARES, 0),
    ('EQLLoss', SHARES, 0),
    ('EQLv2Loss', dict(num_classes=CLASSES), 1),
    ('EQLv2PCBLoss', dict(num_classes=CLASSES), 1),
    ('EqualizedFocalLoss', dict(num_classes=CLASSES), 0),
    ('GCLLoss', dict(class_prior=COUNTS), 0),
    ('GradLibraLoss', dict(num_classes=CLASSES), 0),
    ('GumbelLoss', dict(num_classes=CLASSES), 1),
    ('IIFLoss', dict(class_prior=COUNTS), 0),
    ('LADELoss', dict(class_prior=COUNTS), 0),
    ('LDAMLoss', dict(class_prior=COUNTS), 0),
    ('PCBLoss', dict(num_classes=CLASSES), 1),
    ('SoftmaxEQLLoss', SHARES, 0),
    ('VSLoss', dict(class_prior=COUNTS), 0),
]


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize(('name', 'options', 'more'), OF_ROWS, ids=[row[0] for row in OF_ROWS])
def test_losses_of_rows(name: str, options: dict, more: int) -> None:
    loss = on_gpu(getattr(losses, name)(**options))
    scores = cuda(3, CLASSES + more).requires_grad_()
    check(loss(scores, cuda_labels(3), cuda(3)), ())


@pytest.mark.usefixtures('fake')
def test_normalised_classifiers() -> None:
    for layer in (CausalLinear(8, CLASSES), VMFLinear(8, CLASSES)):
        check(on_gpu(layer)(cuda(2, 8)), (2, CLASSES))
        check(on_gpu(layer).eval()(cuda(2, 8)), (2, CLASSES))
    check(on_gpu(Whitening(8, num_groups=2))(cuda(9, 8)), (9, 8))


@pytest.mark.usefixtures('fake')
def test_a_loss_that_was_left_on_the_cpu_is_found() -> None:
    with pytest.raises(RuntimeError, match='device'):
        GRWCrossEntropyLoss(COUNTS, 0.5)(cuda(2, CLASSES), cuda_labels(2))


@pytest.mark.usefixtures('fake')
def test_code_that_waits_for_the_gpu_is_found() -> None:
    with pytest.raises(DataDependentOutputException):
        cuda(2).sum().item()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('tile', [100, 10**6])
def test_tiled_loss(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tile: int
) -> None:
    make_bands = tiled._bands

    def bands(scores: Tensor, *args: Any) -> list[tiled._Band]:
        # They are made of numbers, which are on the CPU.
        with unset_fake_temporarily():
            real = make_bands(torch.empty(scores.shape, dtype=scores.dtype), *args)
        return [band._replace(taps=fake.from_tensor(band.taps).to(scores.device)) for band in real]

    monkeypatch.setattr(tiled, '_bands', bands)
    monkeypatch.setattr(tiled, 'CPU_TILE', tile)
    scores, label = cuda(2, CLASSES, 4, 3, dtype=dtype), cuda_labels(2, 16, 12)
    loss, hits = tiled_cross_entropy(scores, label, cuda(CLASSES), normalizer='class_weight')
    check(loss, ())
    assert hits.device.type == 'cuda'


@pytest.mark.usefixtures('fake')
def test_a_segmentors_head() -> None:
    from mmdisalign.segmentation.decode_heads import DisAlignFCNHead

    loss = dict(type='mmseg.GRWCrossEntropyLoss', class_prior=COUNTS, exp_scale=0.2)
    head = DisAlignFCNHead(in_channels=CHANNELS, channels=8, num_classes=CLASSES, loss_decode=loss)
    check(on_gpu(head)([cuda(2, CHANNELS, 4, 3)]), (2, CLASSES, 4, 3))


@pytest.mark.usefixtures('fake')
def test_a_classifiers_head() -> None:
    from mmpretrain.structures import DataSample

    from mmdisalign.classification import DisAlignLinearClsHead

    loss = dict(type='mmpretrain.GRWCrossEntropyLoss', class_prior=COUNTS, exp_scale=1.2)
    head = on_gpu(DisAlignLinearClsHead(CLASSES, CHANNELS, loss=loss))
    samples = [DataSample() for _ in range(2)]
    for sample in samples:
        sample.set_field(cuda_labels(1), 'gt_label')
    check(head.loss((cuda(2, CHANNELS),), samples)['loss'], ())


@pytest.mark.usefixtures('fake')
def test_a_detectors_classifier() -> None:
    from mmdisalign.detection.classifiers import DisAlignCosineLinear, DisAlignLinear

    for kind in (DisAlignLinear, DisAlignCosineLinear):
        classifier = on_gpu(kind(CHANNELS, CLASSES + 1))
        check(classifier(cuda(2, CHANNELS)), (2, CLASSES + 1))


@pytest.mark.parametrize(
    'build',
    [
        lambda: AdaptiveCalibration(CLASSES, CHANNELS),
        lambda: ClassScale(CLASSES),
        lambda: CosineLinear(CHANNELS, CLASSES),
        lambda: CosineConv2d(CHANNELS, CLASSES),
        *(build for build, _ in LOSSES),
    ],
)
def test_what_is_built_is_built_on_the_device_of_the_context(
    build: Callable[[], nn.Module],
) -> None:
    with torch.device('meta'):
        module = build()
    tensors = [*module.parameters(), *module.buffers()]
    assert tensors
    assert all(tensor.is_meta for tensor in tensors)


def samples_on(device: str, number: int = 300) -> Samples:
    rng = np.random.default_rng(0)
    label = rng.choice(CLASSES, number, p=np.array(COUNTS) / sum(COUNTS))
    logits = rng.normal(size=(number, 1, CLASSES)).astype(np.float32)
    logits[np.arange(number), 0, label] += 1
    return Samples(
        features=rng.normal(size=(number, 1, CHANNELS)).astype(np.float16),
        logits=logits,
        taps=np.ones((number, 1), np.float32),
        label=label,
        weight=np.ones(number),
        image=np.arange(number),
        device=device,
    )


@pytest.mark.usefixtures('fake')
@pytest.mark.parametrize('chooses', [False, True])
def test_the_loss_of_a_fit_is_computed_where_the_samples_are(
    monkeypatch: pytest.MonkeyPatch, chooses: bool
) -> None:
    def counted(scores: Tensor, losses: Tensor, chunk: fitting.Chunk) -> Tensor:
        return chunk.weight * (losses > 0)

    monkeypatch.setattr(fitting, '_room', lambda device: 10**9)
    chunks = samples_on('cuda').chunks(np.arange(300))
    assert {tensor.device.type for chunk in chunks for tensor in chunk} == {'cuda'}
    calibration = on_gpu(AdaptiveCalibration(CLASSES, CHANNELS))
    options = {'counted': counted} if chooses else {}
    # All of it but the number at its end, which only a GPU knows.
    with pytest.raises(DataDependentOutputException):
        fitting.sampled_loss(calibration, chunks, cuda(CLASSES), 300.0, **options)
    left = AdaptiveCalibration(CLASSES, CHANNELS)
    with pytest.raises(RuntimeError, match='device'):
        fitting.sampled_loss(left, chunks, cuda(CLASSES), 300.0, **options)


def test_samples_that_do_not_fit_are_moved_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    monkeypatch.setattr(fitting, 'CHUNK', 100 * (CHANNELS + CLASSES))
    for room in (10**9, 0):
        monkeypatch.setattr(fitting, '_room', lambda device, room=room: room)
        parts.append(samples_on('meta').chunks(np.arange(300)))
        assert all(tensor.is_meta for chunk in parts[-1] for tensor in chunk)
        assert len(list(parts[-1])) == len(list(parts[-1])) == 3  # it is passed again and again
    held, moved = parts
    assert isinstance(held, list) and not isinstance(moved, list)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('method', method_names())
def test_methods_are_fitted_on_a_gpu_to_what_they_are_on_the_cpu(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(CLASSES, CHANNELS, generator=generator)
    features = torch.randn(900, CHANNELS, generator=generator)
    logits = features @ weight.T
    labels = (logits + torch.randn(900, CLASSES, generator=generator)).argmax(1)
    made = []
    for device in ('cpu', 'cuda'):
        arrays = [each.to(device) for each in (features, logits, labels, weight)]
        try:
            fitted = fit(*arrays[:3], COUNTS, method, weight=arrays[3])
        except ValueError as error:
            made.append(str(error))
            continue
        made.append(fitted(*arrays[:2]).cpu())
    if isinstance(made[0], str):
        assert made[0] == made[1]
    else:
        # As far as sums in another order lead a fit elsewhere.
        torch.testing.assert_close(made[1], made[0], rtol=0.05, atol=0.02)


PACKAGE = Path(__file__).resolve().parent.parent / 'mmdisalign'
# Of a tensor on a GPU, each of these waits for its numbers.
WAITING_METHODS = {'bincount', 'cpu', 'item', 'nonzero', 'numpy', 'tolist', 'unique'}
WAITING_FUNCTIONS = {'int', 'float', 'bool'}
WAITS = {
    'calibration/back_tracking.py: add: bincount': 'once an epoch, of features on the CPU',
    'calibration/back_tracking.py: add: cpu': 'likewise',
    'calibration/back_tracking.py: add: tolist': 'likewise',
    'calibration/back_tracking.py: load_state_dict: cpu': 'when a training is resumed',
    'calibration/meta_sampler.py: gumbel_selection: bincount': 'a step in every few iterations',
    'losses/adjusted.py: _as_elements: nonzero': 'of shares of classes alone, not of labels',
    'losses/cross_entropy.py: mean_divisor: int': "a count, where a loss is over 'valid'",
    'losses/tiled.py: _bands: int': 'of a matrix that is made on the CPU',
    'losses/tiled.py: _bands: nonzero': 'likewise',
}


def waits(folder: str) -> Iterator[str]:
    """Calls that may wait for the device, in functions that are given tensors."""
    for path in sorted((PACKAGE / folder).glob('*.py')):
        for function in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(function, ast.FunctionDef) and 'Tensor' in ast.unparse(function.args):
                for call in filter(None, map(waiting_call, ast.walk(function))):
                    yield f'{path.relative_to(PACKAGE).as_posix()}: {function.name}: {call}'


def waiting_call(node: ast.AST) -> str | None:
    """The name of the call, if it is one that waits."""
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        return node.func.attr if node.func.attr in WAITING_METHODS else None
    name = node.func.id if isinstance(node.func, ast.Name) else None
    return name if name in WAITING_FUNCTIONS else None


def test_hot_paths_wait_for_the_gpu_only_where_that_has_a_reason() -> None:
    assert {*waits('calibration'), *waits('losses')} == set(WAITS)


@pytest.mark.skipif(torch.cuda.is_available(), reason='it would measure the GPU')
def test_the_benchmark_does_without_a_gpu_what_a_cpu_can(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, repo / 'benchmarks/gpu.py']
    output = run(repo, tmp_path, *command, '--out', 'gpu.json')
    assert 'There is no GPU' in output
    parts = json.loads((tmp_path / 'gpu.json').read_text())['parts']
    assert all(part['rows'] and 'error' not in part for part in parts.values())
    for name in ('segmentor', 'classifier'):
        assert {row['changed'] for row in parts[name]['rows']} == {4}
    table = run(repo, tmp_path, *command, '--table', 'gpu.json')
    assert 'There is no GPU' in table
    assert all(f'### {name}' in table for name in parts)


def test_the_benchmark_names_its_parts(repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, repo / 'benchmarks/gpu.py', 'speed']
    assert 'no such part: speed' in run(repo, tmp_path, *command, ok=False)
