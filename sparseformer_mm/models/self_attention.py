"""Self-attention, also in many narrow heads.

The published models have 64 heads of width 4 to 12 on 49 to 400 tokens. Kernels of
fused attention are made for wide heads and long rows, and a product is slow if its
result is only as wide as such a head. On a CPU :mod:`.kernels` has one for narrow
heads. Where it is not compiled there is the form here: results are as wide as there are
tokens, a few heads at a time stay in a core's own cache (one, with many tokens),
weights are powers of two, divided by their sum in the end, and the backward pass makes
them anew instead of keeping them.
"""

import math
from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels
from .ops import (
    compiles_fast_cpu,
    even_slices,
    fast_cpu,
    is_compiling_inference,
    is_tracing,
    is_transforming,
    needs_grad,
    needs_reference,
    no_autocast,
)

# Up to this width of a head and this many tokens the form here was measured to be
# faster than torch's; with 81 tokens of width 12 torch's is, in training.
_MAX_WIDTH, _MAX_TOKENS = 10, 1000
# Widths of heads for which the kernel is compiled: those of the published models.
_KERNEL_WIDTHS = 4, 5, 6, 8, 10, 12
# Scores at a time and thread; 0.6 MiB, which is one head of 400 tokens.
_MAX_SCORES = 160_000
_LOG2_E = math.log2(math.e)
# Up to this, weights are powers of two of scores as they are. Sums of a thousand, and
# gradients of more than 1e-20 divided by them, then keep all their bits.
_MAX_SCORE = 48.0


def _split_heads(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """(B, N, parts * heads * width) -> (parts, B, heads, N, width)."""
    return x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)


def _query_key_value(qkv: Tensor, num_heads: int) -> Tensor:
    """(3, B * heads, N, width) in memory of its own; queries are scaled, for powers of
    two."""
    heads = _split_heads(qkv, 3, num_heads)
    heads = heads.clone(memory_format=torch.contiguous_format).flatten(1, 2)
    heads[0].mul_(heads.shape[-1] ** -0.5 * _LOG2_E)
    return heads


def _some_heads(heads: Tensor) -> List[slice]:
    """Slices of the second axis."""
    at_most = torch.get_num_threads() * _MAX_SCORES // heads.shape[2] ** 2
    return even_slices(heads.shape[1], at_most)


def _may_overflow(heads: Tensor) -> bool:
    """Whether a score may be too large for a power of two of it; also if one is NaN."""
    query, key = torch.linalg.vector_norm(heads[:2], dim=-1).amax((1, 2)).tolist()
    return not query * key < _MAX_SCORE


def _weights(query: Tensor, key: Tensor, overflows: bool) -> Tuple[Tensor, Tensor]:
    """(heads, keys, queries), and by what to divide them: (heads, 1, queries)."""
    scores = torch.bmm(key, query.transpose(1, 2))
    if overflows:
        scores -= scores.amax(1, keepdim=True)
    # Powers of two are three times as fast as of e, and softmax's maximum and its
    # division cost as much again.
    weights = scores.exp2_()
    return weights, weights.sum(1, keepdim=True)


def _narrow(qkv: Tensor, num_heads: int) -> Tensor:
    batch, num_tokens, _ = qkv.shape
    heads = _query_key_value(qkv, num_heads)
    overflows = _may_overflow(heads)
    out = heads.new_empty(heads[0].transpose(1, 2).shape)
    for some in _some_heads(heads):
        query, key, value = heads[:, some]
        weights, total = _weights(query, key, overflows)
        torch.bmm(value.transpose(1, 2), weights, out=out[some]).div_(total)
    return out.view(batch, -1, num_tokens).transpose(1, 2).contiguous()


def _narrow_gradient(qkv: Tensor, out: Tensor, grad: Tensor, num_heads: int) -> Tensor:
    """The gradient of ``qkv`` from that of ``out``."""
    batch, num_tokens, _ = qkv.shape
    heads = _query_key_value(qkv, num_heads)
    overflows = _may_overflow(heads)
    # All with tokens in columns.
    grad = grad.transpose(1, 2).reshape(heads[0].transpose(1, 2).shape)
    mean = (grad * out.transpose(1, 2).reshape(grad.shape)).sum(1, keepdim=True)
    grad_heads = heads.new_empty((3, *grad.shape))
    for some in _some_heads(heads):
        query, key, value = heads[:, some]
        grad_query, grad_key, grad_value = grad_heads[:, some]
        weights, total = _weights(query, key, overflows)
        grad_out = grad[some] / total
        torch.bmm(grad_out, weights.transpose(1, 2), out=grad_value)
        grad_scores = torch.bmm(value, grad_out).sub_(mean[some] / total)
        grad_scores *= weights
        torch.bmm(key.transpose(1, 2), grad_scores, out=grad_query)
        torch.bmm(query.transpose(1, 2), grad_scores.transpose(1, 2), out=grad_key)
    grad_heads[0].mul_(heads.shape[-1] ** -0.5)
    grad_heads[1].div_(_LOG2_E)
    grad_qkv = grad_heads.view(3, batch, -1, num_tokens).permute(1, 3, 0, 2)
    return grad_qkv.reshape(qkv.shape)


class _NarrowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, num_heads: int) -> Tensor:
        out = _narrow(qkv, num_heads)
        ctx.save_for_backward(qkv, out)
        ctx.num_heads = num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None]:
        qkv, out = ctx.saved_tensors
        with no_autocast(qkv):
            return _narrow_gradient(qkv, out, grad, ctx.num_heads), None


class _KernelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, num_heads: int) -> Tensor:
        ctx.ops = kernels.OPS
        out, stats = ctx.ops.self_attention(qkv, num_heads)
        ctx.save_for_backward(qkv, out, stats)
        ctx.num_heads = num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None]:
        saved = ctx.saved_tensors
        return ctx.ops.self_attention_backward(*saved, grad, ctx.num_heads), None


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """In plain operations, for transforms and for compilers, which fuse them."""
    query = query * query.shape[-1] ** -0.5
    weights = (key @ query.transpose(-2, -1)).softmax(-2)
    return (value.transpose(-2, -1) @ weights).transpose(-2, -1)


def _is_half_on_cpu(x: Tensor) -> bool:
    halves = torch.bfloat16, torch.float16
    return x.dtype in halves and x.device.type == 'cpu' and not needs_reference()


def self_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Softmax attention of tokens among themselves.

    torch's fused kernel; on a CPU, with narrow heads, the kernel of :mod:`.kernels` or,
    with few tokens, the form of this module (in float32, of half numbers too), which
    ``torch.compile`` gets in plain operations; these also inside torch.func's
    transforms, not all of which know fused kernels.

    Args:
        qkv: (B, N, 3 d), the queries of all heads, then keys, then values.
        num_heads: divides d.

    Returns:
        Tensor (B, N, d), the heads side by side.
    """
    _, num_tokens, channels = qkv.shape
    narrow = channels <= 3 * num_heads * _MAX_WIDTH and num_tokens <= _MAX_TOKENS
    # Models load them when they are built; compilers cannot.
    found = kernels.OPS is not None if is_tracing() else kernels.load()
    has_kernel = found and channels // (3 * num_heads) in _KERNEL_WIDTHS
    if (narrow or has_kernel) and _is_half_on_cpu(qkv):
        # torch's kernel would take two fifths of a training step in bfloat16.
        with no_autocast(qkv):
            return self_attention(qkv.float(), num_heads).to(qkv.dtype)
    if (narrow or has_kernel) and fast_cpu(qkv):
        if has_kernel:
            return _KernelAttention.apply(qkv, num_heads)
        if needs_grad(qkv):
            return _NarrowAttention.apply(qkv, num_heads)
        return _narrow(qkv, num_heads)
    if has_kernel and compiles_fast_cpu(qkv):
        return kernels.OPS.self_attention(qkv, num_heads)[0]
    plain = is_transforming() or (narrow and is_compiling_inference(qkv))
    attend = _plain if plain else F.scaled_dot_product_attention
    return attend(*_split_heads(qkv, 3, num_heads)).transpose(1, 2).flatten(2)
