"""Segmentation with mmseg, the only place that imports it."""

from .data_preprocessor import SegDataPreProcessor
from .head import LocationAwareHead
from .metrics import DumpLabelMaps
from .segmentor import SparseFormerSegmentor

__all__ = [
    'DumpLabelMaps',
    'LocationAwareHead',
    'SegDataPreProcessor',
    'SparseFormerSegmentor',
]
