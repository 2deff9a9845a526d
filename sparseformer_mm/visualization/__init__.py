"""Where a model looks: recorded, measured, drawn. Drawing needs matplotlib."""

from .hook import FocusHook

__all__ = ['FocusHook']
