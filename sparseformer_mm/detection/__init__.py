"""Detection with mmdet, the only place that imports it."""

from .data_preprocessor import DetDataPreprocessor
from .detector import SparseFormerDetector
from .head import SparseFormerHead

__all__ = ['DetDataPreprocessor', 'SparseFormerDetector', 'SparseFormerHead']
