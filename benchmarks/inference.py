"""What calibration costs at inference: DeepLabV3+ on 512x512 images with 150 classes."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmdisalign import config_path

CONFIG = 'ade20k/disalign_deeplabv3plus_r50-d8_8xb2-4k_ade20k-512x512.py'


def run(pairs: int = 15) -> str:
    """Time the base model and the calibrated one in turns; returns the ratio of each part."""
    torch.manual_seed(0)
    cfg = Config.fromfile(config_path(CONFIG))
    init_default_scope('mmseg')
    # mmseg writes into the config that it builds from.
    calibrated = MODELS.build(copy.deepcopy(cfg.model)).eval()
    cfg.model.type = 'EncoderDecoder'
    del cfg.model.class_prior, cfg.model.exp_scale
    base = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        for parameter in calibrated.decode_head.calibration.parameters():
            parameter.normal_(std=0.1)
    image = torch.randn(1, 3, 512, 512)
    seconds: dict[str, list[float]] = {'base': [], 'calibrated': []}
    for turn in range(pairs + 1):
        models = [('base', base), ('calibrated', calibrated)]
        for name, model in models[:: 1 if turn % 2 else -1]:
            seconds[name].append(_time(model, image))
    # The first turn warms up.
    ratios = [c / b for b, c in zip(seconds['base'][1:], seconds['calibrated'][1:])]
    spread = statistics.quantiles(ratios, n=4)
    return (
        'Inference, DeepLabV3+ R-50, 150 classes, 512x512: base '
        f'{statistics.median(seconds["base"][1:]):.3f} s, calibrated over base '
        f'{statistics.median(ratios):.3f} (quartiles {spread[0]:.3f} to {spread[2]:.3f}, '
        f'{pairs} pairs)'
    )


def _time(model: torch.nn.Module, image: torch.Tensor) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        model.encode_decode(image, [{'img_shape': image.shape[2:]}])
        return time.perf_counter() - start
