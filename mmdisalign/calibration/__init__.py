"""The method, in plain PyTorch: what a reader can check against the paper."""

from .adaptive import AdaptiveCalibration
from .back_tracking import BackTrackedFeatures
from .causal import CausalLinear
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
    INVERSE_FREQUENCIES,
    inverse_frequency,
    logit_adjustment,
    normalized_calibration,
    tau_normalized,
)
from .prior import ClassPrior, PriorLike
from .released import convert_released_keys
from .reweight import (
    ZeroCount,
    effective_number_weights,
    filled_counts,
    generalized_reweight,
)
from .scale import ClassScale
from .scores import AffineMap, AffineScores, LinearScores, MarginScores
from .vmf import (
    VMFLinear,
    calibrated_kappa,
    class_feature_discrepancy,
    inter_class_overlap,
    mean_overlap,
)
from .whitening import Whitening

__all__ = [
    'INVERSE_FREQUENCIES',
    'AdaptiveCalibration',
    'AffineMap',
    'AffineScores',
    'BackTrackedFeatures',
    'CalibratedLayerMixin',
    'CausalLinear',
    'ClassPrior',
    'ClassScale',
    'CosineConv2d',
    'CosineLinear',
    'LinearScores',
    'MarginScores',
    'PriorLike',
    'ScoreLayout',
    'VMFLinear',
    'Whitening',
    'ZeroCount',
    'calibrate_layer',
    'calibrated_kappa',
    'calibrated_outputs',
    'class_feature_discrepancy',
    'convert_released_keys',
    'effective_number_weights',
    'filled_counts',
    'generalized_reweight',
    'hold_calibration',
    'inter_class_overlap',
    'inverse_frequency',
    'logit_adjustment',
    'makes_new',
    'mean_overlap',
    'mix_in',
    'mixed',
    'normalized_calibration',
    'tau_normalized',
]
