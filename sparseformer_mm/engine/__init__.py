"""Training helpers on mmengine alone."""

from .hooks import AverageBatchNormHook, ConvertCheckpointHook, LossScaleHook

__all__ = ['AverageBatchNormHook', 'ConvertCheckpointHook', 'LossScaleHook']
