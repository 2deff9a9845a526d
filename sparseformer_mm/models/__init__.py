"""The core: torch and mmengine only, one code for images and videos."""

from . import flops  # noqa: F401, registers formulas
from .decoding import AdaptiveMixing, LinearDecoding, StaticMixing
from .maps import LocationAwareMaps
from .sparseformer import SparseFormer
from .stem import EarlyConv, PatchEmbed, RawPixels
from .tokens import SparseFormerOutput, StageRecord

__all__ = [
    'SparseFormer',
    'SparseFormerOutput',
    'StageRecord',
    'AdaptiveMixing',
    'StaticMixing',
    'LinearDecoding',
    'LocationAwareMaps',
    'EarlyConv',
    'PatchEmbed',
    'RawPixels',
]
