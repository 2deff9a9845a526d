"""Plain operations and their precision; fast paths, each with a reference.

On CPU in float32, matrix products run through oneDNN (on some processors twice as
fast as the BLAS library that ``F.linear`` calls); other modules have fast paths of
their own.
Exporters always get the reference, ``torch.compile`` what it compiles well. Set
``FAST_OPS = False`` to get the reference everywhere, ``TRACE_GATHER = True`` to have
exporters sample without ``grid_sample`` (formats that lack it).
"""

import contextlib
from typing import List, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as nn_module
from torch.nn.modules.batchnorm import _BatchNorm

FAST_OPS = True
TRACE_GATHER = False

_PLAIN = Tensor, nn.Parameter

# Hooks of a module; torch has the same for all modules, as _global_*.
_HOOKS = tuple(
    f'_{when}{kind}hooks' for when in ('forward', 'backward') for kind in ('_pre_', '_')
)

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, '_linear_pointwise'
)
# torch before 2.6 does not.
_TELLS_EXPORT = hasattr(torch.compiler, '_is_exporting_flag')


def is_tracing() -> bool:
    """True while torch.compile, torch.export or a tracer records the model."""
    compiler = torch.compiler
    if not hasattr(compiler, 'is_compiling'):  # torch < 2.3
        compiler = torch._dynamo
    return compiler.is_compiling() or torch.jit.is_tracing()


def is_compiling_inference(like: Tensor) -> bool:
    """True while torch.compile records the model for inference on a CPU.

    Not while it is exported, nor with a torch that does not tell (2.1).
    """
    return (
        like.device.type == 'cpu'
        and not torch.is_grad_enabled()
        and _TELLS_EXPORT
        and not torch.compiler._is_exporting_flag
        and torch.compiler.is_compiling()
    )


def is_transforming() -> bool:
    """True inside torch.func's transforms (grad, vmap, jvp, ...).

    They know plain operations only: no fused kernel, no ``autograd.Function`` of the
    usual form.
    """
    return torch._C._are_functorch_transforms_active()


def needs_reference() -> bool:
    """True where no fast path may be taken, whatever the device and the dtype."""
    return not FAST_OPS or is_tracing() or is_transforming()


def autocast_dtype(device_type: str):
    """The dtype autocast uses on a device now, None where it is off."""
    if hasattr(torch, 'get_autocast_dtype'):
        on = torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if on else None
    if device_type == 'cpu':  # torch < 2.4
        on = torch.is_autocast_cpu_enabled()
        return torch.get_autocast_cpu_dtype() if on else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def no_autocast(like: Tensor):
    """Context in which autocast is off for the device of ``like``."""
    if autocast_dtype(like.device.type) is None:
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` as float32, or float64 if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


_HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == 'AVX512'


def _onednn(x: Tensor, weight: Tensor, bias=None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


def _transposed(x: Tensor, weight: Tensor, bias=None) -> Tensor:
    """The product, made as ``weight x^T``: one column after the other in memory."""
    out = _onednn(weight, x.reshape(-1, x.shape[-1])).t()
    if bias is not None:
        out = out + bias
    return out.view(*x.shape[:-1], len(weight))


def _product(x: Tensor, weight: Tensor, bias=None) -> Tensor:
    """In the form that was measured to be the fastest; not always contiguous.

    With AVX-512 oneDNN leaves few rows to one thread: one image of 49 tokens with 512
    channels gets half of what two threads can do.
    """
    columns = x.shape[-1]
    if not _HAS_AVX512 or not 16 <= x.numel() // columns < 96:
        return _onednn(x, weight, bias)
    several = torch.get_num_threads() > 1
    few = x.numel() < 32 * columns
    small = weight.numel() < 2**18
    if not few and not (several and (small or 256 <= columns < 1024)):
        return _onednn(x, weight, bias)
    # The papers' mixing weights, made of 64 to 192 columns, are to be contiguous.
    if small or columns < 256 or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    return _transposed(x, weight, bias)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias, gelu: bool):
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.gelu = bias is not None, gelu
        return _product(F.gelu(x) if gelu else x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        with no_autocast(grad):
            return _OneDNNLinear._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        rows = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[0]:
            grad_x = _product(rows, weight.t()).view_as(x)
            if ctx.gelu:
                grad_x = torch.ops.aten.gelu_backward(grad_x, x)
        if ctx.needs_input_grad[1]:
            columns = (F.gelu(x) if ctx.gelu else x).reshape(-1, x.shape[-1]).t()
            # oneDNN copies its first argument if that is transposed: the smaller one,
            # even where the result then is to be transposed too.
            if rows.numel() > columns.numel() + weight.numel():
                grad_weight = _onednn(columns, rows.t()).t()
            else:
                grad_weight = _onednn(rows.t(), columns)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias, None


def _are_plain(*tensors: Optional[Tensor]) -> bool:
    """Float32 on a CPU, without autocast and of no class of their own: fake tensors
    have no values, on which some paths depend, and quantized and sharded ones know
    torch's own functions only."""
    return autocast_dtype('cpu') is None and all(
        type(x) in _PLAIN and x.device.type == 'cpu' and x.dtype == torch.float32
        for x in tensors
        if x is not None
    )


def fast_cpu(*tensors: Optional[Tensor]) -> bool:
    """True where fast paths for float32 on a CPU may be taken (None is no tensor)."""
    return (
        not needs_reference()
        and _are_plain(*tensors)
        and all(x.numel() > 0 for x in tensors if x is not None)
    )


def needs_grad(*tensors: Optional[Tensor]) -> bool:
    """True if autograd records what is done with the tensors (None is none)."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def even_slices(count: int, at_most: int) -> List[slice]:
    """As few slices of ``range(count)`` as can be, about equally long."""
    parts = max(1, -(-count // max(1, at_most)))
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:])]


def compiles_fast_cpu(*tensors: Optional[Tensor]) -> bool:
    """As :func:`fast_cpu` while torch.compile records the model for inference."""
    return (
        FAST_OPS
        and is_compiling_inference(tensors[0])
        and not is_transforming()
        and _are_plain(*tensors)
    )


def _use_onednn(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> bool:
    return fast_cpu(x, weight, bias) and _HAS_ONEDNN and torch.backends.mkldnn.enabled


def _define_operators(library: torch.library.Library):
    """Define products that compilers take as they are.

    What inductor makes of ``F.linear`` is as slow as that, packed or not.
    """

    def run_linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        if weight.is_mkldnn:
            return _onednn(x, weight, bias)
        if torch.backends.mkldnn.enabled and x.numel() > 0:
            return _product(x, weight, bias).contiguous()
        return F.linear(x, weight, bias)

    def run_pack(weight: Tensor) -> Tensor:
        if torch._guards.TracingContext.try_get() is None:
            # Not run by the compiler, which has found that it is no constant.
            return weight.clone()
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach())

    def define(name: str, schema: str, run, like):
        library.define(name + schema, tags=[torch.Tag.flexible_layout])
        for backend in ('CPU', 'MkldnnCPU'):  # the latter for packed weights
            library.impl(name, run, backend)
        library.impl(name, like, 'Meta')

    define(
        'linear',
        '(Tensor x, Tensor weight, Tensor? bias) -> Tensor',
        run_linear,
        lambda x, weight, bias: x.new_empty((*x.shape[:-1], weight.shape[0])),
    )
    define('pack', '(Tensor weight) -> Tensor', run_pack, torch.empty_like)


if '_LIBRARY' not in globals():  # else this file is loaded again
    _LIBRARY = torch.library.Library('sparseformer_mm', 'DEF')  # lasts as its name does
    if _HAS_ONEDNN and _TELLS_EXPORT:
        _define_operators(_LIBRARY)


def _compiled_product(x: Tensor, weight: Tensor, bias) -> Tensor:
    from torch._inductor import config  # slow to import, and compilers have

    if config.freezing:  # Weights are constants, and packed while compiling.
        weight = torch.ops.sparseformer_mm.pack(weight)
    return torch.ops.sparseformer_mm.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias=None, gelu: bool = False) -> Tensor:
    """``F.linear``, through oneDNN where that is faster (float32 on CPU).

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.
        gelu: of ``GELU(x)`` instead of ``x``; training then keeps ``x`` only.
    """
    if _HAS_ONEDNN and compiles_fast_cpu(x, weight, bias):
        return _compiled_product(F.gelu(x) if gelu else x, weight, bias)
    if not _use_onednn(x, weight, bias):
        return F.linear(F.gelu(x) if gelu else x, weight, bias)
    if needs_grad(x, weight, bias):
        return _OneDNNLinear.apply(x, weight, bias, gelu)
    return _product(F.gelu(x) if gelu else x, weight, bias)


class _Linear(nn.Linear):
    def reset_parameters(self):
        reset_linear(self)


def make_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """An ``nn.Linear`` as :func:`reset_linear` initialises it; for :func:`project`.

    Not of a class of its own: torch's quantization, LoRA and the like replace modules
    whose type is exactly ``nn.Linear``.
    """
    layer = _Linear(in_features, out_features, bias)
    # It was one only so that no random numbers are drawn for values nobody wants.
    layer.__class__ = nn.Linear
    return layer


def reset_linear(layer: nn.Linear):
    """Initialise as the paper says (appendix A.3).

    Weights from a normal distribution of deviation 0.02 truncated at 2, biases 0.
    """
    nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def is_plain(layer: nn.Module, kind: type = nn.Linear) -> bool:
    """True if nobody would notice that ``layer`` itself is not called."""
    return (
        type(layer) is kind
        and 'forward' not in layer.__dict__
        and not any(
            getattr(layer, name) or getattr(nn_module, f'_global{name}')
            for name in _HOOKS
        )
    )


def project(x: Tensor, layer: nn.Module) -> Tensor:
    """``layer(x)``, through :func:`linear` where nobody would notice.

    Args:
        x: (..., in_features).
        layer: of :func:`make_linear`, or what somebody put into its place.
    """
    return linear(x, layer.weight, layer.bias) if is_plain(layer) else layer(x)


def project_gelu(x: Tensor, layer: nn.Module) -> Tensor:
    """``layer(GELU(x))`` as :func:`project` does it."""
    if is_plain(layer):
        return linear(x, layer.weight, layer.bias, gelu=True)
    return layer(F.gelu(x))


@contextlib.contextmanager
def batch_norms_keep_nothing(module: nn.Module):
    """Batch norms inside normalize as ever but keep no statistics of what they see.

    For a forward pass that is made again in the backward pass.
    """
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None
    ]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: zero a sample's update with probability ``rate``.

    Args:
        x: (B, ...), the update that is to be added to the residual.
        rate: in [0, 1).
        training: False returns ``x``.
    """
    if rate == 0.0 or not training:
        return x
    shape = (x.shape[0],) + (1,) * (x.dim() - 1)
    return x * (x.new_empty(shape).bernoulli_(1 - rate) / (1 - rate))
