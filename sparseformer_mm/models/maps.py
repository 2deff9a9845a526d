"""From latent tokens to maps of several strides, as dense models of any library take.

A module that restores maps, of a backbone or in a head, is built as ``(feat_channels,
token_dims, in_stride, strides, channels)`` and called with the backbone's
:class:`.SparseFormerOutput`; it returns a map (B, channels[l], ceil(H / strides[l]),
ceil(W / strides[l])) for each stride. Another one is written by registering a class of
that form with :data:`sparseformer_mm.registry.MODELS` and naming it in
``map_decoder=dict(type=...)``.
"""

from typing import List, Optional, Sequence, Tuple, Union

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from ..registry import MODELS
from .arguments import check_count
from .location_attention import LocationAwareAttention
from .ops import make_linear, project
from .padding import inside_images, map_extent
from .tokens import SparseFormerOutput


def mean_pixels(x: Tensor, size: int, inside: Optional[Tensor] = None) -> Tensor:
    """A map at a coarser stride: means over ``size`` x ``size`` of its pixels.

    Args:
        x: (B, C, H, W), zero outside the images.
        size: in pixels. At the right and lower edge, fewer may be left.
        inside: (B, 1, H, W), which pixels belong to the images; all if None.

    Returns:
        Tensor (B, C, ceil(H / size), ceil(W / size)).
    """
    if size == 1:
        return x
    means = F.avg_pool2d(x, size, ceil_mode=True)
    if inside is not None:
        share = F.avg_pool2d(inside.to(x.dtype), size, ceil_mode=True)
        means = means / share.clamp(min=size**-2)
    return means


def _norm_inside(norm: nn.Module, x: Tensor, inside: Optional[Tensor]) -> Tensor:
    """Batch norm whose statistics are of the images' pixels, not of the padding.

    Args:
        norm: a batch norm, synchronized between processes or not.
        x: (B, C, H, W).
        inside: (B, 1, H, W), which pixels belong to the images; all if None.

    Returns:
        Tensor (B, C, H, W); what it says of the padding means nothing.
    """
    if inside is None or not norm.training:  # then each pixel is by itself
        return norm(x)
    pixels = x.movedim(1, -1)[inside[:, 0]]
    normed = norm(pixels.t()[None, :, :, None])[0, :, :, 0].t()
    filled = x.movedim(1, -1).masked_scatter(inside.movedim(1, -1), normed)
    return filled.movedim(-1, 1)


class _ResidualBlock(BaseModule):
    """Two 3x3 convolutions with batch norm beside the identity, which it starts as.

    Shape:
        x (B, C, H, W), inside None or (B, 1, H, W), where x is not padding ->
        (B, C, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self._reset()

    def _reset(self):
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
        for norm in (self.norm1, self.norm2):
            norm.reset_parameters()
        nn.init.zeros_(self.norm2.weight)

    def init_weights(self):
        self._reset()
        super().init_weights()

    def forward(self, x: Tensor, inside: Optional[Tensor] = None) -> Tensor:
        y = F.relu(_norm_inside(self.norm1, self.conv1(x), inside))
        if inside is not None:  # a convolution pads with zeros, here too
            y = y * inside
        x = x + _norm_inside(self.norm2, self.conv2(y), inside)
        return x if inside is None else x * inside


class _Level(BaseModule):
    """One map, from tokens and the next finer map."""

    def __init__(
        self,
        feat_channels: int,
        token_dims: int,
        fine_channels: int,
        channels: int,
        ratio: int,
        num_heads: int,
        num_blocks: int,
    ):
        super().__init__()
        self.attention = LocationAwareAttention(
            feat_channels, token_dims, channels, num_heads
        )
        kernel = max(3, 2 * ratio - 1)  # reads every pixel, centered
        self.local = nn.Conv2d(
            fine_channels,
            fine_channels,
            kernel,
            stride=ratio,
            padding=kernel // 2,
            groups=fine_channels,
        )
        # (The values of the attention have a bias already.)
        self.mix = make_linear(fine_channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = ModuleList(_ResidualBlock(channels) for _ in range(num_blocks))
        self._reset()

    def _reset(self):
        # What is local starts as strong as what tokens say.
        self.local.reset_parameters()
        nn.init.xavier_uniform_(self.mix.weight)

    def init_weights(self):
        self._reset()
        super().init_weights()

    def forward(self, feature, tokens, rois, extents, fine, whole_pixels):
        """(B, h, w, C), (B, C', H, W) of the finer map -> (B, channels, h, w)."""
        x = self.attention(feature, tokens, rois, extents)
        fine = fine.to(self.local.weight.dtype)  # the stem's map is never half
        local = F.gelu(self.local(fine)).permute(0, 2, 3, 1)
        x = x + project(local, self.mix).to(x.dtype)
        x = self.norm(x).permute(0, 3, 1, 2)
        inside = None
        if whole_pixels is not None:  # a convolution pads with zeros, here too
            inside = inside_images(x, whole_pixels)
            x = x * inside
        for block in self.blocks:
            x = block(x, inside)
        return x


def _per_level(num_blocks: Union[int, Sequence[int]], levels: int) -> List[int]:
    if not isinstance(num_blocks, (list, tuple)):
        num_blocks = [num_blocks] * levels
    if len(num_blocks) != levels:
        raise ValueError(
            f'num_blocks={num_blocks!r} must be one number, or one for each of the '
            f'{levels} maps'
        )
    return [check_count('num_blocks', num, 0) for num in num_blocks]


@MODELS.register_module()
class LocationAwareMaps(BaseModule):
    """A pyramid of maps, as of a convolutional network, restored from tokens.

    From fine to coarse, m_0 the stem's map s::

        m_l = LayerNorm(Attention_l(mean_l(s), tokens) + Linear(GELU(conv_l(m_{l-1}))))

    mean_l brings the map to stride l; each of its pixels attends to the tokens, those
    first whose RoIs are near (:class:`.LocationAwareAttention`: paper, appendix A.2).
    conv_l is depthwise, with the ratio of the two strides, 3 x 3 from 4 to 8. So every
    map has what the tokens found, and fine detail that no token holds; and since each
    one goes into the next, all parameters learn when a neck leaves out fine maps, as
    RetinaNet's does. Images of a padded batch do not see their padding, where maps are
    zero.

    Args:
        feat_channels: C of the stem's map.
        token_dims: d_c, the width of the tokens.
        in_stride: of the stem's map.
        strides: of the maps; each a multiple of the one before, the first of
            ``in_stride``.
        channels: of each map.
        num_heads: of the attention; must divide all ``channels``.
        num_blocks: residual blocks of two 3x3 convolutions with batch norm on each
            map, or one number per map. What is local is then learnt fast, from little
            data too. The next map is made of what they give.

    Raises:
        ValueError: if ``num_heads`` does not divide one of ``channels``, or if
            ``num_blocks`` is neither a number nor one per map.
    """

    def __init__(
        self,
        feat_channels: int,
        token_dims: int,
        in_stride: int,
        strides: Sequence[int],
        channels: Sequence[int],
        num_heads: int = 1,
        num_blocks: Union[int, Sequence[int]] = 0,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        blocks = _per_level(num_blocks, len(channels))
        self.scales = [stride // in_stride for stride in strides]
        ratios = [b // a for a, b in zip([1, *self.scales], self.scales)]
        widths = [feat_channels, *channels]
        self.levels = ModuleList(
            _Level(feat_channels, token_dims, *sizes, num_heads, num)
            for *sizes, num in zip(widths, channels, ratios, blocks)
        )

    def forward(self, outputs: SparseFormerOutput) -> Tuple[Tensor, ...]:
        """Restore the maps.

        Args:
            outputs: of the backbone, for images.

        Returns:
            tuple: (B, channels[l], ceil(H / strides[l]), ceil(W / strides[l])) each.
        """
        feature, extents = outputs.image_feature, outputs.map_extents
        inside = None
        if extents is None:
            whole = map_extent(feature.shape[-2:], feature)[None]
        else:
            whole = extents
            inside = inside_images(feature, extents)
        maps, fine = [], feature
        for scale, level in zip(self.scales, self.levels):
            query = mean_pixels(feature, scale, inside)
            fine = level(
                query.permute(0, 2, 3, 1),
                outputs.tokens,
                outputs.rois,
                whole / scale,  # with fractions: a coarse pixel may leave the image
                fine,
                None if extents is None else (extents / scale).ceil(),
            )
            # Operators of mmcv read the memory of maps without asking for its layout.
            maps.append(fine.contiguous())
        return tuple(maps)
