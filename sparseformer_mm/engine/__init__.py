"""Training helpers on mmengine alone."""

from .focus_hook import FocusHook
from .hooks import ConvertCheckpointHook, LossScaleHook

__all__ = ['ConvertCheckpointHook', 'FocusHook', 'LossScaleHook']
