"""Classification methods that train from the start, each for the same epochs, on CIFAR-10-LT."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import cifar10_lt
from cifar10_lt import CONFIGS, OUT
from mmengine.config import Config
from stage2 import REPO

from mmdisalign.analysis import Evaluation, markdown_table
from mmdisalign.commands.launch import run_tool

EPOCHS = 20
COLUMNS = ['top1', 'many', 'medium', 'few']
# Entries of configs/_base_/longtail_cls.py, and what is told of them for as many epochs.
METHODS = {
    'cross-entropy': '',
    'balanced_softmax': '',
    'class_balanced': '',
    'ldam_drw': f"custom_hooks[0]['begin'] = {4 * EPOCHS // 5}\n",
    'vs': '',
    'lade': '',
    'gcl': '',
    'balanced_bce': '',
    'cdb_w': '',
    'cdb_s': '',
    'difficulty_net': '',
    'tde': "model['head']['alpha'] = 1.0\n",
    'vmf': '',
    'whitening': '',
}
LINES = {
    'loss': 'loss = dict(own.loss, class_prior=_base_.class_prior)\n'
    'model = dict(head=dict(own.head, loss=loss))',
    'head': 'model = dict(head=own.head)',
    'custom_hooks': 'custom_hooks = own.custom_hooks',
    'train_dataloader': 'train_dataloader = own.train_dataloader',
    'train_cfg': 'train_cfg = own.train_cfg',
    'paramwise_cfg': 'optim_wrapper = dict(paramwise_cfg=own.paramwise_cfg)',
}


def trained(name: str, seed: int) -> dict[str, float]:
    """Train with a method, unless that has been done; returns the summary of the report half."""
    own = (OUT / 'methods' / f'{name}_{seed}').resolve()
    file = own.with_suffix('.json')
    if not file.exists():
        config = own.with_suffix('.py')
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(_config(name))
        options = ['--work-dir', own, '--resume', '--cfg-options', f'randomness.seed={seed}']
        run_tool('train', config, *options, log=own.with_suffix('.log'))
        checkpoint = own / f'epoch_{EPOCHS}.pth'
        options = ['--work-dir', own, '--cfg-options', f'test_evaluator.result_file={file}']
        run_tool('test', config, checkpoint, *options, log=own.with_suffix('.test.log'))
    return Evaluation.load(file).summary


def _config(name: str) -> str:
    base = str(CONFIGS / 'stage1.py')
    if name == 'cross-entropy':
        return f'_base_ = {base!r}\n'
    fragment = REPO / 'configs/_base_/longtail_cls.py'
    entry = Config.fromfile(fragment).longtail[name]
    keys = [key for key in LINES if key in entry and not (key == 'head' and 'loss' in entry)]
    lines = [f'_base_ = [{base!r}, {str(fragment)!r}]', f'own = _base_.longtail.{name}']
    return '\n'.join([*lines, *(LINES[key] for key in keys), METHODS[name]])


def run(seeds: Sequence[int], names: Sequence[str] = tuple(METHODS)) -> str:
    """The table of the methods, means of the seeds."""
    if not cifar10_lt.ARCHIVE.is_file():
        return f'CIFAR-10-LT methods: not run, the images are not in {cifar10_lt.ARCHIVE}'
    cifar10_lt.unpack()
    rows = []
    for name in names:
        found = [trained(name, seed) for seed in seeds]
        means = [statistics.mean(own[key] for own in found) for key in COLUMNS]
        rows.append([name, *(f'{mean:.2f}' for mean in means)])
    return markdown_table(['', *COLUMNS], rows)
