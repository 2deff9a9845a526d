"""Training helpers on mmengine alone."""

from .check_dataset import CheckDatasetHook
from .fused_optimizer import FusedOptimizerHook
from .health import HealthHook
from .hooks import AverageBatchNormHook, ConvertCheckpointHook, LossScaleHook

__all__ = [
    'AverageBatchNormHook',
    'CheckDatasetHook',
    'ConvertCheckpointHook',
    'FusedOptimizerHook',
    'HealthHook',
    'LossScaleHook',
]
