"""Training helpers on mmengine alone."""

from .check_dataset import CheckDatasetHook
from .health import HealthHook
from .hooks import AverageBatchNormHook, ConvertCheckpointHook, LossScaleHook

__all__ = [
    'AverageBatchNormHook',
    'CheckDatasetHook',
    'ConvertCheckpointHook',
    'HealthHook',
    'LossScaleHook',
]
