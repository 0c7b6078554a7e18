"""The method, in plain PyTorch: what a reader can check against the paper."""

from .adaptive import AdaptiveCalibration
from .cosine import CosineConv2d, CosineLinear
from .prior import ClassPrior, PriorLike
from .released import convert_released_keys
from .reweight import ZeroCount, generalized_reweight

__all__ = [
    'AdaptiveCalibration',
    'ClassPrior',
    'CosineConv2d',
    'CosineLinear',
    'PriorLike',
    'ZeroCount',
    'convert_released_keys',
    'generalized_reweight',
]
