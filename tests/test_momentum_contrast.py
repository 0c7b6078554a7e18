"""SSD's stage I: the authors' loss, the queue, and a training that goes on in stage II."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from project import run
from test_long_tail_classifiers import config, project, samples, scope, train
from torch import nn

from mmdisalign.classification import (
    MoCoImageClassifier,
    MultiViewDataPreprocessor,
    calibrated_classifier,
    momentum_contrast,
)
from mmdisalign.engine import launch
from mmdisalign.losses import labelled_contrastive_loss

__all__ = ['project', 'scope']  # fixtures
TABLE = json.loads((Path(__file__).parent / 'tables/classification.json').read_text())
PROJECTOR = dict(type='MoCoV2Neck', in_channels=64, hid_channels=16, out_channels=8)


def tensor(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_is_the_released_one() -> None:
    (case,) = (case for case in TABLE if case['id'] == 'ssd_contrastive')
    own = case['inputs']
    query = tensor(own['query']).requires_grad_()
    loss = labelled_contrastive_loss(
        query,
        tensor(own['key']),
        tensor(own['queue']).T,
        torch.tensor(own['labels']),
        torch.tensor(own['queue_labels']),
        case['options']['T'],
    )
    assert loss.item() == pytest.approx(case['expected']['loss'], rel=1e-9)
    loss.backward()
    assert query.grad.any()


def test_by_hand_and_with_no_negative() -> None:
    one, two = tensor([[1.0, 0.0]]), tensor([[0.0, 1.0]])
    label = torch.tensor([3])
    # Of an own key at 1 and one of another class at 0: log(1 + 1/e).
    loss = labelled_contrastive_loss(one, one, two, label, torch.tensor([4]), 1.0)
    assert loss.item() == pytest.approx(0.31326168751)
    alone = labelled_contrastive_loss(one, one, two, label, torch.tensor([3]), 1.0)
    assert alone == 0


@pytest.fixture
def built(project: Path) -> nn.Module:
    model = dict(Config.fromfile('stage1.py').model, type='MoCoImageClassifier')
    return MODELS.build(dict(model, projector=PROJECTOR, queue_len=10))


def views(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(number, 3, 32, 32, generator=generator) for _ in range(2)]


def test_the_oldest_keys_leave_the_queue(built: nn.Module) -> None:
    assert (built.contrast.queue_label == -1).all()
    label, random = torch.tensor([0, 1, 2, 0]), built.contrast.queue.clone()
    for _ in range(3):
        built.loss(views(4), samples(label))
    assert built.contrast.queue_ptr == 2
    # Twelve keys in ten places: two of the last batch are at the beginning.
    assert built.contrast.queue_label.tolist() == [2, 0, 2, 0, 0, 1, 2, 0, 0, 1]
    torch.testing.assert_close(built.contrast.queue.norm(dim=1), torch.ones(10))
    assert not torch.isclose(built.contrast.queue, random).all(dim=1).any()


def test_keys_follow_slowly_and_have_no_gradient(built: nn.Module) -> None:
    losses = built.loss(views(4), samples(torch.tensor([0, 1, 2, 0])))
    assert {'loss', 'loss_contrast'} <= set(losses)
    losses['loss_contrast'].backward()
    assert built.head.fc.weight.grad is None
    assert all(own.grad is not None for own in built.contrast.projector.parameters())
    assert all(own.grad is None for own in built.contrast.encoder_k.parameters())
    first = built.contrast.encoder_k.module[1].mlp[0].weight
    own = built.contrast.projector.mlp[0].weight
    torch.testing.assert_close(first, own)
    before = own.clone()
    own.data.add_(1.0)
    built.loss(views(4), samples(torch.tensor([0, 1, 2, 0])))
    torch.testing.assert_close(first, before + 0.001)


def test_keys_of_all_processes_are_kept(built: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {torch.float32: torch.full((2, 8), 8**-0.5), torch.int64: torch.tensor([7, 7])}
    monkeypatch.setattr(momentum_contrast, 'all_gather', lambda own: [own, other[own.dtype]])
    built.loss(views(2), samples(torch.tensor([0, 1])))
    assert built.contrast.queue_label.tolist() == [0, 1, 7, 7, *[-1] * 6]
    assert built.contrast.queue_ptr == 4


def test_one_view_is_told(built: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"needs two views of an image: set dict\(type='MultiView'"):
        built.loss(views(2)[0], samples(torch.tensor([0, 1])))
    with pytest.raises(TypeError, match='needs two views'):
        built.loss([*views(2), views(2)[0]], samples(torch.tensor([0, 1])))


def test_a_second_stage_is_told_to_take_the_stock_model() -> None:
    with pytest.raises(TypeError, match=r"with model\.type='ImageClassifier' and one view"):
        calibrated_classifier(MoCoImageClassifier)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # Features that lie close together: the sum over the queue is more than half precision has.
    keys = F.normalize(1 + 0.1 * torch.randn(40_000, 8, generator=generator), dim=1).to(dtype)
    label = torch.zeros(4, dtype=torch.long)
    given = keys[:4], keys[4:8], keys[8:], label, torch.ones(len(keys) - 8)
    found = labelled_contrastive_loss(*given)
    assert found.dtype == torch.float32 and found.isfinite()
    single = labelled_contrastive_loss(*(own.float() for own in given[:3]), *given[3:])
    torch.testing.assert_close(found, single)


@pytest.mark.parametrize('stacked', [False, True])
def test_views_are_prepared_as_an_image_is(stacked: bool) -> None:
    prepare = MultiViewDataPreprocessor(mean=[0.5] * 3, std=[2.0] * 3, to_rgb=True)
    stock = ClsDataPreprocessor(mean=[0.5] * 3, std=[2.0] * 3, to_rgb=True)
    first, second = (list(own) for own in views(4))
    given = samples(torch.tensor([0, 1, 2, 0]))
    both = [torch.stack(own) if stacked else tuple(own) for own in (first, second)]
    found = prepare(dict(inputs=both, data_samples=given), training=True)
    for own, view in zip(found['inputs'], (first, second)):
        torch.testing.assert_close(own, stock(dict(inputs=view, data_samples=given))['inputs'])
    assert [int(own.gt_label) for own in found['data_samples']] == [0, 1, 2, 0]
    one = dict(inputs=first, data_samples=given)
    torch.testing.assert_close(prepare(one)['inputs'], stock(one)['inputs'])


def test_mixed_images_are_refused(project: Path) -> None:
    model = dict(Config.fromfile('stage1.py').model, type='MoCoImageClassifier')
    mixed = dict(augments=[dict(type='Mixup', alpha=0.8)])
    for own in (dict(train_cfg=mixed), dict(data_preprocessor=dict(batch_augments=mixed))):
        with pytest.raises(ValueError, match=r'take train_cfg\.augments and data_preprocessor'):
            MODELS.build(dict(model, projector=PROJECTOR, **own))
    stock = dict(data_preprocessor=dict(type='ClsDataPreprocessor'))
    with pytest.raises(ValueError, match=r'take data_preprocessor\.type out'):
        MODELS.build(dict(model, projector=PROJECTOR, **stock))


def contrasted(work_dir: str, epochs: int = 2) -> Config:
    cfg = config(work_dir, epochs)
    cfg.model.update(type='MoCoImageClassifier', projector=PROJECTOR, queue_len=48)
    load, *_, pack = cfg.train_dataloader.dataset.pipeline
    several = dict(type='MultiView', num_views=[1, 1], transforms=[[], []])
    cfg.train_dataloader.dataset.pipeline = [load, several, pack]
    return cfg


def test_a_training_that_is_resumed_is_an_unbroken_one_and_goes_on_in_stage_2(
    project: Path, repo: Path
) -> None:
    runner = train(contrasted('whole', 3))
    assert runner.model.contrast.queue_label.bincount(minlength=3).sum() == 48  # 56 images an epoch
    cfg = contrasted('part', 3)
    launch.resume(cfg, 'whole/epoch_2.pth')
    train(cfg)
    ends = [torch.load(f'{name}/epoch_3.pth', weights_only=False) for name in ('whole', 'part')]
    # A batch is shuffled for its keys, which rounds the sums of its statistics another way.
    for key, own in ends[0]['state_dict'].items():
        torch.testing.assert_close(ends[1]['state_dict'][key], own, rtol=1e-3, atol=1e-4)
    stage_2 = """
_base_ = ['stage1.py', __import__('mmdisalign').config_path('_base_/decoupled_cls.py')]
model = _base_.decoupled.lws.model
train_cfg, optim_wrapper, param_scheduler, default_hooks = _base_.disalign.short_schedule
load_from = 'whole/epoch_3.pth'
train_cfg.update(max_epochs=1)
"""
    (project / 'lws.py').write_text(stage_2)
    run(repo, project, sys.executable, repo / 'tools/train.py', 'lws.py', '--work-dir', 'lws')
    state = torch.load('lws/epoch_1.pth', weights_only=False)['state_dict']
    fc = ends[0]['state_dict']['head.fc.weight']
    assert torch.equal(state['head.fc.weight'], fc) and not any('contrast' in key for key in state)


def test_it_is_tested_as_an_image_classifier(built: nn.Module) -> None:
    stock = MODELS.build(Config.fromfile('stage1.py').model).eval()
    stock.load_state_dict(built.state_dict(), strict=False)
    images = views(2)[0]
    with torch.no_grad():
        assert torch.equal(built.eval()(images), stock(images))
