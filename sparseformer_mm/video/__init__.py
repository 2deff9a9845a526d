"""SparseFormer with mmaction2; the only place that imports it."""

# First: without it mmaction2's release cannot be imported.
from . import compat  # isort: skip
from .shuffle import ShuffleFrames
from .transforms import ReadFrames

__all__ = ['ReadFrames', 'ShuffleFrames', 'compat']
