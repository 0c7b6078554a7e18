"""CIFAR-10-LT: DisAlign beside what it is compared with, all from one stage-1 checkpoint."""

from __future__ import annotations

import statistics
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from stage2 import BENCH

from mmdisalign.analysis import Evaluation, summary_table, tables
from mmdisalign.engine.commands import run_tool

CONFIGS = Path(__file__).with_suffix('')
ARCHIVE = BENCH.parent / 'data/cifar10_lt/cifar10_lt.tar'
OUT = Path('work_dirs/bench/cifar10_lt')
STAGE1 = OUT / 'stage1/epoch_20.pth'
LIST = OUT / 'data/CIFAR10_LT_train.txt'
TRAINED = ('crt', 'lws', 'balanced_softmax', 'meta_sampler', 'disalign', 'disalign_cosine')
EPOCHS = 10
NAMES = {
    'crt': 'cRT',
    'lws': 'LWS',
    'balanced_softmax': 'Balanced Softmax',
    'meta_sampler': 'Meta Sampler',
    'disalign': 'DisAlign',
    'disalign_cosine': 'DisAlign, cosine',
}
# Post-hoc methods, with the config that they change the classifier of.
POSTHOC = {'tau-norm': 'stage1', 'ncm': 'cosine', 'logit-adjustment': 'stage1'}

Row = tuple[str, Mapping[str, Optional[float]], float]


def run(seeds: Sequence[int], exp_scale: float) -> str:
    """Train stage 1 once and each second stage for each seed; returns the table of the means."""
    if not ARCHIVE.is_file():
        return f'cifar10_lt: not run, its images are not in {ARCHIVE}'
    unpack()
    # --resume: a benchmark that was interrupted goes on with what it has.
    minutes = run_tool(
        'train', CONFIGS / 'stage1.py', '--work-dir', OUT / 'stage1', '--resume',
        log=OUT / 'stage1.log',
    )  # fmt: skip
    rows = [('stage 1', evaluate('stage1', STAGE1), minutes)]
    rows += [posthoc(method) for method in POSTHOC]
    train('cosine', seeds[0], [])
    for method in TRAINED:
        options = [f'model.exp_scale={exp_scale}'] if method.startswith('disalign') else []
        rows.append(mean(NAMES[method], [train(method, seed, options) for seed in seeds]))
    summaries = {name: summary for name, summary, _ in rows}
    table = summary_table(
        summaries, tables.CLASSIFICATION, {name: spent for name, _, spent in rows}
    )
    return (
        f'CIFAR-10-LT, imbalance 100, ResNet-32, half of the validation images, per cent; second '
        f'stages: mean of seeds {", ".join(map(str, seeds))}, exp_scale {exp_scale}\n\n{table}'
    )


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


def train(method: str, seed: int, options: Sequence[str]) -> Row:
    """Train and evaluate a second stage."""
    name = f'{method}_seed{seed}'
    command = [CONFIGS / f'{method}.py', '--work-dir', OUT / name, '--resume', '--cfg-options']
    # The test images are what is reported; those of validation are for choosing τ.
    command += [f'randomness.seed={seed}', 'train_cfg.val_interval=1000', *options]
    if method == 'meta_sampler':
        command.append(f'custom_hooks.1.seed={seed}')
    minutes = run_tool('train', *command, log=OUT / f'{name}.log')
    return name, evaluate(method, OUT / name / f'epoch_{EPOCHS}.pth', name), minutes


def posthoc(method: str) -> Row:
    """Change the classifier of stage 1 and evaluate it."""
    out, config = OUT / f'{method}.pth', POSTHOC[method]
    command = [method, CONFIGS / f'{config}.py', STAGE1, out, '--prior', LIST]
    minutes = run_tool('posthoc', *command, '--work-dir', OUT / method, log=OUT / f'{method}.log')
    return method, evaluate(config, out, method), minutes


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
