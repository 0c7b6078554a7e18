"""Classification methods that train from the start, each for the same epochs, on CIFAR-10-LT.

Breadcrumb is not among them: its features of earlier epochs begin after 25, see its hook.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import cifar10_lt
from cifar10_lt import CONFIGS, OUT
from mmengine.config import Config
from stage2 import REPO, importable

from mmdisalign.analysis import Evaluation, markdown_table
from mmdisalign.commands.launch import run_tool

EPOCHS = 20
COLUMNS = ['top1', 'many', 'medium', 'few']
BASE = f"""custom_imports = dict(imports=['bfloat16_resnet'])
_base_ = [
    {str(CONFIGS / 'stage1.py')!r},
    {str(REPO / 'configs/_base_/longtail_cls.py')!r},
    {str(REPO / 'configs/_base_/decoupled_cls.py')!r},
]
"""
BACKBONE = "backbone=dict(type='BFloat16CIFARResNet')"
# Entries of configs/_base_/longtail_cls.py, and what is told of them for as many epochs.
ENTRIES = {
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
    f'model = dict({BACKBONE}, head=dict(own.head, loss=loss))',
    'head': f'model = dict({BACKBONE}, head=own.head)',
    'custom_hooks': 'custom_hooks = own.custom_hooks',
    'train_dataloader': 'train_dataloader = own.train_dataloader',
    'train_cfg': 'train_cfg = own.train_cfg',
    'paramwise_cfg': 'optim_wrapper = dict(paramwise_cfg=own.paramwise_cfg)',
}
SECOND_STAGE = """
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = {before[checkpoint]!r}
"""
LWS = (
    f'model = dict(_base_.decoupled.lws.model, {BACKBONE})\n'
    f'train_dataloader = _base_.decoupled.lws.train_dataloader{SECOND_STAGE}'
)
# What the others are, and the method that comes before, whose checkpoint they take.
OTHERS = {
    'cross-entropy': (None, f'model = dict({BACKBONE})\n'),
    'cosine': (
        None,
        f'model = dict({BACKBONE}, head=dict(type="mmdisalign.classification.CosineClsHead"))\n',
    ),
    'marc': (
        'cross-entropy',
        f'model = dict(_base_.longtail.marc.model, {BACKBONE}, class_prior=_base_.class_prior)'
        + SECOND_STAGE,
    ),
    'lws': ('cross-entropy', LWS),
    'cbd': (
        'cosine',
        f'model = dict(_base_.longtail.cbd.model, {BACKBONE}, teachers=[{{before}}])\n'
        'train_dataloader = _base_.longtail.cbd.train_dataloader\n',
    ),
    # Of the images as the base has them, and of stronger colours.
    'ssd_features': (
        None,
        'sizes = dict(in_channels=64, hid_channels=64, out_channels=128)\n'
        'own = _base_.longtail.ssd_features.model\n'
        f'model = dict(own, {BACKBONE}, projector=dict(own.projector, **sizes), queue_len=12288)\n'
        'load, crop, flip, pack = _base_.train_dataloader.dataset.pipeline\n'
        "jitter = dict(type='torchvision/ColorJitter', brightness=.4, contrast=.4, saturation=.4)\n"
        "colours = [dict(type='NumpyToPIL'), dict(jitter, hue=0.1), dict(type='PILToNumpy')]\n"
        "grey = dict(type='RandomGrayscale', prob=0.2, keep_channels=True)\n"
        'both = [[crop, flip], [crop, *colours, grey, flip]]\n'
        "views = dict(type='MultiView', num_views=[1, 1], transforms=both)\n"
        'train_dataloader = dict(dataset=dict(pipeline=[load, views, pack]))\n',
    ),
    'ssd_lws': ('ssd_features', LWS),
    'ssd': (
        'ssd_lws',
        f'model = dict(_base_.longtail.ssd.model, {BACKBONE}, teachers=[{{before}}])\n',
    ),
}
LAST = ['lws', 'marc', 'cbd', 'ssd_features', 'ssd_lws', 'ssd']
METHODS = ['cross-entropy', 'cosine', *ENTRIES, *LAST]


def trained(name: str, seed: int) -> dict[str, float]:
    """Train with a method, unless that has been done; returns the summary of the report half."""
    own = _folder(name, seed)
    file = own.with_suffix('.json')
    if not file.exists():
        config = own.with_suffix('.py')
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(_config(name, seed))
        options = ['--work-dir', own, '--resume', '--cfg-options', f'randomness.seed={seed}']
        run_tool('train', config, *options, log=own.with_suffix('.log'))
        options = ['--work-dir', own, '--cfg-options', f'test_evaluator.result_file={file}']
        run_tool('test', config, _checkpoint(own), *options, log=own.with_suffix('.test.log'))
    return Evaluation.load(file).summary


def _folder(name: str, seed: int) -> Path:
    return (OUT / 'methods' / f'{name}_{seed}').resolve()


def _checkpoint(folder: Path) -> Path:
    return Path((folder / 'last_checkpoint').read_text(encoding='utf-8').strip())


def _config(name: str, seed: int) -> str:
    if name in ENTRIES:
        return BASE + _entry(name)
    before, lines = OTHERS[name]
    if before is None:
        return BASE + lines
    trained(before, seed)
    folder = _folder(before, seed)
    return BASE + lines.format(
        before=dict(config=str(folder.with_suffix('.py')), checkpoint=str(_checkpoint(folder)))
    )


def _entry(name: str) -> str:
    entry = Config.fromfile(REPO / 'configs/_base_/longtail_cls.py').longtail[name]
    keys = [key for key in LINES if key in entry and not (key == 'head' and 'loss' in entry)]
    if not {'loss', 'head'} & set(keys):
        keys.insert(0, 'backbone')
    lines = {**LINES, 'backbone': f'model = dict({BACKBONE})'}
    own = [f'own = _base_.longtail.{name}', *(lines[key] for key in keys)]
    return '\n'.join([*own, ENTRIES[name]])


def run(seeds: Sequence[int], names: Sequence[str] = tuple(METHODS)) -> str:
    """The table of the methods, means of the seeds."""
    if not cifar10_lt.ARCHIVE.is_file():
        return f'CIFAR-10-LT methods: not run, the images are not in {cifar10_lt.ARCHIVE}'
    cifar10_lt.unpack()
    importable(REPO / 'benchmarks')
    rows = []
    for name in names:
        found = [trained(name, seed) for seed in seeds]
        means = [statistics.mean(own[key] for own in found) for key in COLUMNS]
        rows.append([name, *(f'{mean:.2f}' for mean in means)])
    return markdown_table(['', *COLUMNS], rows)
