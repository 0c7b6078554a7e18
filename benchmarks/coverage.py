"""How much of the stock model zoos of OpenMMLab can mmdisalign calibrate?

    python benchmarks/coverage.py [--libs seg det cls] [--only WORD] [--jobs N] [--out FILE]

Reads every config that ships in the wheels of mmseg, mmdet and mmpretrain (``.mim/configs``),
groups them by model and heads, and tries the lightest config of each group on two routes:

- *lines*: the lines of README.md, docs/detection.md and docs/classification.md over that config,
  trained for two steps, as tools/train.py would;
- *one pass*: what tools/calibrate.py does: stage 2 of the stage-1 config, a batch of samples, fit.

A group works on a route if stage 2 builds, takes the state of the stage-1 model, predicts bit for
bit what that predicts while it is untouched, has a finite loss with gradients in the calibration
alone, leaves all else as it was, and predicts otherwise afterwards. Weights are random, images are
noise of 64 to 640 pixels: nothing is downloaded. A group that does not work was *refused* (an
exception that mmdisalign raises itself), or it *crashed*, or it is *wrong*.

Where a stock model does not predict as it ships, it is helped (``helped``): mmdet 3.3's SSDHead has
no loss_cls that its own predict asks for, mmcv's MaskedConv2d does not run on a CPU, and teachers
would be downloaded. PAA's heads need scikit-learn, BoxInst scikit-image.

The last line counts configs whose group works on the route of the lines, out of those whose model
is trained to score two or more classes; groups without such scores (RPN, re-identification,
pre-training, captioning, depth) are listed as ``-`` and left out. The line before counts the other
route, and all configs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

LIBS = {'seg': 'mmseg', 'det': 'mmdet', 'cls': 'mmpretrain'}
DOCS = {'seg': 'README.md', 'det': 'docs/detection.md', 'cls': 'docs/classification.md'}
LIMIT = 100  # seconds for a config
# Losses of one-stage and query detectors; others make a group of their own.
USUAL = ('', 'CrossEntropyLoss', 'FocalLoss', 'GaussianFocalLoss', 'QualityFocalLoss')
USUAL += ('VarifocalLoss',)
# Of two configs of a group, that with the smaller name is tried: what makes a network large.
LARGE = {
    r'(?<![a-z])(r18|r18b|tiny|nano|pico|atto|mit-b0|s0|b0|t0|xxs|xs)(?![a-z0-9])': 0,
    r'(r34|small|mit-b1|swin-t|[-_]t[-_]|[-_]s[-_])': 1,
    r'(r50|base|mobilenet|vit-b)': 2,
}


# ------------------------------------------------------------------------------- configs, grouped


def name_of(cfg: Any) -> str:
    """The types of a head, or of several."""
    if isinstance(cfg, (list, tuple)):
        return '+'.join(dict.fromkeys(name_of(each) for each in cfg))
    kind = (cfg or {}).get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '')


def first(cfg: Any) -> dict:
    """A head, or the last of several, which predicts."""
    cfg = cfg[-1] if isinstance(cfg, (list, tuple)) else cfg
    return cfg if isinstance(cfg, dict) else {}


def loss_names(cfg: Any) -> str:
    names = dict.fromkeys(
        name_of(each) + ' on sigmoids' * bool(each.get('use_sigmoid'))
        for each in (cfg if isinstance(cfg, (list, tuple)) else [cfg or {}])
    )
    return '+'.join(filter(None, names))


def group_of(model: dict, scope: str) -> str:
    """Model and heads of a config, and what of its losses and samplers matters."""
    parts, notes = [name_of(model)], []
    if scope == 'mmseg':
        head = first(model.get('decode_head'))
        parts.append(name_of(model.get('decode_head')))
        if head.get('sampler'):
            notes.append(name_of(head['sampler']))
        loss = loss_names(head.get('loss_decode'))
        if 'FormerHead' not in parts[1] and loss not in ('', 'CrossEntropyLoss'):
            notes.append(loss)
    elif scope == 'mmdet':
        inner = model.get('detector')
        if isinstance(inner, dict):
            parts.append(name_of(inner))
            model = inner
        roi = model.get('roi_head') or {}
        for key in ('bbox_head', 'mask_head', 'panoptic_head'):
            if name_of(model.get(key)):
                parts.append(name_of(model[key]))
        if roi:
            box = first(roi.get('bbox_head'))
            parts += [name_of(roi), name_of(roi.get('bbox_head'))]
            parts += ['masks'] * bool(roi.get('mask_head'))
            loss = loss_names(box.get('loss_cls'))
            if loss not in ('', 'CrossEntropyLoss'):
                notes.append(loss)
            if roi.get('semantic_head') or model.get('semantic_head'):
                notes.append('semantic head')
        else:
            loss = loss_names(first(model.get('bbox_head')).get('loss_cls'))
            if loss.removesuffix(' on sigmoids') not in USUAL:
                notes.append(loss)
        rpn = name_of(model.get('rpn_head'))
        if rpn not in ('', 'RPNHead'):
            notes.append(rpn)
    else:
        head = first(model.get('head'))
        parts.append(name_of(head) or 'no head')
        loss = loss_names(head.get('loss'))
        if loss not in ('', 'CrossEntropyLoss', 'LabelSmoothLoss') or 'sigmoid' in loss:
            notes.append(loss)
        if head.get('deploy'):
            notes.append('deploy')
        if head.get('loss', {}).get('use_soft'):
            notes.append('soft labels')
    return ' / '.join(parts) + (f' ({", ".join(notes)})' if notes else '')


def why_no_classes(model: dict, scope: str) -> Optional[str]:
    """Why a model has no class scores to balance; None if it has."""
    kind = name_of(model)
    if scope == 'mmseg':
        return 'depth' if 'Depth' in kind else None
    if scope == 'mmdet':
        if kind == 'RPN':
            return 'proposals, no classes'
        if kind == 'BaseReID':
            return 'identities, no classes'
        one = ('ByteTrack', 'DeepSORT', 'OCSORT', 'StrongSORT', 'QDTrack', 'CrowdDet')
        return 'one class: pedestrians' if kind in one else None
    if kind in ('ImageClassifier', 'TimmClassifier', 'HuggingFaceClassifier'):
        return None if model.get('head') else 'no head'
    if 'RCNN' in kind:
        return None
    return 'pre-training, retrieval or text'


def classes_of(model: Any) -> Optional[int]:
    """The number of classes, from the first head that says it."""
    if isinstance(model, (list, tuple)):
        return next(filter(None, map(classes_of, model)), None)
    if not isinstance(model, dict):
        return None
    if 'num_things_classes' in model:
        return model['num_things_classes'] + model.get('num_stuff_classes', 0)
    if isinstance(model.get('num_classes'), int):
        return model['num_classes']
    keys = ('decode_head', 'roi_head', 'bbox_head', 'panoptic_head', 'mask_head', 'track_head')
    keys += ('head', 'detector', 'kernel_generate_head', 'backbone')
    for key in keys:
        found = classes_of(model.get(key)) if model.get(key) else None
        if found:
            return found
    return None


def weight_of(name: str) -> tuple:
    """Sorts light networks before heavy ones, by their name."""
    stem = name.rsplit('/', 1)[-1]
    size = next((rank for pattern, rank in LARGE.items() if re.search(pattern, stem)), 3)
    heavy = re.search(r'101|152|x50|large|xlarge|huge|swin-[bl]|-l[-_]|-x[-_]|hr48', stem)
    odd = re.search(r'deploy|dcn|caffe|amp|fp16|tta|lsj|gcb|dconv', stem)
    return (size + 4 * bool(heavy), bool(odd), len(stem), name)


def stock_configs(lib: str) -> tuple[list[dict], list[str]]:
    """The configs of a library: name, scope, group; and the names of those that do not load."""
    from mmengine.config import Config

    root = Path(importlib.util.find_spec(LIBS[lib]).origin).parent / '.mim/configs'
    found, broken = [], []
    for path in sorted(root.rglob('*.py')):
        name = path.relative_to(root).as_posix()
        if '_base_' in name:
            continue
        try:
            cfg = Config.fromfile(path)
        except Exception:  # a stock config that mmengine itself cannot read
            broken.append(name)
            continue
        model = cfg.get('model')
        if not model:  # a fragment that others inherit
            continue
        scope = model.get('_scope_') or cfg.get('default_scope')
        kind = name_of(model)
        if '.' in kind:
            scope = kind.split('.')[0]
        if scope not in LIBS.values():
            scope = LIBS[lib]
        model = {**model, 'type': kind.split('.')[-1]}
        found.append(
            {
                'name': name,
                'scope': scope,
                'group': group_of(model, scope),
                'none': why_no_classes(model, scope),
            }
        )
    return found, broken


# ---------------------------------------------------------------------------- one config, examined


class Wrong(Exception):
    """Stage 2 runs, and does not do what it promises."""


def lightened(cfg: Any, size: int) -> None:
    """Let a model take small images, without augmentation of batches, and find a few objects."""
    pre = cfg.get('data_preprocessor')
    if isinstance(pre, dict):
        if pre.get('batch_augments'):
            pre['batch_augments'] = None
        if 'SegDataPreProcessor' in name_of(pre):  # some stock configs have no size: they crash
            pre.update(size=(size, size), size_divisor=None, test_cfg=None)
    deep = cfg.get('backbone') or {}
    layers = deep.get('num_layers')
    if deep.get('out_indices') and isinstance(layers, int) and layers > 12:  # SETR's ViT-L
        number = len(deep['out_indices'])
        deep.update(num_layers=number, out_indices=tuple(range(number)))
    test = cfg.get('test_cfg') or {}
    for part in (test, test.get('rcnn') or {}):
        if isinstance(part, dict) and 'score_thr' in part:
            part.update(score_thr=0.0, max_per_img=20)
        if isinstance(part, dict) and part.get('panoptic_on'):
            part.update(object_mask_thr=0.0, iou_thr=0.0)
    proposals = (test.get('rpn'), 5), ((cfg.get('train_cfg') or {}).get('rpn_proposal'), 16)
    for part, number in proposals:
        if isinstance(part, dict) and 'max_per_img' in part:  # V3Det has 13,204 classes for each
            part.update(nms_pre=100, max_per_img=number)
    train = (cfg.get('train_cfg') or {}).get('rcnn') or {}
    for part in train if isinstance(train, (list, tuple)) else [train]:
        if part.get('sampler'):
            part['sampler']['num'] = 64


def model_of(cfg: Any, size: int) -> Any:
    """The model of a config as a Runner builds it, for small images."""
    from mmengine.config import ConfigDict

    from mmdisalign.engine.configs import model_config

    model = ConfigDict(copy.deepcopy(model_config(cfg)))
    lightened(model, size)
    model.pop('teacher_ckpt', None)
    return model


def helped(model: Any) -> Any:
    """A stock model that predicts on a CPU, where it would not as it ships."""
    if type(model).__module__.startswith(('mmdet.', 'mmdisalign.detection')):
        import torch
        from mmcv.ops import MaskedConv2d
        from mmdet.models.dense_heads import CornerHead, SSDHead
        from mmdet.models.necks.ssd_neck import L2Norm
        from torch import nn

        for module in model.modules():
            if isinstance(module, SSDHead) and not hasattr(module, 'loss_cls'):
                module.loss_cls = None
            if isinstance(module, L2Norm):  # else what is in memory
                nn.init.constant_(module.weight, module.scale)
            if isinstance(module, CornerHead):  # hourglasses of random weights come to 1e25
                for maps in (*module.tl_heat, *module.br_heat):
                    maps[-1].conv.weight.data.mul_(1e-25)
                # Corners of an object agree on an embedding or a centre: random ones never do.
                for name, part in module.named_modules():
                    if re.fullmatch(r'(tl|br)_(emb|centripetal_shift)\.\d+\.1\.conv', name):
                        part.weight.data.zero_()
                        part.bias.data.zero_()
            if hasattr(module, 'init_proposal_bboxes'):  # as they begin: the whole image
                with torch.no_grad():
                    whole = torch.tensor([0.5, 0.5, 1.0, 1.0])
                    module.init_proposal_bboxes.weight.copy_(
                        whole.expand_as(module.init_proposal_bboxes.weight)
                    )
        if not hasattr(MaskedConv2d, 'on_gpu'):
            MaskedConv2d.on_gpu = MaskedConv2d.forward
            # Where the mask is 0, GARetina drops what comes out.
            MaskedConv2d.forward = lambda self, x, mask=None: nn.Conv2d.forward(self, x)
    return model


def image_size(cfg: Any, lib: str) -> int:
    """A small size that the network takes: that of its config where positions are embedded."""
    backbone = cfg.model.get('backbone') or {}
    size = backbone.get('img_size')
    if isinstance(size, (list, tuple)):
        size = size[0]
    if lib == 'cls':
        for step in cfg.get('test_pipeline') or []:
            size = size or step.get('crop_size')
        if backbone.get('type') == 'LeNet5':
            return 32
        return size if isinstance(size, int) else 224
    anchors = (cfg.model.get('bbox_head') or {}) if lib == 'det' else {}
    if isinstance(anchors, dict) and (anchors.get('anchor_generator') or {}).get('input_size'):
        return anchors['anchor_generator']['input_size']  # SSD's
    fixed = size and backbone.get('type') in ('BEiT', 'MAE')
    return size if fixed else 128


def batch(lib: str, size: int, num_classes: int, model: Any) -> dict:
    """Two images of noise with random truth, and what more the data of a model has."""
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)

    def random(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator)

    mean = (model.get('data_preprocessor') or {}).get('mean') or (0, 0, 0)
    images = [random(255, len(mean), size, size).byte() for _ in range(2)]
    meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
    meta |= dict(scale_factor=(1.0, 1.0), flip=False, img_id=0, batch_input_shape=(size, size))
    meta['border'] = (0, size, 0, size)  # CenterNet's
    samples = []
    for _ in range(2):
        if lib == 'cls':
            from mmpretrain.structures import DataSample

            samples.append(DataSample().set_gt_label(int(random(num_classes, 1))))
            continue
        if lib == 'seg':
            from mmengine.structures import PixelData
            from mmseg.structures import SegDataSample

            label = random(min(num_classes, 5), 1, size // 8, size // 8)
            label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
            edge = (random(2, 1, size, size)).long()
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=label)
            sample.gt_edge_map = PixelData(data=edge)
            samples.append(sample)
            continue
        from mmdet.structures import DetDataSample
        from mmdet.structures.bbox import HorizontalBoxes
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData, PixelData

        edge = size / 128
        boxes = torch.tensor([[8.0, 8, 72, 80], [40, 20, 120, 110], [60, 60, 90, 100]]) * edge
        masks = np.zeros((3, size, size), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        truth = InstanceData(bboxes=HorizontalBoxes(boxes), labels=random(num_classes, 3))
        if name_of(model.get('bbox_head')) not in ('RTMDetHead', 'RTMDetSepBNHead'):
            truth.masks = BitmapMasks(masks, size, size)
        sample = DetDataSample(gt_instances=truth, metainfo=meta)
        if name_of(model) == 'FastRCNN':
            sample.proposals = InstanceData(bboxes=boxes + 2, scores=torch.ones(3))
        none = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)))
        none.labels = torch.zeros(0, dtype=torch.long)
        sample.ignored_instances = none
        sample.gt_sem_seg = PixelData(sem_seg=random(num_classes, 1, size // 8, size // 8))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def settle(model: Any, data: dict) -> None:
    """Give random weights statistics, and boxes that stay where they are: scores are sane then."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(r'reg|bbox_pred', name.rpartition('.')[0].rpartition('.')[2]):
                # 1 where distances to the sides are rectified: a box without area is dropped.
                kinds = {kind.__name__ for kind in type(getattr(model, 'bbox_head', None)).__mro__}
                rectified = bool(kinds & {'AnchorFreeHead', 'FSAFHead'})
                parameter.fill_(float(rectified and 'reg.bias' in name))
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        norms = [norm for norm in norms if norm.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        model.eval()

        def leave_pixels(norm: Any, inputs: tuple) -> None:
            norm.train(inputs[0][0, 0].numel() > 1)  # two images have no statistics of one pixel

        handles = [norm.register_forward_pre_hook(leave_pixels) for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        backbone = getattr(model, 'backbone', None)
        if norms and backbone is not None:
            inputs = model.data_preprocessor(copy.deepcopy(data), False)['inputs']
            # A norm of a map of one pixel, or SyncBN without a GPU, raises.
            with contextlib.suppress(ValueError):
                features = model.extract_feat(inputs)
                head = getattr(model, 'bbox_head', None)
                if head is not None and any(isinstance(own, _BatchNorm) for own in head.modules()):
                    head(features)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for handle in handles:
            handle.remove()
    model.eval()


def predicted(model: Any, data: dict) -> list:
    """What a model predicts, as tensors."""
    import torch

    model.eval()
    with torch.no_grad():
        torch.manual_seed(0)
        results = model.test_step(copy.deepcopy(data))
    tensors = []
    for sample in results:
        if hasattr(sample, 'seg_logits'):
            tensors.append(sample.seg_logits.data)
        elif hasattr(sample, 'pred_instances'):
            own = sample.pred_instances
            tensors += [own.bboxes, own.scores, own.labels]
        elif hasattr(sample, 'pred_panoptic_seg'):
            tensors.append(sample.pred_panoptic_seg.sem_seg)
        else:
            tensors.append(sample.pred_score)
    if any(not t.isfinite().all() for t in tensors):
        raise Wrong('it predicts what is not finite')
    return tensors


def same(one: list, other: list) -> bool:
    import torch

    return len(one) == len(other) and all(map(torch.equal, one, other))


def stage_2_config(lib: str, library: str, name: str, folder: Path, num_classes: int) -> Any:
    """The config of stage 2 as the docs say, over a stock config."""
    from mmengine.config import Config

    import mmdisalign

    repo = Path(mmdisalign.__file__).resolve().parent.parent
    text = (repo / DOCS[lib]).read_text(encoding='utf-8')
    lines = re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    root = Path(importlib.util.find_spec(library).origin).parent / '.mim/configs'
    (folder / 'my_stage1.py').write_text(f'_base_ = {str(root / name)!r}\n')
    prior = list(range(num_classes * 3, num_classes, -2))
    (folder / 'prior.json').write_text(json.dumps(prior))
    # A config that names its model by another library is written by that library's lines.
    for source in ('my_prior.json', 'annotations/train.json', 'my_train_list.txt'):
        lines = lines.replace(f"'{source}'", repr(str(folder / 'prior.json')))
    stage1 = Config.fromfile(folder / 'my_stage1.py')
    (folder / 'my_stage2.py').write_text(lines)
    return stage1, Config.fromfile(folder / 'my_stage2.py'), prior


class Examination:
    """Of one config, on both routes."""

    def __init__(self, lib: str, name: str, scope: str, folder: Path) -> None:
        import torch
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope

        self.lib = {v: k for k, v in LIBS.items()}[scope]
        self.registry, self.folder = MODELS, folder
        self.name, self.zoo = name, LIBS[lib]
        root = Path(importlib.util.find_spec(self.zoo).origin).parent / '.mim/configs'
        os.chdir(root.parent)  # where stock configs name the configs of their teachers
        stage1 = Config.fromfile(root / name)
        self.classes = classes_of(stage1.model) or 80
        self.size = image_size(stage1, self.lib)
        init_default_scope(scope)
        self.plugin = importlib.import_module('mmdisalign.engine.configs').PLUGINS[scope]
        importlib.import_module(f'mmdisalign.{self.plugin}')
        self.stage1 = stage1
        torch.manual_seed(0)

    def before(self) -> None:
        """Build stage 1, its checkpoint and its predictions."""
        import torch

        for size in (self.size, 2 * self.size, 4 * self.size):
            torch.manual_seed(0)
            model = helped(self.registry.build(model_of(self.stage1, size)))
            # As stage 2 is: PyTorch's attention takes other kernels where nothing needs gradients.
            model.requires_grad_(False)
            self.data = batch(self.lib, size, self.classes, model_of(self.stage1, size))
            try:
                settle(model, self.data)
                self.expected = predicted(model, self.data)
            except RuntimeError as error:  # too small for the strides of the network
                small = (
                    'size is too small',
                    'smaller than kernel',
                    'greater than actual input',
                    'k out of range',
                )
                if any(words in str(error) for words in small) and size < 4 * self.size:
                    continue
                raise
            break
        self.size, self.state = size, model.state_dict()

    def lines(self) -> None:
        """Raise unless the lines of the docs work."""
        import torch
        from mmengine.logging import MessageHub
        from mmengine.optim import build_optim_wrapper

        _, cfg, _ = stage_2_config(self.lib, self.zoo, self.name, self.folder, self.classes)
        model = self._built(cfg)
        MessageHub.get_current_instance().update_info('epoch', 0)  # as a Runner tells heads
        frozen = {k: v.clone() for k, v in model.state_dict().items() if 'calibration.' not in k}
        self._check_untouched(model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        wrapper.optimizer.param_groups[0]['lr'] = 0.5
        for _ in range(2):
            model.train()
            logs = model.train_step(copy.deepcopy(self.data), wrapper)
            if not all(torch.isfinite(torch.as_tensor(v)).all() for v in logs.values()):
                raise Wrong(f'the loss is not finite: {logs}')
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        elsewhere = sorted(n for n in trained if 'calibration.' not in n)
        if elsewhere or not trained:
            raise Wrong(f'trains {elsewhere or "nothing"}')
        self._check_effect(model, frozen)

    def one_pass(self) -> None:
        """Raise unless what tools/calibrate.py does works."""
        import numpy as np
        import torch

        from mmdisalign.calibration import ClassPrior
        from mmdisalign.engine.confidence import calibrations_of
        from mmdisalign.onepass.one_pass import OnePass, stage2_model

        prior = ClassPrior.build(list(range(self.classes * 3, self.classes, -2)))
        options = stage2_model(self.stage1, self.plugin, prior, 0.5, None)
        model = self._built(self.stage1, options)
        collector = importlib.import_module(f'mmdisalign.{self.plugin}.collect').SampleCollector(
            model
        )
        frozen = {k: v.clone() for k, v in model.state_dict().items() if 'calibration.' not in k}
        self._check_untouched(model)
        with torch.no_grad():
            found = list(collector(copy.deepcopy(self.data), np.random.default_rng(0)))
        samples, elements = pooled(found)
        if set(samples) != set(calibrations_of(model)):
            raise Wrong(f'samples of {list(samples)} only')
        whole = OnePass(collector, samples, elements, None, weight_decay=1e-4)
        for name, own in samples.items():
            chosen = np.arange(0, len(own), len(own) // 200 + 1)
            fit = whole.fit(calibrations_of(model)[name], name, 0.5, chosen)
            # Noise may leave a head with quality targets, RTMDet's, without a positive.
            positive = own.quality[own.label < self.classes]
            if not fit.after < fit.before and (positive > 0.1).any():
                raise Wrong(f'{name}: the fit has loss {fit.before} before and {fit.after} after')
        self._check_effect(model, frozen)

    def _built(self, cfg: Any, options: Optional[dict] = None) -> Any:
        import torch
        from mmengine.config import ConfigDict
        from mmengine.runner.checkpoint import _load_checkpoint_to_model

        torch.manual_seed(0)
        built = self.registry.build(ConfigDict({**model_of(cfg, self.size), **(options or {})}))
        if not hasattr(self, 'state'):  # not before: what is refused needs none
            self.before()
            built = self.registry.build(ConfigDict({**model_of(cfg, self.size), **(options or {})}))
        _load_checkpoint_to_model(built, {'state_dict': copy.copy(self.state)})
        return built

    def _check_untouched(self, model: Any) -> None:
        if not same(predicted(model, self.data), self.expected):
            raise Wrong('untouched, it does not predict what stage 1 does')

    def _check_effect(self, model: Any, frozen: dict) -> None:
        import torch

        from mmdisalign.engine.confidence import calibrations_of

        state = model.state_dict()
        changed = [key for key, value in frozen.items() if not torch.equal(value, state[key])]
        if changed:
            raise Wrong(f'changed what is frozen: {changed[:3]}')
        calibrations = calibrations_of(model)
        # Noise has no object on some levels, whose calibration then stays.
        if not any(own.magnitude.any() or own.margin.any() for own in calibrations.values()):
            raise Wrong('no calibration has changed')
        for calibration in calibrations.values():
            with torch.no_grad():  # what two steps on noise come to may be as good as none
                calibration.confidence.weight.zero_()
                calibration.confidence.bias.zero_()
                calibration.margin.copy_(torch.linspace(-30, 30, len(calibration.margin)))
        if same(predicted(model, self.data), self.expected):
            raise Wrong('with another calibration, it still predicts what stage 1 does')


def pooled(found: list) -> tuple[dict, dict]:
    """Samples of the images of a batch, and how many elements they had, by calibration."""
    import numpy as np

    from mmdisalign.onepass.fitting import Samples

    parts: dict[str, list] = {}
    elements: dict[str, float] = {}
    for name, samples, own in found:
        parts.setdefault(name, []).append(vars(samples))
        elements[name] = elements.get(name, 0.0) + sum(own.values())
    samples = {
        name: Samples(
            **{
                key: np.concatenate([part[key] for part in each])
                for key, value in each[0].items()
                if isinstance(value, np.ndarray)
            }
        )
        for name, each in parts.items()
    }
    return samples, elements


def root_of(error: BaseException) -> BaseException:
    """The first exception: mmengine's registry raises others of it."""
    while error.__context__ is not None and 'registry' in str(
        traceback.extract_tb(error.__traceback__)[-1].filename
    ):
        error = error.__context__
    return error


def verdict(error: Optional[BaseException]) -> tuple[str, str]:
    """What came of a route: works, refused, crash or wrong; and the last line."""
    if error is None:
        return 'works', ''
    if isinstance(error, Wrong):
        return 'wrong', str(error)
    root = root_of(error)
    frames = traceback.extract_tb(root.__traceback__)
    last = frames[-1]
    message = ' '.join(str(root).split())
    ours = '/mmdisalign/' in last.filename and (last.line or '').startswith('raise')
    text = f'{type(root).__name__}: {message}'[:300]
    if not ours:
        where = Path(last.filename)
        text += f'  [{where.parent.name}/{where.name}:{last.lineno} {last.name}]'
    return ('refused' if ours else 'crash'), text


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f'more than {seconds} s')

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def examine(lib: str, name: str, scope: str) -> dict:
    """Both routes on one config."""
    result: dict[str, Any] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with time_limit(LIMIT), contextlib.redirect_stdout(io.StringIO()):
                examination = Examination(lib, name, scope, Path(folder))
        except Exception as error:
            examination, first_error = None, error
        for route in ('lines', 'one_pass'):
            error: Optional[BaseException] = None
            if examination is None:
                error = first_error
            else:
                try:
                    with time_limit(LIMIT), contextlib.redirect_stdout(io.StringIO()):
                        getattr(examination, route)()
                except (Exception, TimeoutError) as caught:
                    error = caught
                    if os.environ.get('COVERAGE_TRACEBACK'):
                        traceback.print_exception(caught)
            result[route] = verdict(error)
    result['seconds'] = time.monotonic() - start
    return result


# ---------------------------------------------------------------------------------------- the run


def work(lib: str) -> None:
    """Read lines of JSON, a config each; write a line for each: a worker process."""
    warnings.simplefilter('ignore')
    import logging

    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    out, sys.stdout = sys.stdout, sys.stderr
    if sys.argv[-1] == 'list':
        print(json.dumps(stock_configs(lib)), file=out, flush=True)
        return
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(examine(lib, job['name'], job['scope'])), file=out, flush=True)


def worker(lib: str, *extra: str) -> subprocess.Popen:
    command = [sys.executable, __file__, '--worker', lib, *extra]
    log = None if os.environ.get('COVERAGE_TRACEBACK') else subprocess.DEVNULL
    pipe = subprocess.PIPE
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=env)


class Zoo:
    """The groups of a library."""

    def __init__(self, lib: str, only: Optional[str]) -> None:
        self.lib, self.only = lib, only
        self.listing = worker(lib, 'list')

    def groups(self) -> list[dict]:
        configs, self.broken = json.loads(self.listing.communicate()[0])
        groups: dict[str, list[dict]] = {}
        for config in configs:
            groups.setdefault(config['group'], []).append(config)
        found = []
        for members in groups.values():
            members.sort(key=lambda each: weight_of(each['name']))
            found.append({**members[0], 'number': len(members), 'lib': self.lib})
            found[-1]['members'] = [each['name'] for each in members]
        found.sort(key=lambda each: (bool(each['none']), -each['number'], each['group']))
        if self.only:
            found = [each for each in found if self.only in each['group'] + each['name']]
        return found


class Examiner:
    """Examines groups one after another, those of a library in a process that has imported it."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen] = {}

    def run(self, groups: queue.SimpleQueue) -> None:
        """Examine what is in the queue, until it is empty."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._examine(groups.get_nowait())
        for process in self.processes.values():
            process.stdin.close()
            process.wait()

    def _examine(self, group: dict) -> None:
        lib = group['lib']
        process = self.processes.get(lib) or worker(lib)
        self.processes[lib] = process
        process.stdin.write(json.dumps(group) + '\n')
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            died = ('crash', f'the process died: {self.processes.pop(lib).wait()}')
            group.update(lines=died, one_pass=died)
            return
        group.update(json.loads(line))
        took, came = group['seconds'], f'{group["lines"][0]}, {group["one_pass"][0]}'
        print(f'{took:4.0f} s  {lib} {group["group"]}: {came}', file=sys.stderr)


def table(groups: list[dict]) -> str:
    rows = ['| library | group | configs | lines | one pass | what is said |', '|' + ' --- |' * 6]
    for each in groups:
        said = each['lines'][1]
        if each['one_pass'][1] != said:
            said += ' // ' * bool(said) + each['one_pass'][1]
        said = said.replace('|', '/')
        cells = (each['lib'], each['group'], each['number'], each['lines'][0])
        cells += (each['one_pass'][0], said)
        rows.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(rows)


def main() -> None:
    if '--worker' in sys.argv:
        work(sys.argv[sys.argv.index('--worker') + 1])
        return
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--libs', nargs='+', choices=list(LIBS), default=list(LIBS))
    parser.add_argument('--only', help='only groups with this in their name, or that of the config')
    parser.add_argument('--jobs', type=int, default=2, help='groups at a time; default: 2')
    parser.add_argument('--out', help='also write the results as JSON')
    args = parser.parse_args()
    start = time.monotonic()
    zoos = [Zoo(lib, args.only) for lib in args.libs]
    every = {zoo.lib: zoo.groups() for zoo in zoos}
    groups = [group for zoo in zoos for group in every[zoo.lib]]
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for group in groups:
        if group['none']:
            group['lines'] = group['one_pass'] = ('-', group['none'])
        else:
            waiting.put(group)
    threads = [threading.Thread(target=Examiner().run, args=(waiting,)) for _ in range(args.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(table(groups))
    print()
    for zoo in zoos:
        if zoo.broken:
            print(f'{zoo.lib}: mmengine cannot read {len(zoo.broken)}: {", ".join(zoo.broken)}')
    figures = {'lines': [], 'one_pass': [], 'all': []}
    for zoo in zoos:
        own = every[zoo.lib]
        scored = [each for each in own if not each['none']]
        for key, part in (('lines', scored), ('one_pass', scored), ('all', own)):
            route = 'lines' if key == 'all' else key
            good = sum(each['number'] for each in part if each[route][0] == 'works')
            figures[key].append(f'{zoo.lib} {good}/{sum(each["number"] for each in part)}')
    print(f'{time.monotonic() - start:.0f} s')
    print(f'one pass: {" ".join(figures["one_pass"])}; of all configs: {" ".join(figures["all"])}')
    print(f'coverage: {" ".join(figures["lines"])}')
    if args.out:
        Path(args.out).write_text(json.dumps(groups, indent=1))


if __name__ == '__main__':
    main()
