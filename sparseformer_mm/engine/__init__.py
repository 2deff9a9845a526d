"""Training helpers on mmengine alone."""
from .hooks import LossScaleHook

__all__ = ['LossScaleHook']
