"""Segmentation with mmseg, the only place that imports it."""

from .data_preprocessor import SegDataPreProcessor
from .head import LocationAwareHead
from .metrics import DumpLabelMaps
from .segmentor import SparseFormerSegmentor
from .token_head import TokenLabelHead

__all__ = [
    'DumpLabelMaps',
    'LocationAwareHead',
    'SegDataPreProcessor',
    'SparseFormerSegmentor',
    'TokenLabelHead',
]
