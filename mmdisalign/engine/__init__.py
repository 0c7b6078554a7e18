"""What a stage trains, and how it is launched; on top of mmengine alone."""

from .amp import CPUAmpOptimWrapper
from .checkpoint import allow_mmengine_checkpoints
from .data_check import check_checkpoint, check_data, iter_datasets
from .derive import check_prior, derive
from .stage import CalibrationStageMixin, check_calibration

allow_mmengine_checkpoints()

__all__ = [
    'CPUAmpOptimWrapper',
    'CalibrationStageMixin',
    'allow_mmengine_checkpoints',
    'check_calibration',
    'check_checkpoint',
    'check_data',
    'check_prior',
    'derive',
    'iter_datasets',
]
