"""A small model of each family of heads, and its stage 2 as ``tools/train.py`` trains it."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import test_seg_layers
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmdisalign.engine import launch
from mmdisalign.engine.configs import PLUGINS

C = 5
PRIOR = [50, 30, 15, 4, 1]
SIZE = 64
ITERATIONS = 4


def stock(library: str, name: str) -> ConfigDict:
    """The model of a config that ships with a library."""
    root = Path(importlib.util.find_spec(library).origin).parent
    return Config.fromfile(root / '.mim/configs' / name).model


def small(name: str) -> ConfigDict:
    """A detector with a sixteenth of its width, transformers of two layers, and 5 classes.

    Its ResNet-18 has as many channels as a ResNet-50 of that width, and statistics that would
    change were it not for the stage.
    """
    model = _small(stock('mmdet', name))
    width = dict(depth=18, base_channels=16, stem_channels=16)
    model.backbone.update(width, norm_eval=False, frozen_stages=-1, init_cfg=None)
    return model


def _small(value: Any, key: str = '') -> Any:
    if isinstance(value, dict):
        return ConfigDict({own: _small(each, own) for own, each in value.items()})
    if key == 'batch_augments':  # to the size of the stock images
        return None
    if key == 'class_weight' and isinstance(value, list):  # of the classes, and of no object
        return value[-C - 1 :]
    if isinstance(value, (list, tuple)):
        return type(value)(_small(each, key) for each in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if re.search(r'(channels?|dims|num_feats)$', key):
        return value // 16
    sizes = dict(num_classes=C, num_things_classes=3, num_stuff_classes=2, num_groups=4)
    most = dict(num_layers=2, num_queries=8, num_proposals=8, num_points=64)
    return sizes.get(key, min(value, most.get(key, value)))


def atss() -> ConfigDict:
    model = small('atss/atss_r50_fpn_1x_coco.py')
    model.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    return model


def dino() -> ConfigDict:
    model = small('dino/dino-4scale_r50_8xb2-12e_coco.py')
    # mmdet's DINO encodes boxes in 256 channels, whatever the config says.
    model.neck.out_channels, model.positional_encoding.num_feats = 256, 128
    for part in (model.encoder, model.decoder):
        for layer in part.layer_cfg.values():
            layer.embed_dims = 256
    return model


def sparse_rcnn() -> ConfigDict:
    """Of two stages."""
    model = small('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')
    roi_head = model.roi_head
    roi_head.num_stages = 2
    for key in ('bbox_head', 'stage_loss_weights'):
        roi_head[key] = roi_head[key][:2]
    model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    return model


@MODELS.register_module(force=True)
class OwnHead(RetinaHead):
    """A head of one's own: mmdisalign does not know the name of its layer."""

    def _init_layers(self) -> None:
        super()._init_layers()
        self.scores = self.retina_cls
        del self.retina_cls

    @property
    def retina_cls(self) -> nn.Module:
        return self.scores


def own_head() -> ConfigDict:
    model = small('retinanet/retinanet_r50_fpn_1x_coco.py')
    model.bbox_head.type = 'OwnHead'
    return model


def deit() -> ConfigDict:
    model = stock('mmpretrain', 'deit/deit-tiny-distilled_4xb256_in1k.py')
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    model.backbone.update(arch=arch, img_size=SIZE)
    model.head.update(num_classes=C, in_channels=16)
    return model


def multi_label() -> ConfigDict:
    return ConfigDict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='MultiLabelLinearClsHead', num_classes=C, in_channels=32),
    )


FAMILIES: dict[str, tuple[str, Callable[[], ConfigDict]]] = {
    'Mask2Former': ('mmseg', lambda: test_seg_layers.stage1_cfg('Mask2FormerHead')),
    'PointRend': ('mmseg', lambda: test_seg_layers.stage1_cfg('PointHead')),
    'K-Net': ('mmseg', lambda: test_seg_layers.stage1_cfg('IterativeDecodeHead')),
    'panoptic Mask2Former': (
        'mmdet',
        lambda: small('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'),
    ),
    'DETR': ('mmdet', lambda: small('detr/detr_r50_8xb2-150e_coco.py')),
    'RetinaNet': ('mmdet', lambda: small('retinanet/retinanet_r50_fpn_1x_coco.py')),
    'head of its own': ('mmdet', own_head),
    'ATSS': ('mmdet', atss),
    'DINO': ('mmdet', dino),
    'YOLACT': ('mmdet', lambda: small('yolact/yolact_r50_1xb8-55e_coco.py')),
    'Sparse R-CNN': ('mmdet', sparse_rcnn),
    'DeiT': ('mmpretrain', deit),
    'multi-label': ('mmpretrain', multi_label),
}
OPTIONS = {'head of its own': dict(calibrated_layers=['bbox_head.scores'])}


@cache
def filled(model: nn.Module) -> nn.Module:
    """The model, with numbers where one that is not initialised has what was in memory, or NaN."""
    if hasattr(model, 'level_embed'):  # DINO's
        nn.init.normal_(model.level_embed)
    return model


def stage1(family: str) -> ConfigDict:
    """The model of stage 1; a copy of it is to be built, which changes it."""
    return FAMILIES[family][1]()


@DATASETS.register_module(force=True)
class Noise(Dataset):
    """Four images of noise with random truth, of which each has one object less than the last.

    Args:
        library: Whose data samples they have.
        several: Whether an image has several labels.
    """

    def __init__(self, library: str, several: bool) -> None:
        self.sample = getattr(self, f'_{library}')
        self.several = several

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        image = torch.from_numpy(rng.integers(0, 255, (3, SIZE, SIZE), dtype=np.uint8))
        return dict(inputs=image, data_samples=self.sample(rng, 4 - index))

    def _mmseg(self, rng: np.random.Generator, number: int) -> SegDataSample:
        labels = self._map(rng, 0, number + 1)
        labels[:, : 4 * number] = 255
        return SegDataSample(metainfo=self._meta(), gt_sem_seg=PixelData(data=labels))

    def _mmdet(self, rng: np.random.Generator, number: int) -> DetDataSample:
        corners = rng.integers(0, SIZE // 2, (number, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, SIZE // 2, (number, 2))], 1)
        masks = np.zeros((number, SIZE, SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo=self._meta())
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.from_numpy(boxes).float()),
            labels=torch.from_numpy(rng.integers(0, 3, number)),
            masks=BitmapMasks(masks, SIZE, SIZE),
        )
        sample.ignored_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.long)
        )
        sample.gt_sem_seg = PixelData(sem_seg=self._map(rng, 3, C))  # of stuff
        return sample

    def _mmpretrain(self, rng: np.random.Generator, number: int) -> DataSample:
        return DataSample().set_gt_label([0, number] if self.several else number)

    @staticmethod
    def _map(rng: np.random.Generator, low: int, high: int) -> Tensor:
        squares = rng.integers(low, high, (1, SIZE // 8, SIZE // 8))
        return torch.from_numpy(squares.repeat(8, 1).repeat(8, 2))

    @staticmethod
    def _meta() -> dict[str, Any]:
        size = (SIZE, SIZE)
        sizes = dict(img_shape=size, ori_shape=size, pad_shape=size)
        return dict(**sizes, scale_factor=(1.0, 1.0), img_id=0)


def config(family: str, folder: Path, name: str, **options: Any) -> Config:
    """Of stage 2, trained on two images an iteration.

    Args:
        family: One of ``FAMILIES``.
        folder: What :func:`write_starts` has written to.
        name: Of the run.
        options: As of ``--cfg-options``.
    """
    library, model = FAMILIES[family][0], stage1(family)
    kind = f'mmdisalign.{PLUGINS[library]}.Calibrated{model.type}'
    cfg = Config(
        dict(
            default_scope=library,
            model=dict(model, type=kind, class_prior=PRIOR, **OPTIONS.get(family, {})),
            load_from=str(folder / family / 'start.pth'),
            work_dir=str(folder / family / name),
            experiment_name=f'{family}, {name}',
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(type='Noise', library=library, several=family == 'multi-label'),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=ITERATIONS),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            param_scheduler=dict(type='MultiStepLR', milestones=[1, 3], gamma=0.5, by_epoch=False),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            randomness=dict(seed=0),
            launcher='none',
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def built(model: Any, library: str) -> nn.Module:
    init_default_scope(library)
    import_module(f'mmdisalign.{PLUGINS[library]}')
    return filled(MODELS.build(copy.deepcopy(model)))


def same_numbers(*size: Any, **options: Any) -> Tensor:
    """In the place of ``torch.rand``: each call draws the same, and the same for each of a batch.

    PointRend and Mask2Former draw the points that they look at. mmengine does not save the state
    of the generator, and each process draws for its own images.
    """
    size = size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    generator = torch.Generator().manual_seed(0)
    return torch.empty(1, *size[1:]).uniform_(generator=generator).expand(size).clone()


def train(cfg: Config) -> Runner:
    """Train as ``tools/train.py`` does, but for what is drawn."""
    # The text of a config, which each checkpoint has, takes longer than the training.
    with mock.patch('torch.rand', same_numbers), mock.patch.object(Config, 'pretty_text', ''):
        runner = launch.build_runner(cfg)
        runner.train()
        launch.finish(runner)
    return runner


def train_as_one_of_two(rank: int, ports: dict[str, int], folder: Path) -> None:
    """In a process of its own: train families, each in a group of two processes of an image each.

    Args:
        rank: 0 or 1.
        ports: Of each family; the group before may still have its own.
        folder: As of :func:`config`.
    """
    log = os.open(folder / f'rank{rank}.log', os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    ranks = dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
    os.environ.update(ranks)
    options = {'launcher': 'pytorch', 'train_dataloader.batch_size': 1}
    for family, port in ports.items():
        os.environ['MASTER_PORT'] = str(port)
        train(config(family, folder, 'two', **options))
