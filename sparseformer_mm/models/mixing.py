"""Mixing a token's sampled features over channels, then over points.

In float32 on a CPU a few tokens at a time stay in the processor's cache, the GELU
between is made anew in the backward pass instead of being kept, and the gradient of
the mixing weights, the largest tensor of the model, is written once.
"""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops import even_slices, fast_cpu, needs_grad

# Features at a time and thread; 0.8 MiB.
_MAX_FEATURES = 200_000


def mix(
    x: Tensor,
    weights: Tensor,
    out_points: int,
    channel_bias: Optional[Tensor] = None,
    point_bias: Optional[Tensor] = None,
    channel_gelu: bool = True,
) -> Tensor:
    """``M_s GELU(x M_c + b_c) + b_s`` (paper, equations 5 and 6 before its GELU).

    Args:
        x: (K, P, C) sampled features of K tokens.
        weights: (K, C*C + Q*P), of each token M_c (C, C), from channels in rows to
            channels in columns, and M_s (Q, P), from points in columns to points in
            rows.
        out_points: Q.
        channel_bias: (C,), or None.
        point_bias: (Q,), or None.
        channel_gelu: False leaves out the GELU.

    Returns:
        Tensor (K, Q, C).
    """
    if channel_bias is not None:
        channel_bias = channel_bias.to(x.dtype)
    if point_bias is not None:
        point_bias = point_bias.to(x.dtype)
    args = x, weights, channel_bias, point_bias, out_points, channel_gelu
    if not fast_cpu(*args[:4]):
        return _mix(*args)
    if needs_grad(*args[:4]):
        return _Mix.apply(*args)
    out = x.new_empty(len(x), out_points, x.shape[2])
    for some in _some_tokens(x):
        _mix(x[some], weights[some], *args[2:], out=out[some])
    return out


def _activate(x: Tensor, gelu: bool) -> Tensor:
    return F.gelu(x) if gelu else x


def _column(bias: Optional[Tensor]) -> Optional[Tensor]:
    return None if bias is None else bias[:, None]


def _product(
    x: Tensor, y: Tensor, bias: Optional[Tensor], out: Optional[Tensor] = None
) -> Tensor:
    if bias is None:
        return torch.bmm(x, y, out=out)
    return torch.baddbmm(bias, x, y, out=out)


def _split(weights: Tensor, x: Tensor, out_points: int) -> Tuple[Tensor, Tensor]:
    """M_c (K, C, C) and M_s (K, Q, P)."""
    num_points, channels = x.shape[1:]
    channel, point = weights.split([channels**2, out_points * num_points], -1)
    return (
        channel.unflatten(-1, (channels, channels)),
        point.unflatten(-1, (out_points, num_points)),
    )


def _mix(
    x: Tensor,
    weights: Tensor,
    channel_bias: Optional[Tensor],
    point_bias: Optional[Tensor],
    out_points: int,
    channel_gelu: bool,
    middle: Optional[Tensor] = None,
    out: Optional[Tensor] = None,
) -> Tensor:
    """Into ``out``; what the channels give, before GELU, into ``middle``."""
    channel, point = _split(weights, x, out_points)
    middle = _product(x, channel, channel_bias, middle)
    middle = _activate(middle, channel_gelu)
    return _product(point, middle, _column(point_bias), out)


def _some_tokens(x: Tensor) -> List[slice]:
    at_most = torch.get_num_threads() * _MAX_FEATURES // x[0].numel()
    return even_slices(len(x), at_most)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, channel_bias, point_bias, out_points, channel_gelu):
        ctx.settings = out_points, channel_gelu
        middle = torch.empty_like(x, memory_format=torch.contiguous_format)
        out = x.new_empty(len(x), out_points, x.shape[2])
        for some in _some_tokens(x):
            biases = channel_bias, point_bias
            into = middle[some], out[some]
            _mix(x[some], weights[some], *biases, *ctx.settings, *into)
        ctx.save_for_backward(x, weights, middle)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weights, middle = ctx.saved_tensors
        out_points, channel_gelu = ctx.settings
        channels = x.shape[2]
        grad_x = torch.empty_like(middle)
        grad_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
        grad_channel_bias = x.new_zeros(channels)
        for some in _some_tokens(x):
            channel, point = _split(weights[some], x, out_points)
            grad_channel, grad_point = _split(grad_weights[some], x, out_points)
            before, g = middle[some], grad[some]
            grad_point.copy_(g @ _activate(before, channel_gelu).transpose(1, 2))
            g = point.transpose(1, 2) @ g
            if channel_gelu:
                g = torch.ops.aten.gelu_backward(g, before)
            grad_channel.copy_(x[some].transpose(1, 2) @ g)
            grad_channel_bias += g.sum((0, 1))
            grad_x[some] = g @ channel.transpose(1, 2)
        _, _, has_channel_bias, has_point_bias, *_ = ctx.needs_input_grad
        return (
            grad_x,
            grad_weights,
            grad_channel_bias if has_channel_bias else None,
            grad.sum((0, 2)) if has_point_bias else None,
            None,
            None,
        )
