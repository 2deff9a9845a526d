"""Decoding: from a token's sampled features to the update of the token.

Each decoding is a module built as ``(dims, feat_channels, num_points)`` and called
as ``decoder(tokens, sampled)`` with tokens (B, N, d), or (1, N, d) in the first stage,
where all images share them, and sampled features (B, N, P, C) of the same dtype; it
returns (B, N, d). Another one is written by registering a class of
that form with :data:`sparseformer_mm.registry.MODELS` and naming it in
``decoding=dict(type=...)``; the backbone needs no change.
"""

from typing import Optional, Tuple

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from ..registry import MODELS
from .arguments import check_count
from .mixing import mix
from .ops import make_linear, project, project_gelu


def _xavier(weight: Tensor, columns: int):
    """Fill a flat tensor with a Xavier-uniform matrix of so many columns."""
    with torch.no_grad():
        matrix = weight.new_empty(len(weight) // columns, columns)
        weight.copy_(nn.init.xavier_uniform_(matrix).flatten())


class _Mixing(BaseModule):
    """What adaptive and static mixing share: biases and the last projection."""

    def __init__(
        self,
        dims: int,
        feat_channels: int,
        num_points: int,
        min_out_points: int = 1,
        mixing_bias: bool = True,
        channel_gelu: bool = True,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        self.channel_gelu = channel_gelu
        self.feat_channels = feat_channels
        self.num_points = num_points
        self.out_points = max(num_points, check_count('min_out_points', min_out_points))
        self.channel_bias = self.point_bias = None
        if mixing_bias:
            self.channel_bias = nn.Parameter(torch.zeros(feat_channels))
            self.point_bias = nn.Parameter(torch.zeros(self.out_points))
        self.proj = make_linear(self.out_points * feat_channels, dims)

    @property
    def sizes(self) -> Tuple[int, int]:
        """Numbers in a channel mixing and in a point mixing."""
        return self.feat_channels**2, self.out_points * self.num_points

    def init_weights(self):
        if self.channel_bias is not None:
            nn.init.zeros_(self.channel_bias)
            nn.init.zeros_(self.point_bias)
        self._reset()
        super().init_weights()  # an init_cfg of its own wins

    def _mixing_weights(self, tokens: Tensor, batch: int) -> Tensor:
        raise NotImplementedError

    def forward(self, tokens: Tensor, sampled: Tensor) -> Tensor:
        batch, num_tokens = sampled.shape[:2]
        weights = self._mixing_weights(tokens, batch)
        x = mix(
            sampled.flatten(0, 1).to(weights.dtype),
            weights,
            self.out_points,
            self.channel_bias,
            self.point_bias,
            self.channel_gelu,
        )
        x = x.reshape(batch, num_tokens, self.proj.in_features)
        return project_gelu(x, self.proj)


@MODELS.register_module()
class AdaptiveMixing(_Mixing):
    """Adaptive feature decoding (paper, equations 4 to 6).

    Two linear layers without activation make the mixing weights out of the token,
    ``[M_c | M_s] = Linear(Linear(LayerNorm(t)))`` with hidden width d/4; the features
    go through ``GELU(x M_c + b_c)`` and ``GELU(M_s x + b_s)`` and one linear layer.
    It starts unconditional: the second layer has zero weight, and two Xavier-uniform
    matrices as bias.

    Args:
        dims: token width d.
        feat_channels: C.
        num_points: P.
        squeeze_ratio: d over the hidden width.
        hidden_dims: the hidden width itself, in place of the ratio.
        min_out_points: M_s gives max(P, this) points.
        mixing_bias: False leaves b_c and b_s out.
        channel_gelu: False leaves out the GELU after M_c.
        norm_eps: of the LayerNorm.

    Shape:
        tokens (B or 1, N, d), sampled (B, N, P, C) -> (B, N, d).
    """

    def __init__(
        self,
        dims: int,
        feat_channels: int,
        num_points: int,
        squeeze_ratio: int = 4,
        hidden_dims: Optional[int] = None,
        min_out_points: int = 1,
        mixing_bias: bool = True,
        channel_gelu: bool = True,
        norm_eps: float = 1e-6,
        init_cfg=None,
    ):
        super().__init__(
            dims,
            feat_channels,
            num_points,
            min_out_points,
            mixing_bias,
            channel_gelu,
            init_cfg,
        )
        hidden = max(1, dims // squeeze_ratio)
        if hidden_dims is not None:
            hidden = check_count('hidden_dims', hidden_dims)
        self.norm = nn.LayerNorm(dims, eps=norm_eps)
        self.squeeze = make_linear(dims, hidden)
        self.generate = make_linear(hidden, sum(self.sizes))
        self._reset()

    def _reset(self):
        nn.init.constant_(self.norm.weight, self.norm.weight.numel() ** -0.5)
        nn.init.zeros_(self.norm.bias)
        nn.init.zeros_(self.generate.weight)
        channel, point = self.generate.bias.split(self.sizes)
        _xavier(channel, self.feat_channels)
        _xavier(point, self.num_points)

    def _mixing_weights(self, tokens: Tensor, batch: int) -> Tensor:
        weights = project(project(self.norm(tokens), self.squeeze), self.generate)
        return weights.expand(batch, -1, -1).flatten(0, 1)


@MODELS.register_module()
class StaticMixing(_Mixing):
    """Mixing with learned weights that do not depend on the token (Table 3e).

    Args and shape as :class:`AdaptiveMixing`.
    """

    def __init__(self, dims: int, feat_channels: int, num_points: int, init_cfg=None):
        super().__init__(dims, feat_channels, num_points, init_cfg=init_cfg)
        self.channel_mixing = nn.Parameter(torch.empty(feat_channels, feat_channels))
        self.point_mixing = nn.Parameter(torch.empty(num_points, num_points))
        self._reset()

    def _reset(self):
        nn.init.xavier_uniform_(self.channel_mixing)
        nn.init.xavier_uniform_(self.point_mixing)

    def _mixing_weights(self, tokens: Tensor, batch: int) -> Tensor:
        weights = torch.cat(
            [self.channel_mixing.flatten(), self.point_mixing.flatten()]
        )
        return weights.expand(batch * tokens.shape[1], -1)


@MODELS.register_module()
class LinearDecoding(BaseModule):
    """One linear layer over a token's P * C sampled numbers (Table 3e, 'linear').

    Args and shape as :class:`AdaptiveMixing`.
    """

    def __init__(self, dims: int, feat_channels: int, num_points: int, init_cfg=None):
        super().__init__(init_cfg)
        self.proj = make_linear(num_points * feat_channels, dims)

    def forward(self, tokens: Tensor, sampled: Tensor) -> Tensor:
        return project(sampled.flatten(2), self.proj)
