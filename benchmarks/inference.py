"""What calibration costs at inference: the stock head of each family and the calibrated one.

Of a stock config, with random weights, both heads are given what the stock head gets of images of
noise, in turns. Where that costs more than :data:`MOST`, so are both models an image.
"""

from __future__ import annotations

import copy
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

import coverage
import torch
from mmengine.config import ConfigDict
from paired import Paired, compare
from torch import Tensor

from mmdisalign.calibration import ClassPrior
from mmdisalign.engine.confidence import calibrations_of
from mmdisalign.onepass.one_pass import stage2_model

MOST = 1.01
# Seconds for the turns of a head, and of a model; and how many pairs that may be.
SECONDS, PAIRS = 5.0, (7, 151)


@dataclass(frozen=True)
class Family:
    """A head that is timed.

    Attributes:
        lib: ``'seg'``, ``'det'`` or ``'cls'``.
        config: A stock config of the library.
        head: Name of its head in the model.
        size: Pixels of an image, in height and width.
        images: So many.
        rows: What the head gets is repeated to so many RoIs or images. Default: 0, not repeated.
    """

    lib: str
    config: str
    head: str
    size: int
    images: int = 1
    rows: int = 0


FAMILIES = {
    'FCN': Family('seg', 'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', 'decode_head', 512),
    'SegFormer': Family(
        'seg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 'decode_head', 512
    ),
    'Mask2Former (mmseg)': Family(
        'seg', 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', 'decode_head', 256
    ),
    'PointRend': Family(
        'seg', 'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py', 'decode_head.1', 256
    ),
    'K-Net': Family(
        'seg', 'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py', 'decode_head', 256
    ),
    'Mask R-CNN, LVIS': Family(
        'det',
        'lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
        'roi_head.bbox_head',
        256,
        rows=300,
    ),
    'RetinaNet': Family('det', 'retinanet/retinanet_r18_fpn_1x_coco.py', 'bbox_head', 512),
    'FCOS': Family('det', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'bbox_head', 512),
    'YOLOX': Family('det', 'yolox/yolox_tiny_8xb8-300e_coco.py', 'bbox_head', 416, images=8),
    'SSD': Family('det', 'ssd/ssd300_coco.py', 'bbox_head', 300, images=4),
    'SSD, one image': Family('det', 'ssd/ssd300_coco.py', 'bbox_head', 300),
    'DETR': Family('det', 'detr/detr_r18_8xb2-500e_coco.py', 'bbox_head', 128, images=64),
    'DINO': Family('det', 'dino/dino-4scale_r50_8xb2-12e_coco.py', 'bbox_head', 256, images=2),
    'Mask2Former (mmdet)': Family(
        'det', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'panoptic_head', 256
    ),
    'LinearClsHead': Family('cls', 'resnet/resnet50_8xb32_in1k.py', 'head', 224, rows=512),
    'ViT-B': Family('cls', 'vision_transformer/vit-base-p32_64xb64_in1k.py', 'head', 224, rows=512),
    'DeiT-Ti, distilled': Family(
        'cls', 'deit/deit-tiny-distilled_4xb256_in1k.py', 'head', 224, rows=512
    ),
    'multi-label': Family('cls', 'resnet/resnet50_8xb32-mixup_in1k.py', 'head', 224, rows=512),
}


@dataclass(frozen=True)
class Cost:
    """What the calibrated head takes of the stock head's time; and the model, if that is much."""

    head: Paired
    model: Optional[Paired] = None


class _Enough(Exception):
    """Ends a pass once the head has what it gets."""


class Pair:
    """A stock model and its calibrated model, with the same weights, and some images.

    Args:
        family: Of which stock config.
        folder: An empty one.
    """

    def __init__(self, family: Family, folder: Path) -> None:
        examined = coverage.Examination(
            family.lib, family.config, coverage.LIBS[family.lib], folder
        )
        self.family = family
        cfg = coverage.model_of(examined.stage1, family.size)
        two = coverage.batch(family.lib, family.size, examined.classes, cfg)
        self.data = {key: (both * family.images)[: family.images] for key, both in two.items()}
        prior = ClassPrior.build(list(range(3 * examined.classes, examined.classes, -2)))
        options = stage2_model(examined.stage1, examined.plugin, prior, 0.5, None)
        self.stock, self.calibrated = (
            coverage.helped(examined.registry.build(ConfigDict({**copy.deepcopy(cfg), **own})))
            for own in ({}, options)
        )
        coverage.settle(self.stock, two)
        found = self.calibrated.load_state_dict(self.stock.state_dict(), strict=False)
        if found.unexpected_keys or not all('calibration.' in key for key in found.missing_keys):
            raise RuntimeError(f'{family.config}: the models differ: {found}')
        self.calibrated.eval()
        for calibration in calibrations_of(self.calibrated).values():
            for parameter in calibration.parameters():
                parameter.normal_(std=0.1)

    def heads(self) -> list[Callable[[], Any]]:
        """Runs of both heads, on what the stock head gets of the images."""
        args, options = self._inputs()
        heads = [model.get_submodule(self.family.head) for model in (self.stock, self.calibrated)]
        runs = [partial(head.forward, *args, **options) for head in heads]
        plain, calibrated = (list(_tensors(run())) for run in runs)
        if coverage.same(plain, calibrated):
            raise RuntimeError(f'{self.family.config}: the calibration has no effect')
        return runs

    def models(self) -> list[Callable[[], Any]]:
        """Runs of both models, from an image to what is predicted of it."""
        image = {key: values[:1] for key, values in self.data.items()}
        return [
            lambda model=model: model.test_step(copy.deepcopy(image))
            for model in (self.stock, self.calibrated)
        ]

    def _inputs(self) -> tuple[tuple, dict]:
        def record(*args: Any, **options: Any) -> None:
            seen.append((args, options))
            raise _Enough

        seen: list[tuple[tuple, dict]] = []
        head = self.stock.get_submodule(self.family.head)
        head.forward = record
        with suppress(_Enough):
            self.stock.test_step(copy.deepcopy(self.data))
        del head.forward
        ((args, options),) = seen
        return tuple(_repeated(each, self.family.rows) for each in args), options


def measure(family: Family, seconds: float = SECONDS) -> Cost:
    """What the calibration of a family costs, in about so many seconds for its head."""
    with ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())  # an examination goes elsewhere
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        stack.enter_context(redirect_stdout(io.StringIO()))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(torch.no_grad())
        pair = Pair(family, Path(folder))
        head = _in_turns(*pair.heads(), seconds)
        costs_more = head.ratio[1] > MOST
        return Cost(head, _in_turns(*pair.models(), seconds) if costs_more else None)


def run() -> str:
    """Time all families; a table."""
    start = time.perf_counter()
    rows = ['| head | features of | stock ms | ratio | quartiles | pairs | model |']
    rows.append('| --- ' * 2 + '| ---: ' * 2 + '| --- | ---: | --- |')
    for name, family in FAMILIES.items():
        rows.append(_row(name, family, measure(family)))
        print(rows[-1], file=sys.stderr, flush=True)
    return '\n'.join([*rows, '', f'One thread; {time.perf_counter() - start:.0f} s in all'])


def _row(name: str, family: Family, cost: Cost) -> str:
    low, middle, high = cost.head.ratio
    what = f'{family.rows} rows' if family.rows else f'{family.images} x {family.size} px'
    cells = [name, what, f'{1000 * statistics.median(cost.head.base):.1f}', f'{middle:.3f}']
    cells += [f'{low:.3f} to {high:.3f}', len(cost.head.base), '']
    if cost.model:
        low, middle, high = cost.model.ratio
        cells[-1] = f'{middle:.3f} ({low:.3f} to {high:.3f})'
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def _in_turns(stock: Callable[[], Any], calibrated: Callable[[], Any], seconds: float) -> Paired:
    # Of the one thread, so that waiting for a core on a busy machine does not count.
    clock = time.process_time
    stock()
    start = clock()
    stock()
    least, most = PAIRS
    pairs = int(seconds / 2 / (clock() - start))
    return compare(stock, calibrated, min(max(pairs, least), most), clock)


def _repeated(value: Any, rows: int) -> Any:
    """Features (N, ...) as of so many rows, if not 0."""
    if not rows:
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_repeated(each, rows) for each in value)
    return value.repeat(-(-rows // len(value)), *[1] * (value.dim() - 1))[:rows]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
