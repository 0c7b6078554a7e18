"""The method, in plain PyTorch: what a reader can check against the paper."""

from .adaptive import AdaptiveCalibration
from .cosine import CosineConv2d, CosineLinear
from .in_place import mix_in, mixed
from .layer import (
    CalibratedLayerMixin,
    ScoreLayout,
    calibrate_layer,
    calibrated_outputs,
    hold_calibration,
    makes_new,
)
from .posthoc import (
    inverse_frequency,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from .prior import ClassPrior, PriorLike
from .released import convert_released_keys
from .reweight import ZeroCount, filled_counts, generalized_reweight
from .scale import ClassScale
from .scores import AffineMap, AffineScores, LinearScores
from .vmf import VMFLinear, calibrated_kappa, mean_overlap

__all__ = [
    'AdaptiveCalibration',
    'AffineMap',
    'AffineScores',
    'CalibratedLayerMixin',
    'ClassPrior',
    'ClassScale',
    'CosineConv2d',
    'CosineLinear',
    'LinearScores',
    'PriorLike',
    'ScoreLayout',
    'VMFLinear',
    'ZeroCount',
    'calibrate_layer',
    'calibrated_kappa',
    'calibrated_outputs',
    'convert_released_keys',
    'filled_counts',
    'generalized_reweight',
    'hold_calibration',
    'inverse_frequency',
    'logit_adjustment',
    'makes_new',
    'mean_overlap',
    'mix_in',
    'mixed',
    'normalized_calibration',
    'tau_normalized',
]
