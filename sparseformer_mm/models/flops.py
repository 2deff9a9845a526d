"""Formulas that torch's FLOP counter lacks for what the model runs.

``torch.utils.flop_counter.FlopCounterMode`` leaves out, without a word, operators it
has no formula for: oneDNN's product (six sevenths of the tiny model), fused attention
on a CPU, the in-place ``baddbmm_``. Importing the core registers them, for every
counter made afterwards. As everywhere in torch, one multiply-add is two FLOPs.

A formula takes the operator's arguments, tensors given by their shapes, and
``out_shape``.
"""

import logging
from math import prod
from typing import Any, Callable, Dict

import torch

# Importing it says that kernels of triton are not counted where that is missing. The
# model has none.
logging.getLogger('torch.utils.flop_counter').setLevel(logging.ERROR)
from torch.utils import flop_counter  # noqa: E402


def product_flop(a, b, *_, **__) -> int:
    """(..., m, k) x (..., k, n) or (..., k) x (k,): all of ``a``, n times."""
    return 2 * prod(a) * (b[-1] if len(b) > 1 else 1)


def add_product_flop(_, a, b, *__, **___) -> int:
    """``addmm`` and its like carry the summand in front."""
    return product_flop(a, b)


def linear_flop(x, *_, out_shape, **__) -> int:
    """(..., k) times a weight that may be packed, whose shape then says little."""
    return 2 * prod(x) * out_shape[-1]


def attention_flop(query, key, value, *_, **__) -> int:
    """(..., heads, tokens, width) in each; masks do not save products."""
    return flop_counter.sdpa_flop_count(query, key, value)


def _attention_backward_flop(grad, query, key, value, *_, **__) -> int:
    return flop_counter.sdpa_backward_flop_count(grad, query, key, value)


def _convolution_flop(x, weight, *_, out_shape, **__) -> int:
    return flop_counter.conv_flop_count(x, weight, out_shape)


def by_operator(formulas: Dict[str, Callable]) -> Dict[Any, Callable]:
    """Operators for their names, those left out that this torch does not have."""
    operators = {}
    for name, formula in formulas.items():
        namespace, _, op = name.partition('.')
        namespace = getattr(torch.ops, namespace)
        if hasattr(namespace, op):
            operators[getattr(namespace, op)] = formula
    return operators


def own_attention_flop(qkv, num_heads, *_, **__) -> int:
    """(B, N, 3 d): scores and sums of each head."""
    batch, tokens, channels = qkv
    return 4 * batch * tokens**2 * channels // 3


def own_attention_backward_flop(qkv, *_, **__) -> int:
    """Scores once more, and a gradient for each factor of both products."""
    return 5 * own_attention_flop(qkv, 1) // 2


_FORMULAS = {
    'mkldnn._linear_pointwise': linear_flop,
    'aten.baddbmm_': add_product_flop,
    'aten._scaled_dot_product_flash_attention_for_cpu': attention_flop,
    'aten._scaled_dot_product_flash_attention_for_cpu_backward': (
        _attention_backward_flop
    ),
}
# Under inference_mode these arrive whole, and a counter older than torch 2.4 does not
# take them apart.
_WHOLE = {
    'aten.linear': linear_flop,
    'aten.matmul': product_flop,
    'aten.conv2d': _convolution_flop,
    'aten.conv3d': _convolution_flop,
    'aten.scaled_dot_product_attention': attention_flop,
}


def register(formulas: Dict[str, Callable]):
    """Have every counter that is made from now on know them."""
    operators = by_operator(formulas)
    if not hasattr(flop_counter, 'register_flop_formula'):  # torch < 2.2
        flop_counter.flop_mapping.update(operators)
        return
    for op, formula in operators.items():
        if op not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(op)(formula)


register(_FORMULAS)
if not hasattr(flop_counter, 'register_flop_formula'):
    register(_WHOLE)
