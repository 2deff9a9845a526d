"""Transformer blocks on tokens: plain ones, and ones that look at the image."""

from typing import Optional, Tuple

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from .ops import (
    at_least_float32,
    attention,
    drop_path,
    make_linear,
    no_autocast,
    project,
)
from .rois import adjust_rois


class Attention(BaseModule):
    """Multi-head self-attention over tokens, with biases.

    Args:
        dims: token width d.
        num_heads: must divide ``dims``.

    Raises:
        ValueError: if it does not.

    Shape:
        (B, N, d) -> (B, N, d).
    """

    def __init__(self, dims: int, num_heads: int, init_cfg=None):
        super().__init__(init_cfg)
        if dims % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the token width {dims}; '
                'choose a width that is a multiple of it, or other num_heads'
            )
        self.num_heads = num_heads
        self.qkv = make_linear(dims, 3 * dims)
        self.proj = make_linear(dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        qkv = project(x, self.qkv).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        x = attention(query, key, value)
        return project(x.transpose(1, 2).flatten(2), self.proj)


class FFN(BaseModule):
    """Two linear layers with exact GELU between.

    Shape:
        (..., d) -> (..., d).
    """

    def __init__(self, dims: int, ratio: float = 4, init_cfg=None):
        super().__init__(init_cfg)
        self.fc1 = make_linear(dims, int(dims * ratio))
        self.fc2 = make_linear(int(dims * ratio), dims)

    def forward(self, x: Tensor) -> Tensor:
        return project(F.gelu(project(x, self.fc1)), self.fc2)


class RoIAdjust(BaseModule):
    """Move and scale each token's RoI by what the token says (equations 7 to 9).

    ``deltas = Linear(LayerNorm(t))`` without bias, applied by
    :func:`~.rois.adjust_rois`. The linear layer starts at zero, so RoIs start
    unchanged, and the norm's gain at d^-1/2. Computed in float32 under autocast.

    Args:
        dims: token width d.
        spatial_dims: D, 2 or 3.

    Shape:
        tokens (B, N, d), rois (B, N, 2D) -> rois (B, N, 2D).
    """

    def __init__(self, dims: int, spatial_dims: int = 2, init_cfg=None):
        super().__init__(init_cfg)
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.proj = make_linear(dims, 2 * spatial_dims, bias=False)
        self._reset()

    def _reset(self):
        nn.init.constant_(self.norm.weight, self.norm.weight.numel() ** -0.5)
        nn.init.zeros_(self.norm.bias)
        nn.init.zeros_(self.proj.weight)

    def init_weights(self):
        self._reset()
        super().init_weights()  # an init_cfg of its own wins

    def forward(
        self, tokens: Tensor, rois: Tensor, drop_path_rate: float = 0.0
    ) -> Tensor:
        """Adjust.

        Args:
            tokens: (B, N, d).
            rois: (B, N, 2D), or (1, N, 2D) if all images share them.
            drop_path_rate: probability of leaving a sample's RoIs as they are.

        Returns:
            Tensor (B, N, 2D), float32 or better.
        """
        with no_autocast(tokens):
            deltas = project(self.norm(tokens.to(self.norm.weight.dtype)), self.proj)
            deltas = at_least_float32(deltas)
            return adjust_rois(rois, drop_path(deltas, drop_path_rate, self.training))


class Block(BaseModule):
    """A transformer block in pre-norm form, which may look at the image in between.

    Self-attention, then RoI adjusting, sampling and decoding where the block has a
    sampler, then the FFN, each added to the tokens.

    Args:
        dims: token width d.
        attn: (B, N, d) -> (B, N, d).
        ffn: (B, N, d) -> (B, N, d).
        roi_adjust: as :class:`RoIAdjust`; None leaves RoIs where they are.
        sampler: as :class:`~.sampling.SparseSampling`; None for a plain block.
        decoder: (tokens, sampled (B, N, P, C)) -> (B, N, d), of a block with sampler.

    Shape:
        tokens (B, N, d), rois (B, N, 2D), feature (B, [T,] H, W, C) ->
        tokens, rois, and the points (B, N, P, D) sampled (None for a plain block).
        Tokens and RoIs of batch 1 are shared by all images of ``feature``.
    """

    def __init__(
        self,
        dims: int,
        attn: nn.Module,
        ffn: nn.Module,
        roi_adjust: Optional[nn.Module] = None,
        sampler: Optional[nn.Module] = None,
        decoder: Optional[nn.Module] = None,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.attn_norm = nn.LayerNorm(dims, eps=1e-6)
        self.attn = attn
        self.roi_adjust = roi_adjust
        self.sampler = sampler
        self.decoder = decoder
        self.ffn_norm = nn.LayerNorm(dims, eps=1e-6)
        self.ffn = ffn

    def forward(
        self,
        tokens: Tensor,
        rois: Tensor,
        feature: Tensor,
        drop_path_rate: float = 0.0,
        extents: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """Run the block; see the class for shapes.

        Args:
            drop_path_rate: of every update, RoI deltas included; must be 0 while
                tokens are shared by the batch.
            extents: of the images inside a padded ``feature``, see
                :meth:`.SparseSampling.forward`.
        """

        def drop(update: Tensor) -> Tensor:
            return drop_path(update, drop_path_rate, self.training)

        points = None
        tokens = tokens + drop(self.attn(self.attn_norm(tokens)))
        if self.sampler is not None:
            if self.roi_adjust is not None:
                rois = self.roi_adjust(tokens, rois, drop_path_rate)
            sampled, points = self.sampler(tokens, rois, feature, extents)
            tokens = tokens + drop(self.decoder(tokens, sampled.to(tokens.dtype)))
        tokens = tokens + drop(self.ffn(self.ffn_norm(tokens)))
        return tokens, rois, points
