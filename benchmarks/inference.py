"""What calibration costs at inference: DeepLabV3+ on 512x512 images with 150 classes."""

from __future__ import annotations

import copy

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from paired import compare

from mmdisalign import config_path

CONFIG = 'ade20k/disalign_deeplabv3plus_r50-d8_8xb2-4k_ade20k-512x512.py'


def run(pairs: int = 15) -> str:
    """Time the base model and the calibrated one in turns."""
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
    metas = [{'img_shape': (512, 512)}]
    with torch.no_grad():
        times = compare(
            lambda: base.encode_decode(image, metas),
            lambda: calibrated.encode_decode(image, metas),
            pairs,
        )
    return f'Inference, DeepLabV3+ R-50, 150 classes, 512x512, base and calibrated: {times}'
