"""Transformer blocks on tokens: plain ones, and ones that look at the image."""

import math
from typing import Optional, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from ..registry import MODELS
from . import kernels
from .ops import (
    at_least_float32,
    drop_path,
    make_linear,
    no_autocast,
    project,
    project_gelu,
)
from .rois import adjust_rois, rois_to_corners
from .self_attention import self_attention


def quick_gelu(x: Tensor) -> Tensor:
    """The GELU of OpenAI's CLIP: ``x * sigmoid(1.702 x)``."""
    return x * (1.702 * x).sigmoid()


ACTIVATIONS = dict(gelu=F.gelu, quick_gelu=quick_gelu)

# What a block can do.
STEPS = ('attention', 'adjust', 'look', 'position', 'ffn')


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
        kernels.load()  # Here, too: compilers cannot in forward.
        self.num_heads = num_heads
        self.qkv = make_linear(dims, 3 * dims)
        self.proj = make_linear(dims, dims)

    def __setstate__(self, state):
        super().__setstate__(state)
        kernels.load()

    def forward(self, x: Tensor) -> Tensor:
        x = self_attention(project(x, self.qkv), self.num_heads)
        return project(x, self.proj)


class FFN(BaseModule):
    """Two linear layers with an activation between.

    Args:
        dims: token width d.
        ratio: hidden width over d.
        activation: 'gelu' (the exact one) or 'quick_gelu'.

    Shape:
        (..., d) -> (..., d).
    """

    def __init__(
        self, dims: int, ratio: float = 4, activation: str = 'gelu', init_cfg=None
    ):
        super().__init__(init_cfg)
        self.activation = activation
        self.fc1 = make_linear(dims, int(dims * ratio))
        self.fc2 = make_linear(int(dims * ratio), dims)

    def forward(self, x: Tensor) -> Tensor:
        x = project(x, self.fc1)
        if self.activation == 'gelu':
            return project_gelu(x, self.fc2)
        return project(ACTIVATIONS[self.activation](x), self.fc2)


@MODELS.register_module()
class RoIAdjust(BaseModule):
    """Move and scale each token's RoI by what the token says (equations 7 to 9).

    ``deltas = Linear(LayerNorm(t))`` without bias, applied by
    :func:`~.rois.adjust_rois`; with ``mlp``, ``Linear(GELU(Linear(LayerNorm(t))))``, as
    in the authors' bootstrapped models. The last layer starts at zero, so RoIs start
    unchanged, and the norm's gain at d^-1/2 (at 1 with ``mlp``). Computed in float32
    under autocast.

    Args:
        dims: token width d.
        spatial_dims: D, 2 or 3.
        mlp: whether there is a hidden layer, of width d, with bias.
        norm_eps: of the LayerNorm.

    Shape:
        tokens (B, N, d), rois (B, N, 2D) -> rois (B, N, 2D).
    """

    def __init__(
        self,
        dims: int,
        spatial_dims: int = 2,
        mlp: bool = False,
        norm_eps: float = 1e-6,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.norm = nn.LayerNorm(dims, eps=norm_eps)
        self.hidden = make_linear(dims, dims) if mlp else None
        self.proj = make_linear(dims, 2 * spatial_dims, bias=False)
        self._reset()

    def _reset(self):
        gain = 1.0 if self.hidden is not None else self.norm.weight.numel() ** -0.5
        nn.init.constant_(self.norm.weight, gain)
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
            x = self.norm(tokens.to(self.norm.weight.dtype))
            if self.hidden is not None:
                x = F.gelu(project(x, self.hidden))
            deltas = at_least_float32(project(x, self.proj))
            return adjust_rois(rois, drop_path(deltas, drop_path_rate, self.training))


@MODELS.register_module()
class CornerEncoding(BaseModule):
    """Position encoding of a token's RoI (the second paper's, in the authors' form).

    Each corner coordinate, times pi, times frequencies from 1 to 128 in equal ratios;
    sines of the even ones, cosines of the odd ones, of x1, y1, x2, y2 in turn; then
    ``Linear(LayerNorm(...))``. No gradient goes through it to the RoIs.

    For tubes, (t1, t2) go the same way through a linear layer of their own,
    ``time_proj``, which starts at zero: an image model's weights load.

    Args:
        dims: token width d. There are d / 4 frequencies, at least one.
        spatial_dims: D, 2 or 3.
        max_frequency: the highest one.
        norm_eps: of the LayerNorm.

    Shape:
        rois (B, N, 2D) -> (B, N, d).
    """

    def __init__(
        self,
        dims: int,
        spatial_dims: int = 2,
        max_frequency: float = 128,
        norm_eps: float = 1e-6,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.num_frequencies = max(1, dims // 4)
        self.max_frequency = max_frequency
        self.norm = nn.LayerNorm(4 * self.num_frequencies, eps=norm_eps)
        self.proj = make_linear(4 * self.num_frequencies, dims)
        self.time_proj = None
        if spatial_dims == 3:
            self.time_proj = make_linear(2 * self.num_frequencies, dims, bias=False)
        self._reset()

    def _reset(self):
        if self.time_proj is not None:
            nn.init.zeros_(self.time_proj.weight)

    def init_weights(self):
        self._reset()
        super().init_weights()  # an init_cfg of its own wins

    def _waves(self, x: Tensor) -> Tensor:
        """(..., K) numbers -> (..., K * num_frequencies)."""
        exponents = torch.linspace(
            0,
            math.log(self.max_frequency),
            self.num_frequencies,
            dtype=x.dtype,
            device=x.device,
        )
        angles = x[..., None] * math.pi * exponents.exp()
        waves = [angles[..., 0::2].sin(), angles[..., 1::2].cos()]
        return torch.cat(waves, -1).flatten(-2)

    def forward(self, rois: Tensor) -> Tensor:
        dtype = self.norm.weight.dtype
        with no_autocast(rois):
            corners = rois_to_corners(at_least_float32(rois.detach()))
            lower, upper = corners.chunk(2, -1)
            corners = torch.cat([lower[..., :2], upper[..., :2]], -1)
            waves = self._waves(corners).to(dtype)
        encoding = project(self.norm(waves), self.proj)
        if self.time_proj is not None:
            with no_autocast(rois):
                times = torch.cat([lower[..., 2:], upper[..., 2:]], -1)
                waves = self._waves(times).to(dtype)
            encoding = encoding + project(waves, self.time_proj)
        return encoding


class Block(BaseModule):
    """A transformer block in pre-norm form, which may look at the image in between.

    Args:
        dims: token width d.
        steps: what the block does, in this order. What 'attention', 'look' and 'ffn'
            say is added to the tokens.

            - 'attention': ``attn``, after a LayerNorm.
            - 'adjust': ``roi_adjust`` moves the RoIs.
            - 'look': ``sampler`` reads the map in the RoIs, ``decoder`` takes it in.
            - 'position': ``position`` of the RoIs is added to the tokens.
            - 'ffn': ``ffn``, after a LayerNorm.
        norm_eps: of these two.
        attn: (B, N, d) -> (B, N, d).
        ffn: (B, N, d) -> (B, N, d).
        roi_adjust: as :class:`RoIAdjust`.
        sampler: as :class:`~.sampling.SparseSampling`.
        decoder: (tokens, sampled (B, N, P, C)) -> (B, N, d).
        position: as :class:`CornerEncoding`.

    Shape:
        tokens (B, N, d), rois (B, N, 2D), feature (B, [T,] H, W, C) ->
        tokens, rois, and where it looked: the RoIs and the points (B, N, P, D) in them,
        or None. Tokens and RoIs of batch 1 are shared by all images of ``feature``.
    """

    def __init__(
        self,
        dims: int,
        steps: Sequence[str] = ('attention', 'ffn'),
        norm_eps: float = 1e-6,
        attn: Optional[nn.Module] = None,
        ffn: Optional[nn.Module] = None,
        roi_adjust: Optional[nn.Module] = None,
        sampler: Optional[nn.Module] = None,
        decoder: Optional[nn.Module] = None,
        position: Optional[nn.Module] = None,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.steps = tuple(steps)
        if attn is not None:
            self.attn_norm = nn.LayerNorm(dims, eps=norm_eps)
        self.attn = attn
        self.roi_adjust = roi_adjust
        self.sampler = sampler
        self.decoder = decoder
        self.position = position
        if ffn is not None:
            self.ffn_norm = nn.LayerNorm(dims, eps=norm_eps)
        self.ffn = ffn

    def forward(
        self,
        tokens: Tensor,
        rois: Tensor,
        feature: Tensor,
        drop_path_rate: float = 0.0,
        extents: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Optional[Tuple[Tensor, Tensor]]]:
        """Run the block; see the class for shapes.

        Args:
            drop_path_rate: of every update, RoI deltas included, but not of positions;
                must be 0 while tokens are shared by the batch.
            extents: of the images inside a padded ``feature``, see
                :meth:`.SparseSampling.forward`.
        """

        def drop(update: Tensor) -> Tensor:
            return drop_path(update, drop_path_rate, self.training)

        looked = None
        for step in self.steps:
            if step == 'attention':
                tokens = tokens + drop(self.attn(self.attn_norm(tokens)))
            elif step == 'adjust':
                rois = self.roi_adjust(tokens, rois, drop_path_rate)
            elif step == 'look':
                sampled, points = self.sampler(tokens, rois, feature, extents)
                looked = rois, points
                tokens = tokens + drop(self.decoder(tokens, sampled.to(tokens.dtype)))
            elif step == 'position':
                tokens = tokens + self.position(rois)
            elif step == 'ffn':
                tokens = tokens + drop(self.ffn(self.ffn_norm(tokens)))
        return tokens, rois, looked
