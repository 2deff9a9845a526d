"""Counting the multiply-adds of a model, every matrix product included.

Usual counters walk over modules (and miss what is called functionally) or
know a short list of operators (and miss ``baddbmm`` or fused attention).
Adaptive mixing and 64-head attention are exactly such products, so this
counter listens to the dispatcher below autograd, where every code path ends
up in one of few operators, and refuses to go on when it meets a matrix
product that it has no formula for.
"""

import re
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['MacReport', 'UnknownProductError', 'count_macs']


class UnknownProductError(NotImplementedError):
    """A matrix product ran for which no formula is known."""


@dataclass
class MacReport:
    """What :func:`count_macs` found.

    Attributes:
        total: Multiply-adds of one call (one multiply-add is two FLOPs).
        params: Number of parameters, 0 for a plain callable.
        by_module: Multiply-adds by module name, those of its children
            included; ``''`` is the whole call.
        by_op: Multiply-adds by operator, e.g. ``'aten.baddbmm'``.
    """

    total: int = 0
    params: int = 0
    by_module: Dict[str, int] = field(default_factory=dict)
    by_op: Dict[str, int] = field(default_factory=dict)


# --------------------------------------------------------------------------
# Formulas. Each takes the operator's own arguments and its result.
# --------------------------------------------------------------------------
def _product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """(..., m, k) x (..., k, n) or (..., k) x (k,): all of ``a``, n times."""
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


def _add_product(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    """``addmm`` and its like carry the summand in front."""
    return _product(a, b)


def _linear(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    """oneDNN's and MKL's linear layers, whose weights may be packed."""
    return x.numel() * out.shape[-1]


def _convolution(
    x: Tensor,
    weight: Tensor,
    *args: Any,
    out: Tensor,
    transposed: Optional[bool] = None,
    **_: Any,
) -> int:
    """Each weight is used once per output pixel (input if transposed)."""
    if transposed is None:
        # bias, stride, padding, dilation, transposed, output_padding, groups
        transposed = args[4] if len(args) > 4 else False
    pixels = (x if transposed else out).shape[2:]
    return x.shape[0] * prod(pixels) * weight.numel()


def _plain_convolution(
    x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any
) -> int:
    """Library-specific forward convolutions, never transposed."""
    return x.shape[0] * prod(out.shape[2:]) * weight.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """(..., heads, tokens, width) in each; masks do not save products."""
    return (
        query.numel() * key.shape[-2]
        + prod(query.shape[:-1]) * value.shape[-2] * value.shape[-1]
    )


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dims: int, *_: Any, **__: Any
) -> int:
    """``nn.MultiheadAttention``'s fast path: projections and attention."""
    project = (2 * query.numel() + key.numel() + value.numel()) * embed_dims
    return project + 2 * query.numel() * key.shape[1]


def _encoder_layer(src: Tensor, embed_dims: int, *args: Any, **_: Any) -> int:
    """``nn.TransformerEncoderLayer``'s fast path."""
    # qkv, output projection and the two of the feed-forward network.
    matrices = [a for a in args if isinstance(a, Tensor) and a.dim() == 2]
    tokens = src.numel() // embed_dims
    return tokens * sum(m.numel() for m in matrices) + 2 * src.numel() * src.shape[1]


_FORMULAS: Dict[str, Callable] = {
    'aten.mm': _product,
    'aten.bmm': _product,
    'aten.mv': _product,
    'aten.dot': _product,
    'aten.vdot': _product,
    'aten._int_mm': _product,
    'aten.addmm': _add_product,
    'aten.addmv': _add_product,
    'aten.addbmm': _add_product,
    'aten.baddbmm': _add_product,
    'aten._addmm_activation': _add_product,
    'aten.mkldnn_linear': _linear,
    'mkldnn._linear_pointwise': _linear,
    'mkl._mkl_linear': _linear,
    'aten.convolution': _convolution,
    'aten._convolution': _convolution,
    'aten.convolution_overrideable': _convolution,
    'aten.cudnn_convolution': _plain_convolution,
    'aten.mkldnn_convolution': _plain_convolution,
    'aten.miopen_convolution': _plain_convolution,
    'aten._slow_conv2d_forward': _plain_convolution,
    'aten._scaled_dot_product_flash_attention': _attention,
    'aten._scaled_dot_product_flash_attention_for_cpu': _attention,
    'aten._scaled_dot_product_efficient_attention': _attention,
    'aten._scaled_dot_product_cudnn_attention': _attention,
    'aten._scaled_dot_product_fused_attention_overrideable': _attention,
    'aten._native_multi_head_attention': _multi_head_attention,
    'aten._transformer_encoder_layer_fwd': _encoder_layer,
}

# Words that mark an operator as a matrix product. Interpolation of images
# ("upsample_bilinear2d") uses some of them and is none.
_PRODUCT_WORDS = re.compile(
    r'(^|_)((add|b|badd|addb|sp|pack)?mm|(add)?mv|v?dot|matmul|gemm|linear|'
    r'(tri|bi)linear|einsum|conv(olution)?\d?d?|attention|rnn|lstm|gru)'
    r'(_|$|\d)'
)
_NO_PRODUCT = re.compile(r'^_?upsample_|^_fused_|^_thnn_|_backward')


def _looks_like_product(op: str) -> bool:
    name = op.rpartition('.')[2]
    return bool(_PRODUCT_WORDS.search(name)) and not _NO_PRODUCT.search(name)


class _Counting(TorchDispatchMode):
    """Adds up multiply-adds of all operators run inside the context."""

    def __init__(self, scopes: List[str], on_unknown: str) -> None:
        super().__init__()
        self.scopes = scopes  # names of the modules being run, outermost first
        self.on_unknown = on_unknown
        self.by_module: Counter = Counter()
        self.by_op: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        op = packet._qualified_op_name.replace('::', '.')
        formula = _FORMULAS.get(op)
        if formula is None and not isinstance(func, torch._ops.HigherOrderOperator):
            # Under inference_mode composite operators (matmul, einsum,
            # attention ...) arrive whole; their parts can be counted.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None:
            self._add(op, formula, args, kwargs, out)
        elif _looks_like_product(op):
            self._unknown(op)
        return out

    def _add(
        self, op: str, formula: Callable, args: tuple, kwargs: dict, out: Any
    ) -> None:
        macs = formula(*args, **dict(kwargs, out=out))
        self.by_op[op] += macs
        for scope in set(self.scopes):
            self.by_module[scope] += macs

    def _unknown(self, op: str) -> None:
        message = (
            f'{op} looks like a matrix product, but its multiply-adds cannot '
            'be counted. Add a formula to sparseformer_mm/utils/counting.py'
            ", or pass on_unknown='warn' to leave it out."
        )
        if self.on_unknown == 'raise':
            raise UnknownProductError(message)
        warnings.warn(message, stacklevel=2)


@contextmanager
def _track_modules(root: Any, scopes: List[str]) -> Iterator[None]:
    """Keep in ``scopes`` the names of the modules that are running."""
    handles = []

    def track(name: str, module: nn.Module) -> None:
        def enter(*_):
            scopes.append(name)

        def leave(*_):
            scopes.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))

    if isinstance(root, nn.Module):
        for name, module in root.named_modules():
            track(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(root: Any) -> Iterator[None]:
    """Evaluation mode without touching running statistics or modes."""
    modules = list(root.modules()) if isinstance(root, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if modules:
            root.eval()
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def count_macs(
    model: Union[nn.Module, Callable],
    *inputs: Any,
    on_unknown: str = 'raise',
    **kwargs: Any,
) -> MacReport:
    """Count the multiply-adds of one forward call, all matrix products.

    Linear layers, (batched) matrix products, convolutions, ``einsum`` and
    attention are counted whether they are called as modules, functions or
    fused kernels. Element-wise work, norms, activations and bilinear
    sampling are not: none of them is a matrix product. Compiled extensions
    which bypass PyTorch's dispatcher (mmcv's own operators) stay invisible.

    A model is run in evaluation mode and without gradients, and is left as
    it was found.

    Args:
        model: A module or any callable.
        *inputs: Its positional arguments.
        on_unknown: What to do about a matrix product without a formula:
            ``'raise'`` an :class:`UnknownProductError`, or ``'warn'`` and
            leave it out.
        **kwargs: Its keyword arguments.

    Returns:
        The counts.

    Example:
        >>> report = count_macs(nn.Linear(8, 4), torch.rand(2, 5, 8))
        >>> report.total, report.params
        (320, 36)
    """
    if on_unknown not in ('raise', 'warn'):
        raise ValueError(f"on_unknown must be 'raise' or 'warn', got {on_unknown!r}")
    # torch.compile steps aside while the dispatcher is listened to; the
    # wrapper is taken off only to keep its prefix out of the names.
    model = getattr(model, '_orig_mod', model)
    scopes = ['']
    counting = _Counting(scopes, on_unknown)
    with torch.no_grad(), _evaluating(model), _track_modules(model, scopes), counting:
        model(*inputs, **kwargs)
    params = (
        sum(p.numel() for p in model.parameters())
        if isinstance(model, nn.Module)
        else 0
    )
    return MacReport(
        total=sum(counting.by_op.values()),
        params=params,
        by_module=dict(counting.by_module),
        by_op=dict(counting.by_op),
    )
