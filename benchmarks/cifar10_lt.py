"""CIFAR-10-LT: DisAlign beside what it is compared with, all from one stage-1 checkpoint."""

from __future__ import annotations

import statistics
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from stage2 import BENCH

from mmdisalign.analysis import Evaluation, summary_table, tables
from mmdisalign.commands.launch import run_tool

CONFIGS = Path(__file__).with_suffix('')
ARCHIVE = BENCH.parent / 'data/cifar10_lt/cifar10_lt.tar'
OUT = Path('work_dirs/bench/cifar10_lt')
LIST = OUT / 'data/CIFAR10_LT_train.txt'
EPOCHS = 3
METHODS = {
    'crt': 'cRT',
    'lws': 'LWS',
    'balanced_softmax': 'Balanced Softmax',
    'meta_sampler': 'Meta Sampler',
    'disalign': 'DisAlign',
    'cosine': 'cosine classifier',
    'disalign_cosine': 'DisAlign of the cosine classifier',
}
# Methods that are not trained.
POSTHOC = ('tau-norm', 'ncm', 'logit-adjustment')

Row = tuple[str, Mapping[str, Optional[float]], Optional[float]]


def run(seeds: Sequence[int], exp_scales: Sequence[float]) -> str:
    """Train stage 1 once and each second stage for each seed; returns the table of the means."""
    if not ARCHIVE.is_file():
        return f'cifar10_lt: not run, its images are not in {ARCHIVE}'
    unpack()
    rows = [('stage 1', evaluate('stage1', stage1()), None)]
    rows += [posthoc(method) for method in POSTHOC]
    for method, name in METHODS.items():
        for exp_scale in exp_scales if method.startswith('disalign') else [None]:
            runs = [train(method, seed, exp_scale) for seed in seeds]
            rows.append(mean(name if exp_scale is None else f'{name}, ρ = {exp_scale}', runs))
    summaries = {name: summary for name, summary, _ in rows}
    minutes = {name: spent for name, _, spent in rows if spent is not None}
    table = summary_table(summaries, tables.CLASSIFICATION, minutes)
    seeds_named = ', '.join(map(str, seeds))
    return (
        'CIFAR-10-LT, imbalance 100, ResNet-32, half of the validation images, per cent; trained '
        f'second stages: mean of the seeds {seeds_named}\n\n{table}'
    )


def stage1() -> Path:
    """The checkpoint of stage 1, which is trained unless it is there."""
    path = OUT / 'stage1/epoch_20.pth'
    if not path.is_file():
        command = [CONFIGS / 'stage1.py', '--work-dir', OUT / 'stage1', '--resume']
        minutes = run_tool('train', *command, log=OUT / 'stage1.log')
        print(f'Stage 1 took {minutes:.1f} minutes.')
    return path


def unpack() -> None:
    """Unpack the images and halve the validation list, class by class, unless that is done."""
    data = OUT / 'data'
    if (data / 'report.txt').is_file():
        return
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(data, filter='data')
    lines = (data / 'CIFAR10_LT_val.txt').read_text().splitlines(keepends=True)
    lines.sort(key=lambda line: int(line.rsplit(' ', 1)[1]))
    (data / 'choose.txt').write_text(''.join(lines[0::2]))
    (data / 'report.txt').write_text(''.join(lines[1::2]))


def train(method: str, seed: int, exp_scale: Optional[float]) -> Row:
    """Train and evaluate a second stage."""
    name = f'{method}_seed{seed}'
    options = [f'randomness.seed={seed}', 'train_cfg.val_interval=1000']
    if exp_scale is not None:
        name = f'{method}_rho{exp_scale}_seed{seed}'
        options.append(f'model.exp_scale={exp_scale}')
    if method == 'meta_sampler':
        options.append(f'custom_hooks.1.seed={seed}')
    if method == 'disalign_cosine':
        options.append(f'load_from={OUT}/cosine_seed{seed}/epoch_{EPOCHS}.pth')
    command = [CONFIGS / f'{method}.py', '--work-dir', OUT / name, '--cfg-options', *options]
    minutes = run_tool('train', *command, log=OUT / f'{name}.log')
    return name, evaluate(method, OUT / name / f'epoch_{EPOCHS}.pth', name), minutes


def posthoc(method: str) -> Row:
    """Change the classifier of stage 1 and evaluate it."""
    out = OUT / f'{method}.pth'
    command = [CONFIGS / 'stage1.py', stage1(), '--out', out, '--method', method, '--no-split-val']
    minutes = run_tool('calibrate', *command, log=out.with_suffix('.log'))
    return method, evaluate('stage1', out, method), minutes


def evaluate(
    config: str, checkpoint: Path, name: Optional[str] = None
) -> Mapping[str, Optional[float]]:
    """Evaluate a checkpoint; returns the means."""
    name = name or config
    file = OUT / f'{name}.json'
    options = ['--work-dir', OUT / name, '--cfg-options', f'test_evaluator.result_file={file}']
    run_tool('test', CONFIGS / f'{config}.py', checkpoint, *options, log=OUT / f'{name}_test.log')
    return Evaluation.load(file).summary


def mean(name: str, runs: Sequence[Row]) -> Row:
    """The means over seeds."""
    means = {
        key: statistics.mean(summary[key] for _, summary, _ in runs)
        for key in tables.CLASSIFICATION
    }
    return name, means, statistics.mean(minutes for _, _, minutes in runs)
