"""The core: torch and mmengine only, one code for images and videos."""

from . import flops  # noqa: F401, registers formulas
from .blocks import CornerEncoding, RoIAdjust
from .decoding import AdaptiveMixing, LinearDecoding, StaticMixing
from .maps import LocationAwareMaps
from .sampling import SparseSampling
from .sparseformer import SparseFormer
from .stem import EarlyConv, PatchEmbed, RawPixels
from .tokens import SparseFormerOutput, StageRecord

__all__ = [
    'SparseFormer',
    'SparseFormerOutput',
    'StageRecord',
    'SparseSampling',
    'RoIAdjust',
    'CornerEncoding',
    'AdaptiveMixing',
    'StaticMixing',
    'LinearDecoding',
    'LocationAwareMaps',
    'EarlyConv',
    'PatchEmbed',
    'RawPixels',
]
