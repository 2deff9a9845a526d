"""Detection with mmdet, the only place that imports it."""

from .data_preprocessor import DetDataPreprocessor
from .detector import SparseFormerDetector
from .head import SparseFormerHead
from .map_evidence import MapEvidence

__all__ = [
    'DetDataPreprocessor',
    'MapEvidence',
    'SparseFormerDetector',
    'SparseFormerHead',
]
