"""The detection losses in mmdet's heads: the bias they start with, epochs, processes, effect."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from project import SERVER
from test_detection_losses import TABLES, C, batch, made, total
from test_detectors import stage1_cfg
from torch import nn

from mmdisalign import losses
from mmdisalign.calibration import ClassPrior
from mmdisalign.data.scenes import SceneSpec, write_lvis
from mmdisalign.detection.detectors import _reweight
from mmdisalign.detection.layers import scoring_heads
from mmdisalign.processes import agreed


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmdet')


TWO_PROCESSES = json.loads((TABLES / 'eql_v2_two_processes.json').read_text())
RARE = math.log(0.001 / 0.999)


def with_loss(**loss: object) -> nn.Module:
    cfg = stage1_cfg('faster')
    cfg.roi_head.bbox_head.loss_cls = loss
    return MODELS.build(cfg)


def retinanet(**loss: object) -> nn.Module:
    head = dict(type='RetinaHead', num_classes=C, in_channels=16, feat_channels=8, stacked_convs=1)
    anchors = dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16, 32])
    own = dict(use_sigmoid=True, num_classes=C)
    own = {key: value for key, value in {**own, **loss}.items() if value is not None}
    return MODELS.build(
        dict(
            type='RetinaNet',
            backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3)),
            neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=16, num_outs=3),
            bbox_head=dict(head, anchor_generator=anchors, loss_cls=own),
            train_cfg=dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
            ),
        )
    )


@pytest.mark.parametrize(
    ('loss', 'bias'),
    [
        (dict(type='EQLv2Loss', num_classes=5), RARE),
        (dict(type='EQLLoss', class_prior=[9, 5, 4, 2, 1], num_images=20), RARE),
        (dict(type='GumbelLoss', num_classes=5), -2.0),
        (
            dict(type='DropLoss', class_prior=[9, 5, 4, 2, 1], num_images=20, link='gumbel'),
            -2.0,
        ),
        (dict(type='GradLibraLoss', num_classes=5, initial_probability=0.25), -math.log(3)),
        (dict(type='IIFLoss', class_prior=[9, 5, 4, 2, 1]), None),
    ],
)
def test_a_loss_sets_the_bias_of_the_head_it_is_in(loss: dict, bias: float | None) -> None:
    model = with_loss(**loss)
    before = model.roi_head.bbox_head.fc_cls.bias.clone()
    model.init_weights()
    after = model.roi_head.bbox_head.fc_cls.bias
    if bias is None:
        assert not torch.allclose(after, torch.full_like(after, RARE))
    else:
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, torch.full_like(after, bias), rtol=0, atol=1e-5)


def test_the_bias_of_a_dense_head_is_its_own_unless_the_loss_says_else() -> None:
    for options, bias in (({}, math.log(0.01 / 0.99)), ({'initial_probability': 0.001}, RARE)):
        model = retinanet(type='EqualizedFocalLoss', **options)
        model.init_weights()
        found = model.bbox_head.retina_cls.bias
        torch.testing.assert_close(found, torch.full_like(found, bias), rtol=0, atol=1e-5)


def test_a_loss_of_other_classes_than_the_head_is_refused() -> None:
    sentence = 'the head has 5 classes, but EQLv2Loss 4: give it the same num_classes'
    with pytest.raises(ValueError, match=sentence):
        with_loss(type='EQLv2Loss', num_classes=4)
    for other in (
        dict(type='PCBLoss', num_classes=4),
        dict(type='SeesawPCBLoss', num_classes=4),
        dict(type='SoftmaxEQLLoss', class_prior=[9, 5, 4, 2], num_images=20),
    ):
        with pytest.raises(
            ValueError, match=f'the head has 5 classes, but {other["type"]} 4: give'
        ):
            with_loss(**other)
    own = dict(type='EQLLoss', class_prior=[2, 1])
    with pytest.raises(ValueError, match='EQLLoss is of each class: set use_sigmoid=True'):
        MODELS.build(dict(own, num_images=3, use_sigmoid=False))
    with pytest.raises(ValueError, match='EQLLoss counts images: set num_images to how many'):
        MODELS.build(own)
    with pytest.raises(ValueError, match=r'class 0 is in 90 of 50 images: give num_images'):
        MODELS.build(dict(type='EQLLoss', class_prior=[90, 1], num_images=50))


def test_a_head_that_does_not_ask_its_loss_is_refused() -> None:
    loss = dict(type='GumbelLoss', num_classes=5)
    with pytest.raises(TypeError, match='SABLHead takes its scores for those of a softmax'):
        MODELS.build(dict(type='SABLHead', num_classes=5, loss_cls=loss))
    head = dict(type='RetinaHead', num_classes=5, in_channels=8, loss_cls=loss)
    with pytest.raises(TypeError, match='GumbelLoss is for bbox heads: RetinaHead does not ask'):
        MODELS.build(head)
    with pytest.raises(TypeError, match='SeesawPCBLoss is for bbox heads: RetinaHead does not ask'):
        MODELS.build({**head, 'loss_cls': dict(type='SeesawPCBLoss', num_classes=5)})


SOFTMAX = {
    'PCBLoss': dict(begin=0, use_sigmoid=None),
    'SoftmaxEQLLoss': dict(
        class_prior=[60, 25, 9, 1], num_images=99, num_classes=None, use_sigmoid=None
    ),
}


@pytest.mark.parametrize('kind', SOFTMAX)
def test_a_softmax_loss_in_a_dense_head_predicts_as_cross_entropy_does(kind: str) -> None:
    images, found = torch.randn(1, 3, 64, 64), []
    for loss in (dict(type=kind, **SOFTMAX[kind]), dict(type='CrossEntropyLoss', num_classes=None)):
        torch.manual_seed(0)
        model = retinanet(**{'use_sigmoid': False, **loss})
        assert model.bbox_head.cls_out_channels == C + 1
        # What the background wins, as it does after training, is no object.
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=1.0)
        torch.nn.init.constant_(model.bbox_head.retina_cls.bias[-1:], 2.0)
        model.bbox_head.test_cfg = Config(
            dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.9), max_per_img=500)
        )
        sample = DetDataSample(
            metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
        )
        (result,) = model.eval().predict(images, [sample])
        found.append(result.pred_instances)
    assert found[0].labels.unique().tolist() == list(range(C))
    for key in ('labels', 'scores', 'bboxes'):
        assert torch.equal(found[0][key], found[1][key])


@pytest.mark.parametrize('kind', [*SOFTMAX, 'EqualizedFocalLoss'])
def test_a_loss_of_other_classes_than_a_dense_head_is_refused(kind: str) -> None:
    options = SOFTMAX.get(kind, {})
    other = dict(class_prior=[9, 5, 4, 2, 1]) if 'class_prior' in options else dict(num_classes=5)
    with pytest.raises(ValueError, match=f'the head has {C} classes, but {kind} 5: give it'):
        retinanet(**{'type': kind, **options, **other})


def test_a_dense_head_trained_with_pcb_is_calibrated_without_it() -> None:
    model = retinanet(type='PCBLoss', **SOFTMAX['PCBLoss'])
    scores, label = torch.randn(6, C + 1), torch.tensor([0, 1, 2, 3, C, C])
    model.bbox_head.loss_cls.balance.confusion.uniform_()
    model.bbox_head.loss_cls.balance.instances.fill_(9.0)
    (head,) = scoring_heads(model)
    _reweight(head, ClassPrior.build([8, 4, 2, 1]), 1.0, 'error')
    expected = torch.nn.functional.cross_entropy(scores, label, reduction='none')
    own = torch.cat([model.bbox_head.loss_cls.grw_weight, torch.ones(1)])[label]
    assert own[3] / own[0] == 8
    torch.testing.assert_close(
        model.bbox_head.loss_cls(scores, label, avg_factor=4.0), (own * expected).sum() / 4
    )


def test_a_loss_for_rare_classes_says_that_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmdisalign.detection.losses.print_log', lambda text, *_: said.append(text))
    options = dict(type='EQLLoss', class_prior=[9, 5, 4, 2, 1], num_images=20)
    MODELS.build(dict(options, lambda_=0.06))
    assert not said
    MODELS.build(options)
    (text,) = said
    assert 'no class is in less than a share of 0.00176 of 20 images' in text


def test_the_ratio_moves_between_iterations_and_not_between_levels() -> None:
    torch.manual_seed(0)
    loss, seen = made('EqualizedFocalLoss'), []
    ratio = loss.gradient_ratio
    for _ in range(2):
        losses = []
        for level in range(3):
            scores, label = batch('EqualizedFocalLoss', level)
            losses.append(loss(scores.requires_grad_(), label, avg_factor=4.0))
            seen.append(ratio().tolist())
        sum(losses).backward()
    assert seen[0] == seen[1] == seen[2] == [1.0] * C
    assert seen[3] == seen[4] == seen[5] != seen[0]
    assert ratio()[C - 1] == 0  # a class that was never seen


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_balance_begins_with_the_epoch_or_iteration_that_it_is_told(by_epoch: bool) -> None:
    options = dict(num_classes=2, begin=3, by_epoch=by_epoch)
    loss = MODELS.build(dict(type='PCBLoss', alpha=0.5, **options))
    plain = MODELS.build(dict(type='mmdet.CrossEntropyLoss'))
    scores, label = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 1, 2])
    for now in (2, 3):
        key = 'epoch' if by_epoch else 'iter'
        MessageHub.get_current_instance().update_info(key, now)
        same = torch.allclose(loss(scores, label), plain(scores, label))
        assert same is (now < 3)
    MessageHub.get_current_instance().update_info(key, 0)


SHARED = ['EQLv2Loss', 'EqualizedFocalLoss', 'EQLv2PCBLoss', 'PCBLoss', 'DropLoss']
Found = tuple[torch.Tensor, dict[str, torch.Tensor]]


def of_rank(rank: int, number: int, name: str, resumed: bool = False) -> Found:
    """The last loss of four iterations, of a share of each batch, and the state.

    Resumed, a new loss goes on after two, with the state that the first process has saved.
    """
    loss = made(name)
    for seed in range(4):
        if resumed and seed == 2:
            state = agreed(loss.state_dict())
            loss = made(name)
            loss.load_state_dict(state)
        scores, label = (own[rank::number] for own in batch(name, seed))
        value = total(loss(scores.clone().requires_grad_(), label))
        value.backward()
    return value.detach(), dict(loss.named_buffers())


def be_one_of_two(rank: int, port: int, folder: Path) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    torch.rand_like = lambda own: torch.full_like(own, 0.5)
    found = {(name, again): of_rank(rank, 2, name, again) for name in SHARED for again in (0, 1)}
    found['released'] = released(rank)
    torch.save(found, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


def released(rank: int) -> list[dict[str, torch.Tensor]]:
    """The losses, gradients and sums of EQL v2 in the authors' two processes."""
    loss, found = losses.EQLv2Loss(5).double(), []
    for step in TWO_PROCESSES['steps']:
        scores, label = step['scores'][rank], step['label'][rank]
        scores = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        value = loss(scores, torch.tensor(label))
        value.backward()
        ratio = loss.gradient_ratio
        found.append(dict(loss=value.detach(), grad=scores.grad, sums=ratio.sums + ratio.added))
    return found


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp('two')
    with socket.socket() as opened:
        opened.bind(('127.0.0.1', 0))
        port = opened.getsockname()[1]
    processes = [SERVER.Process(target=be_one_of_two, args=(rank, port, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f'{rank}.pt') for rank in (0, 1)]


@pytest.mark.parametrize('name', SHARED)
def test_two_processes_are_one_with_the_joint_batch_also_when_resumed(
    name: str, two_processes: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, 'rand_like', lambda own: torch.full_like(own, 0.5))
    value, state = of_rank(0, 1, name)
    for again in (0, 1):
        first, second = (found[name, again] for found in two_processes)
        joint = (first[0] + second[0]) / 2  # as DDP averages gradients
        torch.testing.assert_close(joint, value, rtol=1e-4, atol=1e-5)
        for key, own in state.items():
            assert torch.equal(first[1][key], second[1][key])
            # A mean over half the elements: gradients of each twice as large, the ratio as it is.
            own = 2 * own if name == 'EqualizedFocalLoss' else own
            torch.testing.assert_close(first[1][key], own, rtol=1e-5, atol=1e-6)


def test_eql_v2_in_two_processes_is_as_released(two_processes: list[dict]) -> None:
    close = {'rtol': 1e-9, 'atol': 1e-10}
    for rank, found in enumerate(two_processes):
        for own, step in zip(found['released'], TWO_PROCESSES['steps']):
            assert own['loss'].item() == pytest.approx(step['loss'][rank], rel=1e-9)
            grad = torch.tensor(step['grad'][rank], dtype=torch.float64)
            torch.testing.assert_close(own['grad'], grad, **close)
            sums = torch.tensor(step['sums'], dtype=torch.float64)
            torch.testing.assert_close(own['sums'], sums, **close)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('scenes')
    write_lvis(SceneSpec(), root / 'scenes', num_train=88, num_val=1)
    return root


def rare_mass(repo: Path, scenes: Path, loss: dict) -> float:
    """Of the scores of all classes after some iterations, the share of the four rarest."""
    cfg = Config.fromfile(repo / 'configs/demo/mask-rcnn_r18_fpn_scenes-96x96.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg.model.roi_head.bbox_head.loss_cls = loss
    for key in ('mask_head', 'mask_roi_extractor'):
        cfg.model.roi_head.pop(key)
    model = MODELS.build({**cfg.model, 'type': 'FasterRCNN'})
    model.init_weights()
    data = DATASETS.build({**cfg.train_dataloader.dataset, 'data_root': str(scenes / 'scenes')})
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for start in range(0, 80, 4):
        inputs = pseudo_collate([data[index % len(data)] for index in range(start, start + 4)])
        inputs = model.data_preprocessor(inputs, True)
        losses = model.loss(inputs['inputs'], inputs['data_samples'])
        value, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    head, seen = model.eval().roi_head.bbox_head, []
    head.fc_cls.register_forward_hook(lambda _, __, scores: seen.append(scores))
    with torch.no_grad():
        model.predict(inputs['inputs'], inputs['data_samples'])
    (scores,) = seen
    found = head.loss_cls.get_activation(scores) if head.custom_activation else scores.softmax(1)
    own = found[:, :-1].mean(dim=0)
    return float(own[-4:].sum() / own.sum())  # classes are in the order of their frequencies


def test_on_scenes_rare_classes_get_a_larger_share_of_the_scores(repo: Path, scenes: Path) -> None:
    prior = dict(class_prior=str(scenes / 'scenes/annotations/scenes_train.json'))
    rare = dict(num_images=88, **prior)
    for kind in ('DropLoss', 'SoftmaxEQLLoss'):
        # With λ = 0 no class is rare: cross-entropy of that form, and the same random numbers.
        plain, found = (
            rare_mass(repo, scenes, dict(type=kind, lambda_=share, **rare)) for share in (0.0, 0.15)
        )
        assert found > 1.5 * plain
