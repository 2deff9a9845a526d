"""Training helpers on mmengine alone."""

from .hooks import ConvertCheckpointHook, LossScaleHook

__all__ = ['ConvertCheckpointHook', 'LossScaleHook']
