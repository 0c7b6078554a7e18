"""Breadcrumb: the authors' numbers, the batches that a head gets, and what a checkpoint keeps."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from test_long_tail_classifiers import COUNTS, config, project, scope, train
from torch import Tensor

from mmdisalign.calibration import BackTrackedFeatures
from mmdisalign.classification import BreadcrumbClsHead, BreadcrumbHook, breadcrumb
from mmdisalign.engine import launch

__all__ = ['project', 'scope']  # fixtures
TABLE = json.loads((Path(__file__).parent / 'tables/classification.json').read_text())
OPTIONS = {
    'model.head.type': 'BreadcrumbClsHead',
    'custom_hooks': [dict(type='BreadcrumbHook')],
}


def test_features_are_moved_to_the_newest_mean_as_released() -> None:
    (case,) = (case for case in TABLE if case['id'] == 'breadcrumb_emanate')
    epochs = case['inputs']['features_by_epoch_and_class']
    # The case has five features a class of two classes: a third of eight makes five the average.
    counts = [*(len(of_class) for of_class in epochs[0]), 8]
    kept = BackTrackedFeatures(counts)
    assert kept.per_class == case['inputs']['per_class'] and kept.epochs == [1, 3, 1]
    label = torch.arange(3).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    order = order[label[order].argsort(stable=True)].sort().values  # as the case has them
    for of_classes in epochs:
        assert not kept.is_full
        features = torch.tensor(
            [*of_classes[0], *of_classes[1], *[[1.0, 2.0, 3.0]] * 8], dtype=torch.float64
        )
        kept.add(features[order], label[order])
    assert kept.is_full
    features, classes = kept.balanced()
    assert classes.bincount().tolist() == [5, 5, 5]
    expected = torch.tensor(case['expected']['augmented_by_class'], dtype=torch.float64)
    torch.testing.assert_close(features[:10].view(2, 5, 3), expected)


def test_what_a_checkpoint_had_on_a_gpu_is_kept_on_the_cpu() -> None:
    class OnGPU(torch.Tensor):
        def cpu(self) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    state = [
        [(own.as_subclass(OnGPU), own.mean(dim=0).as_subclass(OnGPU))]
        for own in torch.rand(2, 3, 4)
    ]
    kept = BackTrackedFeatures([3, 3])
    kept.load_state_dict(state)
    kept.add(torch.rand(6, 4), torch.tensor([0, 1] * 3))
    assert all(type(part) is torch.Tensor for of in kept.state_dict() for own in of for part in own)


def test_features_are_kept_in_single_precision(project: Path) -> None:
    runner = Runner.from_cfg(config('half', 1, **OPTIONS))
    original = runner.model.head.pre_logits
    runner.model.head.pre_logits = lambda feats: original(feats).bfloat16().requires_grad_()
    runner.model.head.bfloat16()
    runner.train()
    kept = torch.load('half/epoch_1.pth', weights_only=False)['breadcrumb']['kept']
    assert {part.dtype for of in kept for own in of for part in own} == {torch.float32}


def test_processes_with_other_numbers_of_images_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breadcrumb, 'all_gather', lambda own: [own, own - 1])
    hook = BreadcrumbHook()
    hook._seen = [(torch.rand(3, 2), torch.tensor([0, 1, 1]))]
    with pytest.raises(ValueError, match=r'each process, but they have \[2, 3\]: set round_up=Tr'):
        hook.after_train_epoch(SimpleNamespace())


def test_a_second_stage_of_its_head_is_refused(project: Path) -> None:
    stage_1 = config('stage1', 1, **OPTIONS)
    train(stage_1)
    cfg = config('stage2', 1, **OPTIONS)
    cfg.model.update(type='CalibratedImageClassifier', class_prior=COUNTS)
    cfg.load_from = 'stage1/epoch_1.pth'
    with pytest.raises(TypeError, match=r"head\.type='LinearClsHead' and custom_hooks=\[\]"):
        train(cfg)


def test_by_hand() -> None:
    kept = BackTrackedFeatures([3, 1])
    kept.add(torch.tensor([[1.0], [5.0], [2.0], [3.0]]), torch.tensor([0, 1, 0, 0]))
    assert not kept.is_full  # of the second class, two epochs are kept
    kept.add(torch.tensor([[4.0], [9.0], [6.0], [8.0]]), torch.tensor([0, 1, 0, 0]))
    features, classes = kept.balanced()
    # The mean of the second class went from 5 to 9, so its feature of before is 9, too.
    assert features.flatten().tolist() == [4, 6, 9, 9] and classes.tolist() == [0, 0, 1, 1]


def test_the_mean_is_of_all_features_and_an_epoch_is_not_kept_in_memory_for_a_part() -> None:
    kept = BackTrackedFeatures([4, 0, 2])
    kept.add(
        torch.tensor([[0.0], [2.0], [9.0], [9.0], [5.0], [5.0]]), torch.tensor([0] * 4 + [2] * 2)
    )
    (own, mean), (_, rare) = kept.state_dict()[0][0], kept.state_dict()[2][0]
    assert own.flatten().tolist() == [0, 2] and mean.item() == 5 and rare.item() == 5
    assert own.untyped_storage().nbytes() == 2 * 4
    assert kept.is_full  # a class without images has none to wait for
    with pytest.raises(ValueError, match='class 1 has features, but was counted to have no image'):
        kept.add(torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match='features of 3 classes, the data 2'):
        BackTrackedFeatures([1, 1]).load_state_dict(kept.state_dict())


def test_the_backbone_learns_from_images_and_the_classifier_from_constants() -> None:
    head = BreadcrumbClsHead(num_classes=3, in_channels=4)
    features = torch.rand(2, 4, requires_grad=True)
    given = [DataSample().set_gt_label(own) for own in (0, 2)]
    with pytest.raises(RuntimeError, match="custom_hooks=\\[dict\\(type='BreadcrumbHook'\\)\\]"):
        head.loss((features,), given)
    head.balanced = torch.rand(6, 4), torch.arange(6) % 3
    losses = head.loss((features,), given)
    losses['loss_balanced'].backward(retain_graph=True)
    assert features.grad is None and head.fc.weight.grad.any()
    assert head.fc_plain.weight.grad is None
    losses['loss'].backward()
    assert features.grad.any() and head.fc_plain.weight.grad.any()
    assert torch.equal(head.seen[0], features) and head.seen[1].tolist() == [0, 2]
    mixed = [DataSample().set_gt_score(torch.tensor([0.5, 0.5, 0.0])) for _ in range(2)]
    with pytest.raises(ValueError, match='mixed images are of none'):
        head.loss((features,), mixed)


def test_a_training_that_is_resumed_is_an_unbroken_one(project: Path) -> None:
    batches = []
    original = BreadcrumbHook.before_train_iter

    def watched(self: BreadcrumbHook, runner: Runner, **given: object) -> None:
        original(self, runner, **given)
        batches.append((runner.epoch, self._features is None, runner.model.head.balanced[1]))

    BreadcrumbHook.before_train_iter = watched
    try:
        train(config('whole', 7, **OPTIONS))
    finally:
        BreadcrumbHook.before_train_iter = original
    # 56 images of three classes are 19 of each: the four of the last one are kept five epochs long.
    assert {(epoch, images) for epoch, images, _ in batches} == {
        (epoch, epoch < 5) for epoch in range(7)
    }
    last = torch.cat([label for epoch, _, label in batches if epoch == 6])
    assert len(last) == sum(COUNTS) and last.bincount().min() > 15
    cfg = config('part', 7, **OPTIONS)
    launch.resume(cfg, 'whole/epoch_6.pth')
    train(cfg)
    ends = [torch.load(f'{name}/epoch_7.pth', weights_only=False) for name in ('whole', 'part')]
    states = [end['state_dict'] for end in ends]
    assert all(torch.equal(own, states[1][key]) for key, own in states[0].items())
    kept = [end['breadcrumb']['kept'] for end in ends]
    assert [len(of_class) for of_class in kept[0]] == [1, 2, 5]
    for own, other in zip(*([*chain(*of_all)] for of_all in kept)):
        assert all(torch.equal(first, second) for first, second in zip(own, other))


class Images(list):
    def get_data_info(self, index: int) -> dict[str, int]:
        return dict(gt_label=self[index])


def dealt(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> list[tuple[Tensor, ...]]:
    """What a process of so many gives to its head in an epoch after two that are kept."""
    features = torch.arange(12.0).view(12, 1)
    label = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    head = BreadcrumbClsHead(num_classes=2, in_channels=1)
    monkeypatch.setattr(breadcrumb, 'get_dist_info', lambda: (rank, world_size))

    def gathered(own: Tensor) -> list[Tensor]:
        if own.numel() == 1:
            return [own] * world_size
        of = label if own.dtype == torch.long else features
        return [of[each::world_size] for each in range(world_size)]

    monkeypatch.setattr(breadcrumb, 'all_gather', gathered)
    runner = SimpleNamespace(
        model=SimpleNamespace(head=head, parameters=head.parameters),
        train_dataloader=SimpleNamespace(dataset=Images(label.tolist())),
        train_loop=None, max_epochs=3, iter=0, epoch=1,
    )  # fmt: skip
    hook, found, size = BreadcrumbHook(), [], 4 // world_size
    hook.before_train(runner)
    batch = dict(data_samples=[None] * size)
    for _ in range(2):  # of five features, when the average is six
        hook.before_train_epoch(runner)
        head.seen = features[rank::world_size], label[rank::world_size]
        hook.after_train_iter(runner, 0, batch)
        hook.after_train_epoch(runner)
    hook.before_train_epoch(runner)
    assert hook._kept.is_full
    for index in range(12 // 4):
        hook.before_train_iter(runner, index, batch)
        found.append(head.balanced)
    return found


def test_two_processes_share_the_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = dealt(monkeypatch, 0, 1)
    parts = [dealt(monkeypatch, rank, 2) for rank in (0, 1)]
    for joint, *halves in zip(one, *parts):
        for own, first, second in zip(joint, *halves):
            torch.testing.assert_close(torch.stack([first, second], dim=1).flatten(0, 1), own)


def test_a_training_too_short_for_the_rarest_class_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, said = Runner.from_cfg(config('short', 2, **OPTIONS)), []
    # Runs of the same second share a log file.
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    runner.train()
    assert 'begins after 5 epochs, when the rarest class has 19 features' in said[0]


@pytest.mark.parametrize('wrong', ['head', 'loop'])
def test_what_has_no_use_for_it_is_told(project: Path, wrong: str) -> None:
    cfg = config('wrong', **OPTIONS)
    if wrong == 'head':
        cfg.model.head.type = 'LinearClsHead'
    else:
        cfg.train_cfg = dict(by_epoch=False, max_iters=2, val_interval=2)
    says = {'head': "set model.head.type='BreadcrumbClsHead'", 'loop': 'counts in epochs'}
    with pytest.raises(TypeError, match=says[wrong]):
        train(cfg)
