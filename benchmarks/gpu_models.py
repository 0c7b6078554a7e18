"""Iterations of stage 2 for ``gpu.py``: an mmseg and an mmpretrain model with random weights."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from mmdisalign import config_path, dependencies

SEGMENTOR = 'ade20k/disalign_deeplabv3plus_r50-d8_8xb2-4k_ade20k-512x512.py'
CLASSIFIER = 'imagenet_lt/disalign_resnet50_8xb32-10e_imagenet-lt.py'


class Trained(NamedTuple):
    """A model after its first iterations.

    Attributes:
        model: It.
        optimizer: Its optimizer wrapper.
        losses: Of each iteration.
        changed: How many of its tensors changed.
        right: Whether the losses are finite, and what changed is the calibration alone.
    """

    model: nn.Module
    optimizer: Any
    losses: list[float]
    changed: int
    right: bool

    @property
    def loss_scale(self) -> str:
        """Of the gradient scaler; it halves after an iteration that overflowed."""
        scaler = getattr(self.optimizer, 'loss_scaler', None)
        return 'none' if scaler is None else f'{scaler.get_scale():.0f}'


def installed(package: str) -> Optional[str]:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def segmentor_data(images: int, size: int) -> dict[str, Any]:
    """Noise for images, and labels."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    metas = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size))
    labels = torch.randint(0, 150, (images, 1, size, size))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=y), metainfo=metas) for y in labels]
    return {'inputs': _noise(images, size), 'data_samples': samples}


def classifier_data(images: int, size: int) -> dict[str, Any]:
    """Noise for images, and labels."""
    from mmpretrain.structures import DataSample

    labels = torch.randint(0, 1000, (images,))
    samples = [DataSample().set_gt_label(label) for label in labels]
    return {'inputs': _noise(images, size), 'data_samples': samples}


def _noise(images: int, size: int) -> list[Tensor]:
    return list(torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8))


def trained(
    config: str, options: dict[str, Any], data: dict[str, Any], device: torch.device
) -> Iterator[tuple[str, Trained]]:
    """Train a stage-2 model for three iterations in each precision that the device has."""
    for precision, wrapper in _wrappers(device).items():
        torch.manual_seed(0)
        model, optimizer = _stage2(config, options, wrapper, device)
        before = copy.deepcopy(model.state_dict())
        losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(3)]
        after = model.state_dict()
        changed = [key for key in after if not torch.equal(after[key], before[key])]
        right = bool(changed) and all('.calibration.' in key for key in changed)
        right = right and all(map(math.isfinite, losses))
        yield precision, Trained(model, optimizer, losses, len(changed), right)


def _wrappers(device: torch.device) -> dict[str, dict[str, Any]]:
    if device.type == 'cpu':
        return {'fp32': {'type': 'OptimWrapper'}, 'bf16': {'type': 'CPUAmpOptimWrapper'}}
    amp = {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'}
    return {
        'fp32': {'type': 'OptimWrapper'},
        'fp16': {**amp, 'dtype': 'float16'},
        'bf16': {**amp, 'dtype': 'bfloat16'},
    }


def _stage2(
    config: str, options: dict[str, Any], wrapper: dict[str, Any], device: torch.device
) -> tuple[nn.Module, Any]:
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(config_path(config))
    cfg.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    state = model.state_dict()
    # As from a checkpoint of stage 1, without which stage 2 does not train.
    model.load_state_dict({key: state[key] for key in state if '.calibration.' not in key})
    model.to(device).train()
    return model, build_optim_wrapper(model, {**cfg.optim_wrapper, **wrapper})


def accept_mmcv_lite() -> None:
    """Let mmcv-lite do for mmcv: no model here runs a compiled op, which is what it lacks."""
    if installed('mmcv') is not None or installed('mmcv-lite') is None:
        return
    dependencies.RANGES['mmcv-lite'] = dependencies.RANGES['mmcv']
    for extra in ('seg', 'cls'):
        names = dependencies.EXTRAS[extra]
        lite = ('mmcv-lite' if name == 'mmcv' else name for name in names)
        dependencies.EXTRAS[extra] = tuple(lite)
    sys.modules['mmcv._ext'] = _NoOps('mmcv._ext')


class _NoOps(ModuleType):
    """Where mmcv looks its ops up when they are imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def no_op(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f'mmcv-lite has no {name}')

        return no_op
