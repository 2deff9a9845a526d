"""Segmentation with mmseg, the only place that imports it."""

from .head import LocationAwareHead
from .segmentor import SparseFormerSegmentor

__all__ = ['LocationAwareHead', 'SparseFormerSegmentor']
