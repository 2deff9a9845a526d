"""Counting the multiply-adds of a model, every matrix product included.

torch's own FLOP counter listens to the dispatcher, below modules and functions, but
says nothing about an operator that it has no formula for. Here are formulas for what
other models run beyond ours (see :mod:`sparseformer_mm.models.flops`), and a refusal
to go on at a matrix product that still has none.
"""

import re
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, Callable, Dict, Iterator, Union

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..models import flops
from .modes import evaluating

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

    total: int
    params: int
    by_module: Dict[str, int]
    by_op: Dict[str, int]


def _multi_head_attention_flop(query, key, value, embed_dims, *_, **__) -> int:
    """``nn.MultiheadAttention``'s fast path: projections and attention."""
    project = (2 * prod(query) + prod(key) + prod(value)) * embed_dims
    return 2 * (project + 2 * prod(query) * key[1])


def _encoder_layer_flop(src, embed_dims, *args, **_) -> int:
    """``nn.TransformerEncoderLayer``'s fast path."""
    # heads, (weight, bias) of qkv and output; three settings; two norms; the FFN's two
    weights = [args[i] for i in (1, 3, 12, 14)]
    project = prod(src) // embed_dims * sum(map(prod, weights))
    return 2 * (project + 2 * prod(src) * src[1])


_FORMULAS = {
    **dict.fromkeys(
        ['aten.mv', 'aten.dot', 'aten.vdot', 'aten._int_mm'], flops.product_flop
    ),
    **dict.fromkeys(
        ['aten.addmv', 'aten.addbmm', 'aten._addmm_activation']
        + ['aten.addmv_', 'aten.addbmm_', 'aten.addmm_'],
        flops.add_product_flop,
    ),
    **dict.fromkeys(['aten.mkldnn_linear', 'mkl._mkl_linear'], flops.linear_flop),
    'aten._scaled_dot_product_fused_attention_overrideable': flops.attention_flop,
    'aten._native_multi_head_attention': _multi_head_attention_flop,
    'aten._transformer_encoder_layer_fwd': _encoder_layer_flop,
}

# Words that mark an operator as a matrix product. Interpolation of images
# ("upsample_bilinear2d") uses some of them and is none.
_PRODUCT_WORDS = re.compile(
    r'(^|_)((add|b|baddb|addb|sp|pack)?mm|(add)?mv|v?dot|matmul|gemm|linear|'
    r'(tri|bi)linear|einsum|conv(olution)?\d?d?|attention|rnn|lstm|gru)'
    r'(_|$|\d)'
)
_NO_PRODUCT = re.compile(r'^_?upsample_|^_fused_|^_thnn_|_backward')


def looks_like_product(op: str) -> bool:
    """Whether an operator's name, as 'aten.mm' or 'aten::mm', says matrix product.

    Convolutions and attention are such; backward passes of anything are not.
    """
    name = re.split('[.:]', op)[-1]
    return bool(_PRODUCT_WORDS.search(name)) and not _NO_PRODUCT.search(name)


class _RefuseUnknown(TorchDispatchMode):
    """Lets pass to the counter what it knows, and what is no matrix product."""

    def __init__(self, counter: FlopCounterMode, on_unknown: str) -> None:
        super().__init__()
        known = getattr(counter, 'flop_registry', None)
        self.known = counter.flop_mapping if known is None else known  # torch < 2.2
        self.on_unknown = on_unknown

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Under inference_mode composite operators (matmul, einsum, attention ...)
        # arrive whole; older counters do not take them apart.
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        op = func._overloadpacket
        if op not in self.known and looks_like_product(str(op)):
            message = (
                f'{op} looks like a matrix product, but its multiply-adds cannot be '
                'counted. Register a formula with torch.utils.flop_counter, or pass '
                "on_unknown='warn' to leave it out."
            )
            if self.on_unknown == 'raise':
                raise UnknownProductError(message)
            warnings.warn(message, stacklevel=2)
        return func(*args, **kwargs)


@contextmanager
def _naming_modules(root: nn.Module, counter: FlopCounterMode) -> Iterator[None]:
    """Tell the counter the names of the modules that are running.

    Its own tracker raises under ``no_grad`` where a module is given a view of a
    parameter, and before torch 2.3 hands a module ``x`` in place of ``(x,)``.
    """
    running, handles = ['Global'], []
    counter.parents = running  # torch < 2.3
    counter.mod_tracker = nullcontext()
    counter.mod_tracker.parents = running
    for name, module in root.named_modules():
        handles += [
            module.register_forward_pre_hook(
                lambda *_, name=name: running.append(name)
            ),
            module.register_forward_hook(lambda *_, name=name: running.remove(name)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def count_macs(
    model: Union[nn.Module, Callable],
    *inputs: Any,
    on_unknown: str = 'raise',
    **kwargs: Any,
) -> MacReport:
    """Count the multiply-adds of one forward call, all matrix products.

    Linear layers, (batched) matrix products, convolutions, ``einsum`` and attention are
    counted whether they are called as modules, functions or fused kernels. Element-wise
    work, norms, activations and bilinear sampling are not: none of them is a matrix
    product. Compiled extensions which bypass PyTorch's dispatcher (mmcv's own
    operators) stay invisible. A model is run in evaluation mode and without gradients,
    and is left as it was found.

    Args:
        model: A module or any callable.
        *inputs: Its positional arguments.
        on_unknown: What to do about a matrix product without a formula: ``'raise'``, or
            ``'warn'`` and leave it out.
        **kwargs: Its keyword arguments.

    Raises:
        UnknownProductError: for a matrix product without a formula.

    Example:
        >>> report = count_macs(nn.Linear(8, 4), torch.rand(2, 5, 8))
        >>> report.total, report.params
        (320, 36)
    """
    if on_unknown not in ('raise', 'warn'):
        raise ValueError(f"on_unknown must be 'raise' or 'warn', got {on_unknown!r}")
    # torch.compile steps aside while the dispatcher is listened to; its wrapper is
    # taken off only to keep a prefix out of the names.
    model = getattr(model, '_orig_mod', model)
    module = model if isinstance(model, nn.Module) else nn.Module()
    formulas = flops.by_operator(_FORMULAS)
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    refuse = _RefuseUnknown(counter, on_unknown)
    with evaluating(module), _naming_modules(module, counter), counter, refuse:
        model(*inputs, **kwargs)
    counts = counter.flop_counts
    by_op = {str(op): n // 2 for op, n in counts.pop('Global', {}).items()}
    by_module = {name: sum(ops.values()) // 2 for name, ops in counts.items()}
    by_module[''] = total = sum(by_op.values())
    params = sum(param.numel() for param in module.parameters())
    return MacReport(total, params, by_module, by_op)
