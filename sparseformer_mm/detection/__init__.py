"""Detection with mmdet, the only place that imports it."""

from .detector import SparseFormerDetector
from .head import SparseFormerHead
from .hooks import CheckDatasetHook

__all__ = ['CheckDatasetHook', 'SparseFormerDetector', 'SparseFormerHead']
