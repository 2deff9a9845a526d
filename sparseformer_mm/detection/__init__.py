"""Detection with mmdet, the only place that imports it."""

from .detector import SparseFormerDetector
from .head import SparseFormerHead

__all__ = ['SparseFormerDetector', 'SparseFormerHead']
