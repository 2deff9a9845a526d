"""Location-aware cross-attention: from tokens back to a map (paper, appendix A.2).

``Softmax(Q K^T / sqrt(d) + B) V`` with the pixels of a map as queries and latent
tokens as keys and values. B is a sum of a term of the pixel's column and one of its
row, two small matrices which are exact for RoIs of any size. (Expanding the square
into products of queries and keys would let fused attention add B, but cancels in
float32 where a RoI is much smaller than its distance to the origin.)
"""

from typing import Optional, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops import (
    at_least_float32,
    make_linear,
    needs_reference,
    no_autocast,
    project,
    reset_linear,
)
from .padding import map_extent
from .rois import MIN_SIZE

# Attention scores held at once: what fits a core's cache, or keeps a GPU busy.
_BLOCK_SCORES = dict(cpu=2**18)
_BLOCK_SCORES_ELSEWHERE = 2**24


def location_bias(
    rois: Tensor, height: int, width: int, extents: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """B in two parts: ``B[i, j] = rows[y_i, j] + columns[x_i, j]``.

    ``rows[y, j] = -((y - y_j) / h_j)^2`` and likewise for columns, with pixel centers
    ``(index + 0.5) / extent`` in units of the image.

    Args:
        rois: (B, N, 4) x, y, w, h in units of the image.
        height, width: of the map in pixels.
        extents: (B, 2), x first: how many pixels of the map belong to each image; all
            if None.

    Returns:
        tuple: rows (B, height, N) and columns (B, width, N), float32 or better.
    """
    with no_autocast(rois):
        center, size = at_least_float32(rois).chunk(2, -1)
        size = size.abs().clamp(min=MIN_SIZE)
        if extents is None:
            extents = map_extent((height, width), center)[None]
        parts = []
        for axis, num in ((1, height), (0, width)):
            pixels = torch.arange(num, dtype=center.dtype, device=center.device)
            pixels = (pixels + 0.5) / extents[:, axis, None].to(center)
            distance = pixels[..., None] - center[:, None, :, axis]
            parts.append(-(distance / size[:, None, :, axis]).square())
    return parts[0], parts[1]


def _block_weights(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention weights of a few rows of the map.

    Args:
        query: (B * h, r * W, C).
        key: (B * h, N, C), already scaled.
        rows: (B, h, r, N), float32.
        columns: (B, 1, W, N), float32.

    Returns:
        Tensor (B * h, r * W, N), float32 or better.
    """
    bias = rows[:, :, :, None] + columns[:, :, None]
    bias = bias.flatten(2, 3).flatten(0, 1)
    if query.dtype == bias.dtype:
        scores = bias.baddbmm_(query, key.transpose(1, 2))
    else:
        scores = bias.add_(torch.bmm(query, key.transpose(1, 2)))
    return scores.softmax(-1)


class _BlockAttention(torch.autograd.Function):
    """Attention over blocks of rows, whose scores are recomputed in the backward pass.

    Shape:
        query (B, H, W, C), shared by the h heads; key (B, h, N, C); value
        (B, h, N, V); rows (B, h, H, N); columns (B, 1, W, N) -> (B, H, W, h * V).
    """

    @staticmethod
    def _blocks(query: Tensor, key: Tensor):
        batch, height, width, _ = query.shape
        _, heads, num_tokens, _ = key.shape
        budget = _BLOCK_SCORES.get(query.device.type, _BLOCK_SCORES_ELSEWHERE)
        step = max(1, budget // (batch * heads * width * max(1, num_tokens)))
        return [slice(i, min(i + step, height)) for i in range(0, height, step)]

    @staticmethod
    def _per_head(pixels: Tensor, heads: int) -> Tensor:
        """(B, r, W, C), the same for all heads, -> (B * h, r * W, C)."""
        pixels = pixels.flatten(1, 2)[:, None].expand(-1, heads, -1, -1)
        return pixels.reshape(-1, *pixels.shape[2:])

    @staticmethod
    def _split_heads(pixels: Tensor, heads: int) -> Tensor:
        """(B, r, W, h * V) -> (B * h, r * W, V)."""
        pixels = pixels.flatten(1, 2).unflatten(-1, (heads, -1))
        return pixels.transpose(1, 2).flatten(0, 1)

    @staticmethod
    def forward(ctx, query, key, value, rows, columns):
        ctx.save_for_backward(query, key, value, rows, columns)
        cls = _BlockAttention
        batch, height, width, _ = query.shape
        heads = key.shape[1]
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        out = value.new_empty(batch, height, width, heads * value.shape[-1])
        for block in cls._blocks(query, key):
            weights = _block_weights(
                cls._per_head(query[:, block], heads), keys, rows[:, :, block], columns
            )
            restored = torch.bmm(weights.to(values.dtype), values)
            restored = restored.unflatten(0, (batch, heads)).transpose(1, 2)
            out[:, block] = restored.reshape(out[:, block].shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, rows, columns = ctx.saved_tensors
        with no_autocast(query):
            return _BlockAttention._gradients(query, key, value, rows, columns, grad)

    @staticmethod
    def _gradients(query, key, value, rows, columns, grad):
        cls = _BlockAttention
        batch, heads = key.shape[:2]
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        grad_query = torch.empty_like(query)
        # Sums over blocks, in float32 for values of any precision.
        grad_keys = torch.zeros_like(keys, dtype=rows.dtype)
        grad_values = torch.zeros_like(values, dtype=rows.dtype)
        grad_rows, grad_columns = torch.empty_like(rows), torch.zeros_like(columns)
        for block in cls._blocks(query, key):
            pixels = cls._per_head(query[:, block], heads)
            weights = _block_weights(pixels, keys, rows[:, :, block], columns)
            grad_block = cls._split_heads(grad[:, block], heads)
            grad_values += torch.bmm(
                weights.to(values.dtype).transpose(1, 2), grad_block
            )
            scores = torch.ops.aten._softmax_backward_data(
                torch.bmm(grad_block, values.transpose(1, 2)).to(weights.dtype),
                weights,
                -1,
                weights.dtype,
            )
            by_row = scores.view(batch, heads, -1, *columns.shape[2:])
            grad_rows[:, :, block] = by_row.sum(3)
            grad_columns += by_row.sum((1, 2))[:, None]
            scores = scores.to(keys.dtype)
            grad_keys += torch.bmm(scores.transpose(1, 2), pixels)
            pixels = torch.bmm(scores, keys).unflatten(0, (batch, heads)).sum(1)
            grad_query[:, block] = pixels.view(grad_query[:, block].shape)
        return (
            grad_query,
            grad_keys.view_as(key).to(key.dtype),
            grad_values.view_as(value).to(value.dtype),
            grad_rows,
            grad_columns,
        )


class LocationAwareAttention(BaseModule):
    """Tokens attended to by the pixels of a map, near RoIs first.

    Lean in memory by three properties of the formula: the projection of queries is
    applied to the keys instead (there are far fewer tokens than pixels), so queries of
    width d never exist; B is made from its two parts for a few rows of the map at a
    time; and the scores of these rows are recomputed in the backward pass instead of
    kept. Compilers and exporters get the formula as it is written, and so does
    everybody with :data:`~.ops.FAST_OPS` off.

    Args:
        feat_channels: channels of the map.
        token_dims: width of the tokens.
        embed_dims: width d of queries, keys and values.
        num_heads: must divide ``embed_dims``. All heads have the same B.

    Shape:
        feature (B, H, W, C), tokens (B, N, d_t), rois (B, N, 4) -> (B, H, W, d).

    Example:
        >>> attention = LocationAwareAttention(8, 16, embed_dims=32)
        >>> feature, tokens = torch.rand(2, 5, 7, 8), torch.rand(2, 9, 16)
        >>> attention(feature, tokens, torch.rand(2, 9, 4)).shape
        torch.Size([2, 5, 7, 32])
    """

    def __init__(
        self,
        feat_channels: int,
        token_dims: int,
        embed_dims: int,
        num_heads: int = 1,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the width of the attention, '
                f'{embed_dims}: choose another num_heads or embed_dims'
            )
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5
        self.query = make_linear(feat_channels, embed_dims)
        # Adding the same number to all scores of a pixel changes nothing: a bias of
        # the keys would never learn.
        self.key = make_linear(token_dims, embed_dims, bias=False)
        self.value = make_linear(token_dims, embed_dims)

    def init_weights(self):
        for layer in (self.query, self.key, self.value):
            reset_linear(layer)
        super().init_weights()  # an init_cfg of its own wins

    def _heads(self, x: Tensor) -> Tensor:
        """(B, n, d) -> (B, h, n, d / h)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        feature: Tensor,
        tokens: Tensor,
        rois: Tensor,
        extents: Optional[Tensor] = None,
    ) -> Tensor:
        """Restore a map.

        Args:
            feature: (B, H, W, C), channels last.
            tokens: (B, N, d_t).
            rois: (B, N, 4) x, y, w, h in units of the image.
            extents: (B, 2), x first: how many pixels of the map belong to each image;
                all if None.

        Returns:
            Tensor (B, H, W, d), in the precision of the value projection.
        """
        rows, columns = location_bias(rois, *feature.shape[1:3], extents)
        key = self._heads(project(tokens, self.key)) * self.scale
        value = self._heads(project(tokens, self.value))
        # (A quantized projection has no weight that the keys could take over.)
        plain = needs_reference() or type(self.query) is not nn.Linear
        attend = self._plain if plain else self._lean
        return attend(feature, key, value, rows[:, None], columns[:, None])

    def _plain(self, feature, key, value, rows, columns) -> Tensor:
        query = self._heads(self.query(feature.to(key.dtype)).flatten(1, 2))
        bias = rows[:, :, :, None] + columns[:, :, None]
        scores = query @ key.transpose(-2, -1) + bias.flatten(2, 3)
        restored = scores.softmax(-1).to(value.dtype) @ value
        return restored.transpose(1, 2).reshape(*feature.shape[:3], -1)

    def _lean(self, feature, key, value, rows, columns) -> Tensor:
        # (W x + b) k = x (W^T k) + b k
        weight, bias = self.query.weight, self.query.bias
        key_bias = key @ bias.view(self.num_heads, -1, 1)
        key = key @ weight.unflatten(0, (self.num_heads, -1))
        rows = rows + key_bias.transpose(-2, -1)
        return _BlockAttention.apply(feature.to(key.dtype), key, value, rows, columns)
