"""What a stage trains, and how it is launched; on top of mmengine alone."""

from .amp import CPUAmpOptimWrapper
from .checkpoint import allow_mmengine_checkpoints, read_state
from .data_check import (
    built_dataset,
    built_datasets,
    check_checkpoint,
    check_data,
    iter_datasets,
)
from .derive import check_prior, derive
from .hooks import CalibrationHook
from .predictions import read_predictions
from .stage import CalibrationStageMixin, check_calibration

allow_mmengine_checkpoints()

__all__ = [
    'CPUAmpOptimWrapper',
    'CalibrationHook',
    'CalibrationStageMixin',
    'allow_mmengine_checkpoints',
    'built_dataset',
    'built_datasets',
    'check_calibration',
    'check_checkpoint',
    'check_data',
    'check_prior',
    'derive',
    'iter_datasets',
    'read_predictions',
    'read_state',
]
