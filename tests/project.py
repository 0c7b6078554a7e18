"""How tests run the tools, on a project outside the checkout."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import NamedTemporaryFile

import mmengine.registry
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry, init_default_scope
from PIL import Image

from mmdisalign.cli import be_script
from mmdisalign.data.scenes import SceneSpec, render_scene, write_ade20k

# What a tool imports before it does anything. Nothing of ours: each run of a tool imports that.
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(['mmseg.apis', 'mmdet.apis', 'mmpretrain.apis', 'tests.once'])
STAGE_1 = """
_base_ = __import__('mmdisalign').config_path('demo/fcn_r18_scenes-96x96.py')
train_dataloader = dict(
    batch_size=4, num_workers={num_workers}, persistent_workers={num_workers} > 0,
    dataset=dict(data_root='scenes'))
val_dataloader = test_dataloader = dict(dataset=dict(data_root='scenes'))
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""

CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64))
# Beside the model, as mmpretrain has it.
data_preprocessor = dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)
flip = dict(type='RandomFlip', prob=0.5)
pipeline = [dict(type='LoadImageFromFile'), flip, dict(type='PackInputs')]
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(
    type='CustomDataset', data_prefix='images', pipeline=pipeline))
test_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='Accuracy', topk=1)
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""


def environment(repo: Path) -> dict[str, str]:
    """The environment of a user who has installed the checkout."""
    path = os.pathsep.join([str(repo), os.environ.get('PYTHONPATH', '')])
    # Tests that run at the same time, in other workers of pytest-xdist, launch on other ports.
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])
    own = {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': str(29500 + worker)}
    return {**os.environ, 'PYTHONPATH': path, **own}


def run(repo: Path, project: Path, *command: object, ok: bool = True) -> str:
    """Run a command in the project's folder; returns its output."""
    command = [str(part) for part in command]
    is_script = command[0] == sys.executable and command[1].endswith('.py')
    start = _forked if is_script else _started
    with NamedTemporaryFile('r', encoding='utf-8') as log:
        status = start(command, project, environment(repo), log.name)
        output = log.read()
    assert (status == 0) is ok, output[-4000:]
    return output


def run_in_two(repo: Path, project: Path, *command: object) -> str:
    """Run a script in two processes that know of each other, as dist_train.sh starts them.

    The launchers have their own tests; each launch imports everything three times.
    """
    return ''.join(run_together(repo, project, 2, *command))


def run_together(
    repo: Path, project: Path, number: int, *command: object, ok: bool = True, kill_at: str = ''
) -> list[str]:
    """Run a script as so many processes of a launcher do; returns what each printed.

    They are killed -9 once there is a file, ``kill_at``.
    """
    script, started, logs = [str(part) for part in command[1:]], [], []
    for rank, env in enumerate(_environments(repo, number)):
        logs.append(project / f'{rank}_of_{number}.log')
        logs[-1].unlink(missing_ok=True)
        started.append(_fork(be_script, script, project, env, str(logs[-1])))
    deadline = time.time() + 120
    while any(each.is_alive() for each in started) and time.time() < deadline:
        if kill_at and list(project.glob(kill_at)):
            break
        time.sleep(0.02)
    hung = [each for each in started if each.is_alive() and not kill_at]
    for each in started:
        each.kill()
        each.join()
    output = [log.read_text() for log in logs]
    assert not hung, output
    if kill_at:
        assert list(project.glob(kill_at)), output
        assert all(each.exitcode == -signal.SIGKILL for each in started)
    else:
        assert all((each.exitcode == 0) is ok for each in started), output
    return output


def _environments(repo: Path, ranks: int) -> list[dict[str, str]]:
    """The environment of each of the processes of a launch; that of one knows of no others."""
    env = environment(repo)
    if ranks == 1:
        return [env]
    env.update(WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=env['PORT'])
    return [{**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(ranks)]


def _started(command: list[str], project: Path, env: dict[str, str], log: str) -> int:
    with open(log, 'w', encoding='utf-8') as output:
        return subprocess.run(
            command, cwd=project, env=env, stdout=output, stderr=subprocess.STDOUT, timeout=300
        ).returncode


def _forked(command: list[str], project: Path, env: dict[str, str], log: str) -> int:
    return _end(_fork(be_script, command[1:], project, env, log))


def _fork(be: Callable[..., None], script: list[str], project: Path, *rest: object) -> BaseProcess:
    """Run a script in a fork of a process that has imported what scripts spend seconds on."""
    process = SERVER.Process(target=_anew, args=(be, script, str(project), *rest))
    process.start()
    return process


def _anew(be: Callable[..., None], *arguments: object) -> None:
    """Be a script whose random numbers are not those of each other fork."""
    random.seed()
    np.random.seed()
    torch.manual_seed(random.getrandbits(32))
    be(*arguments)


def _end(process: BaseProcess) -> int:
    """The exit status of a process, once it has ended."""
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError('a script took more than 300 s')
    return process.exitcode


def kill_after_first_checkpoint(
    repo: Path, project: Path, work_dir: str, *command: object, ranks: int = 1
) -> None:
    """Start a training, and kill -9 all its processes as soon as there is a checkpoint."""
    marker = project / work_dir / 'last_checkpoint'
    kill_when(repo, project, marker.exists, *command, '--work-dir', work_dir, ranks=ranks)


def kill_when(
    repo: Path, project: Path, begun: Callable[[], object], *command: object, ranks: int = 1
) -> None:
    """Run a script in the project's folder, and kill -9 all its processes once it has begun."""
    script = [str(part) for part in command[1:]]
    group = [
        _fork(_lead_script, script, project, env, os.devnull) for env in _environments(repo, ranks)
    ]
    deadline = time.time() + 120
    while not begun() and time.time() < deadline:
        time.sleep(0.02)
    for process in group:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert begun()


def _lead_script(*arguments: object) -> None:
    """Be a script that leads its own group of processes."""
    os.setsid()
    be_script(*arguments)


def save_untrained(config: Path, checkpoint: Path) -> None:
    """Save the weights that a config's model begins with, the same each time."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), checkpoint)


def write_stage1(root: Path, *, num_train: int, num_val: int, num_workers: int) -> None:
    """Scenes, a config that knows nothing of calibration, and a checkpoint of its first weights."""
    write_ade20k(SceneSpec(), root / 'scenes', num_train=num_train, num_val=num_val)
    (root / 'stage1.py').write_text(STAGE_1.format(num_workers=num_workers))
    save_untrained(root / 'stage1.py', root / 'stage1.pth')


def write_classifier(root: Path) -> None:
    """40 images of a class, 12 of the next and 4 of the last, each class of its own colour."""
    rng = np.random.default_rng(0)
    for label, number in enumerate((40, 12, 4)):
        folder = root / f'images/class_{label}'
        folder.mkdir(parents=True)
        for index in range(number):
            image = rng.integers(60 * label, 60 * label + 120, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / f'{index}.png')
    (root / 'stage1.py').write_text(CLASSIFIER)
    save_untrained(root / 'stage1.py', root / 'stage1.pth')


def write_new_style(source: Path, out: Path) -> None:
    """Write a config as a user of ``read_base`` has it: its types are classes, without a scope."""
    cfg = Config.fromfile(source)
    imports: dict[str, str] = {}
    scope = cfg.pop('default_scope')
    lines = [f'{key} = {_code(value, scope, imports)}' for key, value in cfg.items()]
    head = [f'from {module} import {name}' for name, module in imports.items()]
    out.write_text('\n'.join([*head, *lines, '']))


def _code(value: object, scope: str, imports: dict[str, str]) -> str:
    """Python that makes a value; the classes in it are added to the imports."""
    if isinstance(value, dict):
        readers = ((key, _type if key == 'type' else _code, item) for key, item in value.items())
        items = (f'{key!r}: {read(item, scope, imports)}' for key, read, item in readers)
        return f'{{{", ".join(items)}}}'
    if isinstance(value, (list, tuple)):
        items = ''.join(f'{_code(item, scope, imports)}, ' for item in value)
        return f'[{items}]' if isinstance(value, list) else f'({items})'
    return repr(value)


def _type(name: str, scope: str, imports: dict[str, str]) -> str:
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, Registry):
            with registry.switch_scope_and_registry(scope) as own:
                found = own.get(name)
            if found is not None:
                imports[found.__name__] = found.__module__
                return found.__name__
    return repr(name)  # a name that is no class, as that of a kind of NMS


def run_demo(repo: Path, out: Path, task: str) -> tuple[dict, dict]:
    """Run a half of the demo; returns the summaries of stage 1 and stage 2."""
    command = [sys.executable, repo / 'tools/demo.py', task, '--seed', '3', '--out', out]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = out / task / 'report'
    assert str(report / 'index.html') in done.stdout
    assert list(report.glob('figures/*_per_class.png'))
    evaluated = [json.loads((out / task / f'stage{n}/result.json').read_text()) for n in (1, 2)]
    # The report evaluated the saved predictions, and must come to what test.py came to.
    for name, result in zip(('stage 1', 'DisAlign'), evaluated):
        again = json.loads((report / f'results/{name.replace(" ", "_")}.json').read_text())
        assert again['confusion'] == result['confusion']
        # The demo's own evaluation of instances has fixed AP besides.
        assert again['per_class'].items() <= result['per_class'].items()
    return tuple(result['summary'] for result in evaluated)


def assert_only_the_calibration_changed(demo: Path, *checkpoints: str) -> None:
    """Compare the checkpoints of stage 1 and of stage 2, bit for bit."""
    states = [torch.load(demo / path, weights_only=False)['state_dict'] for path in checkpoints]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert {k for k in states[1] if k not in states[0]} == {
        k for k in states[1] if '.calibration.' in k
    }


PANOPTIC = """
from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadSegments(LoadPanopticAnnotations):
    '''As of mmdet, without panopticapi, which is not on PyPI: of it, only this sum is used.'''

    def __init__(self):
        LoadAnnotations.__init__(self, with_bbox=True, with_mask=True, with_seg=True)
        self.rgb2id = lambda colours: colours.astype(int) @ [1, 256, 256**2]
"""


def write_panoptic(root: Path, *, num_train: int, num_val: int) -> tuple[list[str], list[str]]:
    """Scenes in COCO's panoptic format: objects are things, but one kind of them and the ground.

    Returns:
        Names of things and of stuff, in the order of their labels; ids have gaps.
    """
    spec = SceneSpec(num_classes=6, imbalance=10)
    stuff = (1, 4)  # as labels of scenes
    labels = [*(label for label in range(1, 7) if label not in stuff), *stuff]
    names = [spec.classes[label - 1] for label in labels]
    categories = [
        dict(id=10 * label, name=name, isthing=int(label not in stuff))
        for label, name in zip(labels, names)
    ]
    for split, count in (('training', num_train), ('validation', num_val)):
        (root / 'segments' / split).mkdir(parents=True)
        (root / 'images' / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            scene = render_scene(spec, split, number)
            Image.fromarray(scene.image).save(root / f'images/{split}/{number}.jpg', quality=95)
            ids = (scene.labels == 1).astype(int)
            for index, instance in enumerate(scene.instances, start=300):  # more than a byte holds
                ids[instance.mask] = 2 if instance.label in stuff else index
            own = {1: 1, 2: 4, **{i: s.label for i, s in enumerate(scene.instances, start=300)}}
            colours = np.stack([ids % 256, ids // 256, 0 * ids], axis=-1).astype(np.uint8)
            Image.fromarray(colours).save(root / f'segments/{split}/{number}.png')
            height, width = ids.shape
            images.append(dict(id=number, file_name=f'{number}.jpg', height=height, width=width))
            segments = [_segment(ids == each, each, 10 * own[each]) for each in np.unique(ids)[1:]]
            annotations.append(
                dict(image_id=number, file_name=f'{number}.png', segments_info=segments)
            )
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / f'{split}.json').write_text(json.dumps(content))
    return names[: -len(stuff)], names[-len(stuff) :]


def _segment(mask: np.ndarray, number: int, category: int) -> dict:
    rows, columns = np.nonzero(mask)
    size = [int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return dict(
        id=int(number),
        category_id=category,
        iscrowd=0,
        area=len(rows),
        bbox=[int(columns.min()), int(rows.min()), *size],
    )
