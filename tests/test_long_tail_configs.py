"""Every config of a long-tail method builds, trains and names the data that it is of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, METRICS, MODELS
from mmpretrain.structures import DataSample
from test_cls_configs import (
    DISTILLED,
    OTHERS,
    REPO,
    is_classification,
    is_other,
    shipped_configs,
    write_lists,
)

from mmdisalign.calibration import ClassPrior

NAMES = [name for name in shipped_configs() if is_classification(name) and is_other(name)]
OF_METHODS = [name for name in NAMES if Path(name).stem.split('_')[0] in OTHERS]
SAMPLES = [DataSample().set_gt_label(label % 10) for label in range(12)]


@pytest.fixture(scope='module')
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('project')
    write_lists(root)
    return root


@pytest.fixture(autouse=True)
def scope(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope('mmpretrain')
    monkeypatch.chdir(project)


def load(name: str) -> Config:
    return Config.fromfile(REPO / 'configs' / name)


def test_each_method_has_a_config() -> None:
    found = {Path(name).stem.split('_')[0] for name in NAMES}
    assert found == {*OTHERS, *DISTILLED, 'balanced-softmax', 'resnet32'}


@pytest.mark.parametrize('name', OF_METHODS)
def test_a_config_of_a_method_builds_and_has_a_loss(name: str) -> None:
    cfg = load(name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    head, loss = OTHERS[Path(name).stem.split('_')[0]]
    assert type(model.head).__name__ == head
    assert type(model.head.loss_module).__name__ == loss
    assert len((REPO / 'configs' / name).read_text().splitlines()) <= 12
    if type(model).__name__ == 'CalibratedImageClassifier':
        stage1 = '/'.join([name.split('/')[0], Path(cfg.load_from).parent.name + '.py'])
        model.load_state_dict(MODELS.build(load(stage1).model).state_dict(), strict=False)
    losses = model.loss(torch.rand(12, 3, 32, 32), SAMPLES)
    total = sum(value for key, value in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    for hook in cfg.get('custom_hooks', []):
        assert hook.type.startswith('mmdisalign.classification.')
    if loss in ('CDBLoss', 'DifficultyNetLoss'):
        assert cfg.train_cfg.val_interval == 1


@pytest.mark.parametrize('name', [name for name in NAMES if Path(name).stem[:3] in DISTILLED])
def test_a_student_says_which_teacher_is_to_be_trained_first(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(REPO)
    cfg = load(name)
    (teacher,) = cfg.model.teachers
    assert Path(teacher.config).is_file()
    stem = Path(teacher.config).stem
    assert teacher.checkpoint.startswith(f'work_dirs/{stem}/epoch_')
    missing = dict(teacher, checkpoint=str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='train it first'):
        MODELS.build({**cfg.model, 'teachers': [missing]}).loss(torch.rand(12, 3, 32, 32), SAMPLES)
    saved = tmp_path / 'teacher.pth'
    trained = MODELS.build(Config.fromfile(teacher.config).model)
    torch.save({'state_dict': trained.state_dict()}, saved)
    model = MODELS.build({**cfg.model, 'teachers': [dict(teacher, checkpoint=str(saved))]})
    losses = model.loss(torch.rand(12, 3, 32, 32), SAMPLES)
    sum(value for key, value in losses.items() if 'loss' in key).backward()


def test_the_held_out_images_are_of_the_training_files_and_no_test_images() -> None:
    cfg = load('cifar_lt/resnet32_1xb128-200e_cifar10-lt-if100-held-out.py')
    own, kept = cfg.val_dataloader.dataset, cfg.train_dataloader.dataset
    assert DATASETS.get(own.type) is not None
    assert own.held_out and own.split == 'train' and not kept.get('held_out')
    assert own.hold_out == kept.hold_out == 25 and own.imbalance == kept.imbalance
    assert not cfg.test_dataloader.dataset.get('held_out', False)
    assert sum(cfg.class_prior) < 12406 and cfg.class_prior[0] == 4975


def test_the_lines_for_several_labels_an_image_train_and_evaluate(tmp_path: Path) -> None:
    text = (REPO / 'docs/longtail_classification.md').read_text()
    lines = re.findall(r'```python\n(.*?)```', text, re.DOTALL)[-1]
    prior = tmp_path / 'prior.json'
    ClassPrior([9, 5, 2]).to_json(prior)
    (tmp_path / 'lines.py').write_text(lines.replace('my_prior.json', str(prior)))
    cfg = Config.fromfile(tmp_path / 'lines.py')
    head = MODELS.build({**cfg.model.head, 'num_classes': 3, 'in_channels': 8})
    labels = [[0, 1], [0], [2], [0, 2]]
    given = [DataSample().set_gt_label(own) for own in labels]
    losses = head.loss((torch.rand(4, 8),), given)
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    metric = METRICS.build(cfg.val_evaluator)
    predicted = head.predict((torch.rand(4, 8),), given)
    metric.process(None, [own.to_dict() for own in predicted])
    assert {'mAP', 'many', 'few'} <= {key.split('/')[-1] for key in metric.evaluate(4)}
