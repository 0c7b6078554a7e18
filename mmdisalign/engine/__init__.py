"""What a stage trains, and how it is launched; on top of mmengine alone."""

from .amp import CPUAmpOptimWrapper
from .checkpoint import allow_mmengine_checkpoints, check_checkpoint, read_state, save_model
from .configs import check_keys, is_new_style, plugin_of, prepare, read_config
from .data_check import check_data, iter_datasets, only_dataset
from .derive import (
    calibrated_by_name,
    check_kept,
    check_prior,
    derive,
    refusal,
    registered_class,
    type_name,
    unknown_arguments,
)
from .hooks import CalibrationHook
from .stage import CalibrationStageMixin, as_in_training, check_calibration, trained_terms

allow_mmengine_checkpoints()

__all__ = [
    'CPUAmpOptimWrapper',
    'CalibrationHook',
    'CalibrationStageMixin',
    'allow_mmengine_checkpoints',
    'as_in_training',
    'calibrated_by_name',
    'check_calibration',
    'check_checkpoint',
    'check_data',
    'check_kept',
    'check_keys',
    'check_prior',
    'derive',
    'is_new_style',
    'iter_datasets',
    'only_dataset',
    'plugin_of',
    'prepare',
    'read_config',
    'read_state',
    'refusal',
    'registered_class',
    'save_model',
    'trained_terms',
    'type_name',
    'unknown_arguments',
]
