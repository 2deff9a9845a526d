"""Segmentation with mmseg, the only place that imports it."""

from .head import LocationAwareHead
from .metrics import DumpLabelMaps
from .segmentor import SparseFormerSegmentor

__all__ = ['DumpLabelMaps', 'LocationAwareHead', 'SparseFormerSegmentor']
