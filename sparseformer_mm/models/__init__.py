"""The core: torch and mmengine only, one code for images and videos."""
from .decoding import AdaptiveMixing, LinearDecoding, StaticMixing
from .sparseformer import SparseFormer, SparseFormerOutput, StageRecord
from .stem import EarlyConv, PatchEmbed, RawPixels

__all__ = [
    'SparseFormer', 'SparseFormerOutput', 'StageRecord', 'AdaptiveMixing',
    'StaticMixing', 'LinearDecoding', 'EarlyConv', 'PatchEmbed', 'RawPixels'
]
