"""Training helpers on mmengine alone."""

from .check_dataset import CheckDatasetHook
from .hooks import AverageBatchNormHook, ConvertCheckpointHook, LossScaleHook

__all__ = [
    'AverageBatchNormHook',
    'CheckDatasetHook',
    'ConvertCheckpointHook',
    'LossScaleHook',
]
