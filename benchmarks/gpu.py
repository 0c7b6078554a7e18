"""Time, memory and precision on a GPU: ``python benchmarks/gpu.py --out gpu.json``.

Ours and the plain form of each in turns, in three precisions; iterations of an mmseg and of an
mmpretrain model; errors against float64. Without a GPU it says so, and does on small sizes what a
CPU can. ``--table gpu.json`` prints the tables of what was measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import gpu_models
import gpu_plain
import numpy as np
import torch
from torch import Tensor, nn

from mmdisalign.calibration import AdaptiveCalibration, generalized_reweight
from mmdisalign.losses import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    GRWCrossEntropyLoss,
    tiled,
    tiled_cross_entropy,
)
from mmdisalign.onepass import fitting as fit

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
LOSSES: dict[str, tuple[Callable[..., nn.Module], Callable[..., Tensor]]] = {
    'GRW': (partial(GRWCrossEntropyLoss, exp_scale=0.5), gpu_plain.grw),
    'balanced softmax': (BalancedSoftmaxLoss, gpu_plain.balanced_softmax),
    'balanced sigmoid': (BalancedSigmoidLoss, gpu_plain.balanced_sigmoid),
}
PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'mmpretrain')
NO_GPU = 'There is no GPU: these are times of a CPU on small sizes, and its precision.'
IGNORED = 255
Row = dict[str, Any]
Run = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How large each part is.

    Attributes:
        maps: Shape (N, C, H, W) of a segmentor's scores, before they are upsampled.
        rows: Shapes (N, C) of a detector's and of a classifier's scores.
        channels: Channels F of the features of each of these three.
        upsampled: Pixels a side of labels; the scores have a quarter.
        samples: Samples, channels and classes of a fit.
        images: Images and pixels a side of a segmentor's and of a classifier's batch.
        checked: Pixels a side of the maps whose errors are measured.
        pairs: How often two things are timed in turns.
    """

    maps: tuple[int, ...]
    rows: Sequence[tuple[int, ...]]
    channels: Sequence[int]
    upsampled: Sequence[int]
    samples: tuple[int, int, int]
    images: Sequence[tuple[int, int]]
    checked: int
    pairs: int


GPU_SIZES = Sizes(
    maps=(4, 150, 128, 128),
    rows=[(2048, 1203), (256, 1000)],
    channels=[512, 1024, 2048],
    upsampled=[512, 1024],
    samples=(100_000, 1024, 1000),
    images=[(4, 512), (64, 224)],
    checked=64,
    pairs=20,
)
CPU_SIZES = Sizes(
    maps=(2, 6, 16, 16),
    rows=[(64, 12), (16, 10)],
    channels=[16, 32, 32],
    upsampled=[32, 64],
    samples=(2000, 16, 8),
    images=[(2, 64), (2, 64)],
    checked=8,
    pairs=3,
)
STEPS = 10  # of fits that are timed in turns


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and how large it is."""

    device: torch.device
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        return self.device.type == 'cuda'

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype)

    def labels(self, classes: int, *shape: int, ignored: float) -> Tensor:
        label = torch.randint(0, classes, shape, device=self.device)
        return label.masked_fill(torch.rand(shape, device=self.device) < ignored, IGNORED)

    def compare(self, plain: Run, ours: Run) -> Row:
        """Time both in turns, after a turn that warms up; and measure the memory of each."""
        milliseconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(self.sizes.pairs + 1):
            both = [(milliseconds[0], plain), (milliseconds[1], ours)]
            for times, run in both[:: 1 if turn % 2 else -1]:
                times.append(self.milliseconds(run))
        first, second = (times[1:] for times in milliseconds)
        low, middle, high = statistics.quantiles([b / a for a, b in zip(first, second)], n=4)
        return {
            'plain ms': statistics.median(first),
            'ours ms': statistics.median(second),
            'ratio': middle,
            'quartiles': f'{low:.3f} to {high:.3f}',
            'plain MB': self.megabytes(plain),
            'ours MB': self.megabytes(ours),
            'waits': self.waits(ours),
        }

    def milliseconds(self, run: Run) -> float:
        """Wall time until the device has done all that was asked of it."""
        self._synchronize()
        start = time.perf_counter()
        run()
        self._synchronize()
        return 1000 * (time.perf_counter() - start)

    def megabytes(self, run: Run) -> Optional[float]:
        """What a run adds, at its peak, to the GPU memory that tensors hold before."""
        if not self.on_gpu:
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def waits(self, run: Run) -> Optional[int]:
        """How often a run waits for the GPU, as far as PyTorch can tell."""
        if not self.on_gpu:
            return None
        torch.cuda.set_sync_debug_mode('warn')
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                run()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return sum('called a synchronizing' in str(warning.message) for warning in caught)

    def _synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def measure_calibration(bench: Bench) -> Iterator[Row]:
    """Forward and backward, to the parameters alone, as in stage 2."""
    for shape, channels in zip([bench.sizes.maps, *bench.sizes.rows], bench.sizes.channels):
        for precision, dtype in PRECISIONS.items():
            calibration = _calibration(shape[1], channels).to(bench.device)
            logits = bench.randn(*shape, dtype=dtype)
            features = bench.randn(shape[0], channels, *shape[2:], dtype=dtype)
            parameters = list(calibration.parameters())
            runs = (
                partial(_gradients, partial(function, calibration, logits, features), parameters)
                for function in (gpu_plain.calibrated, AdaptiveCalibration.forward)
            )
            row = {'scores': _named(*shape), 'channels': channels, 'precision': precision}
            yield {**row, **bench.compare(*runs)}


def measure_losses(bench: Bench) -> Iterator[Row]:
    """Each loss and its gradient, over maps at the resolution of the labels, and over rows."""
    maps = (*bench.sizes.maps[:2], bench.sizes.upsampled[0], bench.sizes.upsampled[0])
    for shape, name, normalizer in (
        (maps, 'GRW', 'elements'),
        (maps, 'balanced softmax', 'elements'),
        (bench.sizes.rows[0], 'GRW', 'class_weight'),
        (bench.sizes.rows[0], 'GRW', 'valid'),
        (bench.sizes.rows[0], 'balanced softmax', 'elements'),
        (bench.sizes.rows[0], 'balanced sigmoid', 'elements'),
    ):
        build, plain = LOSSES[name]
        options = {} if normalizer == 'elements' else {'normalizer': normalizer}
        loss = build(_counts(shape[1]), **options).to(bench.device)
        label = bench.labels(shape[1], shape[0], *shape[2:], ignored=0.05 * (len(shape) > 2))
        for precision, dtype in PRECISIONS.items():
            scores = bench.randn(*shape, dtype=dtype).requires_grad_()
            runs = (
                partial(_gradients, partial(function, scores, label), [scores])
                for function in (partial(plain, loss), loss)
            )
            row = {'loss': name, 'mean over': normalizer, 'scores': _named(*shape)}
            yield {**row, 'precision': precision, **bench.compare(*runs)}


def measure_tiled_loss(bench: Bench) -> Iterator[Row]:
    """Loss, gradient and accuracy, from scores at a quarter of the labels' resolution."""
    for size in bench.sizes.upsampled:
        for precision, dtype in PRECISIONS.items():
            case = _upsampled(bench, size, dtype)
            runs = (
                partial(_gradients, partial(function, *case), [case[0]])
                for function in (gpu_plain.upsampled_loss, _tiled_loss)
            )
            row = {'labels': _named(*bench.sizes.maps[:2], size, size), 'precision': precision}
            yield {**row, **bench.compare(*runs)}


def measure_tiles(bench: Bench) -> Iterator[Row]:
    """The tiled loss in fp32 with tiles of other sizes; "plain" is the size that it has."""
    for size in bench.sizes.upsampled:
        case = _upsampled(bench, size, torch.float32)
        run = partial(_gradients, partial(_tiled_loss, *case), [case[0]])
        for exponent in range(20, 28, 2):
            row = {'labels': _named(*bench.sizes.maps[:2], size, size), 'tile': f'2^{exponent}'}
            yield {**row, **bench.compare(run, partial(_with_tile, 2**exponent, run))}


def measure_fit(bench: Bench) -> Iterator[Row]:
    """Steps of a fit from the same start; the samples' way to the device is part of it.

    Losses agree to 1e-3: the line search of L-BFGS magnifies rounding, so its steps differ sooner.
    """
    problem = _fit_problem(bench)
    ours = partial(_fitted, _our_fit, problem, bench.device)
    others = {'plain form': partial(_fitted, gpu_plain.fitted, problem, bench.device)}
    if bench.on_gpu:
        others['ours, on the CPU'] = partial(_fitted, _our_fit, problem, torch.device('cpu'))
    # A turn of a fit takes the time of many of another part's.
    few = replace(bench, sizes=replace(bench.sizes, pairs=3))
    for name, other in others.items():
        losses = {'plain loss': other(), 'our loss': ours()}
        right = abs(losses['our loss'] / losses['plain loss'] - 1) <= 1e-3
        row = {'plain is': name, 'steps': STEPS, **losses, 'right': right}
        yield {**row, **few.compare(other, ours)}


def measure_whole_fit(bench: Bench) -> Iterator[Row]:
    """A fit to its end, on the device."""
    samples, weight, total = _fit_problem(bench)
    samples.device = bench.device
    calibration = _calibration(len(weight), samples.features.shape[2]).to(bench.device)
    start = time.perf_counter()
    result = fit.fit_calibration(
        calibration, samples, np.arange(len(samples)), weight.to(bench.device), total
    )
    yield {**vars(result), 'seconds': time.perf_counter() - start}


def measure_errors(bench: Bench) -> Iterator[Row]:
    """Errors relative to float64, ‖x - reference‖ / ‖reference‖, on the device and on the CPU.

    The tolerance of values is 1e-5: they are float32 sums of up to some thousand terms, in any
    order, whatever the precision of the scores. That of gradients is 1e-4 in fp32, where they are
    sums over positions of terms that cancel, and else the epsilon of the precision of the scores,
    to which they are rounded.
    """
    cpu = torch.device('cpu')
    for name, case in _cases(bench.sizes).items():
        for precision, dtype in PRECISIONS.items():
            reference = _outcome(*case, dtype, cpu, torch.float64)
            here, there = (_outcome(*case, dtype, device) for device in (bench.device, cpu))
            errors = [[_error(*pair) for pair in zip(x, reference)] for x in (here, there)]
            limits = (1e-5, 1e-4 if dtype == torch.float32 else torch.finfo(dtype).eps)
            right = all(error <= limit for both in errors for error, limit in zip(both, limits))
            row = {'what': name, 'precision': precision}
            row.update({'values': errors[0][0], 'on the CPU': errors[1][0], 'at most': limits[0]})
            row.update({'gradients': errors[0][1], 'those of the CPU': errors[1][1]})
            yield {**row, 'these at most': limits[1], 'right': right}


def measure_identity(bench: Bench) -> Iterator[Row]:
    """The largest difference that an untrained calibration makes; it has to be none."""
    classes, channels = bench.sizes.maps[1], bench.sizes.channels[0]
    calibration = AdaptiveCalibration(classes, channels).to(bench.device)
    for precision, dtype in PRECISIONS.items():
        logits = bench.randn(*bench.sizes.maps, dtype=dtype)
        features = bench.randn(len(logits), channels, *logits.shape[2:], dtype=dtype)
        difference = (calibration(logits, features) - logits.float()).abs().max().item()
        yield {'precision': precision, 'difference': difference, 'right': difference == 0}


def measure_segmentor(bench: Bench) -> Iterator[Row]:
    """Stage 2 of DeepLabV3+ R-50 on ADE20K's 150 classes; noise for images, random weights."""
    gpu_models.accept_mmcv_lite()
    images, size = bench.sizes.images[0]
    data = gpu_models.segmentor_data(images, size)
    for tiled_loss in (False, True):
        options = {'tiled_loss': tiled_loss, 'data_preprocessor.size': (size, size)}
        for row in _iterations(bench, gpu_models.SEGMENTOR, options, data):
            yield {'images': _named(images, size, size), 'tiled loss': tiled_loss, **row}


def measure_classifier(bench: Bench) -> Iterator[Row]:
    """Stage 2 of ResNet-50 on ImageNet-LT's 1,000 classes; noise for images, random weights."""
    gpu_models.accept_mmcv_lite()
    images, size = bench.sizes.images[1]
    data = gpu_models.classifier_data(images, size)
    options = {'class_prior': _counts(1000)}
    for row in _iterations(bench, gpu_models.CLASSIFIER, options, data):
        yield {'images': _named(images, size, size), **row}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    'calibration': measure_calibration,
    'losses': measure_losses,
    'tiled_loss': measure_tiled_loss,
    'tiles': measure_tiles,
    'errors': measure_errors,
    'identity': measure_identity,
    'segmentor': measure_segmentor,
    'classifier': measure_classifier,
    'fit': measure_fit,
    'whole_fit': measure_whole_fit,
}


def _named(*shape: int) -> str:
    return ' x '.join(map(str, shape))


def _counts(classes: int) -> list[float]:
    """A long tail: the most frequent class is there ``classes`` times as often as the rarest."""
    return (1e4 / torch.arange(1, classes + 1)).tolist()


def _calibration(classes: int, channels: int) -> AdaptiveCalibration:
    """One that is not the identity, the same each time."""
    torch.manual_seed(0)
    calibration = AdaptiveCalibration(classes, channels)
    with torch.no_grad():
        calibration.magnitude.normal_(std=0.1)
        calibration.margin.normal_(std=0.1)
    return calibration


def _gradients(function: Callable[[], Tensor], sources: Sequence[Tensor]) -> None:
    """Forward and backward; the gradients are not added to others."""
    output = function()
    torch.autograd.grad(output, sources, torch.ones_like(output))


def _upsampled(bench: Bench, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores at a quarter of the resolution, labels, class weights and the ignored label."""
    images, classes = bench.sizes.maps[:2]
    scores = bench.randn(images, classes, size // 4, size // 4, dtype=dtype).requires_grad_()
    label = bench.labels(classes, images, size, size, ignored=0.05)
    return scores, label, generalized_reweight(_counts(classes), 0.2).to(bench.device), IGNORED


def _tiled_loss(scores: Tensor, label: Tensor, weight: Tensor, ignored: int) -> Tensor:
    return tiled_cross_entropy(scores, label, weight, ignore_index=ignored)[0]


def _with_tile(tile: int, run: Run) -> None:
    with mock.patch.multiple(tiled, TILE=tile, CPU_TILE=tile):
        run()


FitProblem = tuple[fit.Samples, Tensor, float]


def _fit_problem(bench: Bench) -> FitProblem:
    """Samples, class weights and what the loss is divided by.

    Labels are drawn from twice the scores plus the logarithms of the classes' frequencies, so that
    a calibration has something to learn.
    """
    number, channels, classes = bench.sizes.samples
    torch.manual_seed(0)
    features = bench.randn(number, channels)
    logits = features @ bench.randn(channels, classes) / channels**0.5
    frequency = torch.tensor(_counts(classes), device=bench.device)
    noise = -torch.empty_like(logits).exponential_().log()
    label = (2 * logits + frequency.log() + noise).argmax(dim=1)
    samples = fit.Samples(
        features=features[:, None].cpu().numpy(),
        logits=logits[:, None].cpu().numpy(),
        taps=np.ones((number, 1), dtype=np.float32),
        label=label.cpu().numpy(),
        weight=np.ones(number, dtype=np.float32),
        image=np.arange(number),
    )
    weight = generalized_reweight(_counts(classes), 0.5)
    total = fit.normalizer_of('class_weight', samples, np.arange(number), weight, 1.0)
    return samples, weight, total


def _fitted(function: Callable[..., float], problem: FitProblem, device: torch.device) -> float:
    """Loss after some steps of a fit on a device."""
    samples, weight, total = problem
    samples.device = device
    calibration = _calibration(len(weight), samples.features.shape[2]).to(device)
    return function(calibration, samples, weight.to(device), total, STEPS)


def _our_fit(
    calibration: AdaptiveCalibration,
    samples: fit.Samples,
    weight: Tensor,
    total: float,
    steps: int,
) -> float:
    chosen = np.arange(len(samples))
    with mock.patch.object(fit, 'MAX_STEPS', steps):
        return fit.fit_calibration(calibration, samples, chosen, weight, total).after


Case = tuple[Callable[..., Tensor], nn.Module, tuple[Tensor, ...]]


def _cases(sizes: Sizes) -> dict[str, Case]:
    """What has errors: a function of a module and of tensors, both of these on the CPU."""
    classes, (number, many), side = sizes.maps[1], sizes.rows[0], sizes.checked
    channels, row_channels = sizes.channels[:2]
    calibrations = _calibration(classes, channels), _calibration(many, row_channels)
    maps = torch.randn(2, classes, side, side), torch.randn(2, channels, side, side)
    rows = torch.randn(number, many), torch.randn(number, row_channels)
    label, wide = (torch.randint(0, classes, (2, n, n)) for n in (side, 4 * side))
    row_label = torch.randint(0, many, (number,))
    return {
        'calibration, maps': (_call, calibrations[0], maps),
        'calibration, rows': (_call, calibrations[1], rows),
        'GRW, maps': (_call, _sum_of('GRW', classes), (maps[0], label)),
        **{f'{name}, rows': (_call, _sum_of(name, many), (rows[0], row_label)) for name in LOSSES},
        'tiled loss': (_tiled_sum, _sum_of('GRW', classes), (maps[0], wide)),
    }


def _sum_of(name: str, classes: int) -> nn.Module:
    """A loss that is a sum: gradients of a mean would be too small for half precision."""
    return LOSSES[name][0](_counts(classes), reduction='sum')


def _call(module: nn.Module, *tensors: Tensor) -> Tensor:
    return module(*tensors)


def _tiled_sum(loss: GRWCrossEntropyLoss, scores: Tensor, label: Tensor) -> Tensor:
    return tiled_cross_entropy(scores, label, loss.class_weight, reduction='sum')[0]


def _outcome(
    function: Callable[..., Tensor],
    module: nn.Module,
    tensors: Sequence[Tensor],
    precision: torch.dtype,
    device: torch.device,
    computed_in: Optional[torch.dtype] = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The value of tensors rounded to a precision, and the gradients of its sum."""
    module = copy.deepcopy(module).to(device, computed_in)
    inputs = [tensor.to(device) for tensor in tensors]
    for i, tensor in enumerate(inputs):
        if tensor.is_floating_point():
            inputs[i] = tensor.to(precision).to(computed_in or precision).requires_grad_()
    sources = [tensor for tensor in inputs if tensor.requires_grad] + list(module.parameters())
    value = function(module, *inputs)
    return [value.detach()], list(torch.autograd.grad(value.sum(), sources))


def _error(values: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """The largest relative error of some tensors."""
    pairs = [(value.cpu().double(), reference) for value, reference in zip(values, references)]
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


def _iterations(bench: Bench, config: str, options: Row, data: Row) -> Iterator[Row]:
    for precision, trained in gpu_models.trained(config, options, data, bench.device):
        iterate = partial(trained.model.train_step, data, trained.optimizer)
        times = [bench.milliseconds(iterate) for _ in range(bench.sizes.pairs)]
        yield {
            'precision': precision,
            'losses': ', '.join(f'{loss:.6f}' for loss in trained.losses),
            'loss scale': trained.loss_scale,
            'changed': trained.changed,
            'right': trained.right,
            'ms': statistics.median(times),
            'MB': bench.megabytes(iterate),
            'waits': bench.waits(iterate),
        }


def machine() -> Row:
    """What the figures depend on."""
    on_gpu = torch.cuda.is_available()
    return {
        'GPU': torch.cuda.get_device_name() if on_gpu else None,
        'CUDA': torch.version.cuda if on_gpu else None,
        'Python': platform.python_version(),
        'threads': torch.get_num_threads(),
        **{package: gpu_models.installed(package) for package in PACKAGES},
    }


def measure(names: Sequence[str], out: Path) -> bool:
    """Measure parts, writing what there is after each; returns whether all of it is right."""
    # fp32 is to be float32: by default, convolutions of a GPU round their factors to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    on_gpu = torch.cuda.is_available()
    bench = Bench(torch.device('cuda' if on_gpu else 'cpu'), GPU_SIZES if on_gpu else CPU_SIZES)
    result: Row = {'machine': machine(), 'parts': {}}
    print(_named_machine(result['machine']), flush=True)
    for name in names:
        result['parts'][name] = _measured(bench, name)
        out.write_text(json.dumps(result, indent=1), encoding='utf-8')
    return all(_is_right(part) for part in result['parts'].values())


def _measured(bench: Bench, name: str) -> Row:
    """A part: one that fails keeps the rows that it had, and does not stop the others."""
    start = time.perf_counter()
    part: Row = {'about': ' '.join(PARTS[name].__doc__.split()), 'rows': []}
    try:
        for row in PARTS[name](bench):
            print(name, json.dumps(row), flush=True)
            part['rows'].append(row)
    except Exception:
        part['error'] = traceback.format_exc()
        print(name, part['error'], flush=True)
    part['seconds'] = time.perf_counter() - start
    print(f'{name}: {part["seconds"]:.1f} s', flush=True)
    return part


def _is_right(part: Row) -> bool:
    return 'error' not in part and all(row.get('right', True) for row in part['rows'])


def tables(result: Row) -> str:
    """The parts of a result as Markdown."""
    lines = [_named_machine(result['machine']), '']
    for name, part in result['parts'].items():
        lines += [f'### {name}', '', f'{part["about"]} In all {part["seconds"]:.1f} s.', '']
        lines += _table(part['rows'])
        if 'error' in part:
            lines += ['', f'It failed: {part["error"].splitlines()[-1]}']
        lines.append('')
    return '\n'.join(lines)


def _named_machine(what: Row) -> str:
    known = ', '.join(f'{name} {value}' for name, value in what.items() if value is not None)
    return known if what['GPU'] else f'{NO_GPU}\n\n{known}'


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [[_cell(value) for value in row.values()] for row in rows]
    header = [list(rows[0]), ['---'] * len(rows[0])] if rows else []
    return [f'| {" | ".join(line)} |' for line in header + lines]


def _cell(value: Any) -> str:
    if value is None:
        return 'not measured'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, or print the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', help=f'{", ".join(PARTS)}; default: all')
    parser.add_argument('--out', type=Path, default=Path('gpu.json'), help='default: gpu.json')
    parser.add_argument('--table', type=Path, help='print the tables of such a file')
    args = parser.parse_args()
    unknown = set(args.names) - set(PARTS)
    if unknown:
        parser.error(f'no such part: {", ".join(unknown)}')
    if args.table:
        print(tables(json.loads(args.table.read_text(encoding='utf-8'))))
    elif not measure(args.names or list(PARTS), args.out):
        sys.exit('not all of it is right, see above')


if __name__ == '__main__':
    main()
