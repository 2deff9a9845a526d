"""Multiply-adds of every code path against counts by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from sparseformer_mm.models import SparseFormer, ops
from sparseformer_mm.utils.counting import (
    UnknownProductError,
    count_macs,
    looks_like_product,
)

# What the counter's formulas are called in torch < 2.2 and later.
REGISTRY = 'flop_registry' if hasattr(flop_counter, 'flop_registry') else 'flop_mapping'


def rand(*shape):
    return torch.rand(*shape)


def unfused(q, k, v):
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def math_kernel(q, k, v):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # renamed in later versions
        with torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_mem_efficient=False
        ):
            return F.scaled_dot_product_attention(q, k, v)


def masked(q, k, v):
    mask = torch.zeros(q.shape[-2], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


Q, K, V = rand(2, 4, 7, 8), rand(2, 4, 5, 8), rand(2, 4, 5, 6)
KEY_SHAPED = rand(2, 4, 5, 8)
IMAGE = rand(2, 6, 9, 9)
LAST = dict(memory_format=torch.channels_last)

CASES = {
    'linear 1d': (40, F.linear, rand(8), rand(5, 8), rand(5)),
    'linear 2d': (6 * 40, F.linear, rand(6, 8), rand(5, 8), rand(5)),
    'linear 2d, no bias': (6 * 40, F.linear, rand(6, 8), rand(5, 8)),
    'linear 3d': (6 * 40, F.linear, rand(2, 3, 8), rand(5, 8), rand(5)),
    'linear 3d, no bias': (6 * 40, F.linear, rand(2, 3, 8), rand(5, 8)),
    'linear 3d, strided': (
        6 * 40,
        F.linear,
        rand(3, 2, 8).transpose(0, 1),
        rand(5, 8),
        rand(5),
    ),
    'linear 4d': (12 * 40, F.linear, rand(2, 2, 3, 8), rand(5, 8), rand(5)),
    'own linear': (6 * 40, ops.linear, rand(2, 3, 8), rand(5, 8), rand(5)),
    'mm': (6 * 8 * 4, torch.mm, rand(6, 8), rand(8, 4)),
    'addmm': (6 * 8 * 4, torch.addmm, rand(4), rand(6, 8), rand(8, 4)),
    'bmm': (2 * 3 * 8 * 4, torch.bmm, rand(2, 3, 8), rand(2, 8, 4)),
    'baddbmm': (2 * 3 * 8 * 4, torch.baddbmm, rand(4), rand(2, 3, 8), rand(2, 8, 4)),
    'addbmm': (2 * 3 * 8 * 4, torch.addbmm, rand(4), rand(2, 3, 8), rand(2, 8, 4)),
    'addmm, in place': (
        6 * 8 * 4,
        lambda *args: torch.zeros(6, 4).addmm_(*args),
        rand(6, 8),
        rand(8, 4),
    ),
    'baddbmm, in place': (
        2 * 3 * 8 * 4,
        lambda *args: torch.zeros(2, 3, 4).baddbmm_(*args),
        rand(2, 3, 8),
        rand(2, 8, 4),
    ),
    'addbmm, in place': (
        2 * 3 * 8 * 4,
        lambda *args: torch.zeros(3, 4).addbmm_(*args),
        rand(2, 3, 8),
        rand(2, 8, 4),
    ),
    'mv': (48, torch.mv, rand(6, 8), rand(8)),
    'dot': (8, torch.dot, rand(8), rand(8)),
    'matmul, broadcast': (12 * 8 * 4, torch.matmul, rand(2, 2, 3, 8), rand(8, 4)),
    'einsum': (2 * 4 * 7 * 5 * 8, torch.einsum, 'bhqd,bhkd->bhqk', Q, K),
    'tensordot': (6 * 6 * 8, torch.tensordot, rand(6, 8), rand(6, 8), ([1], [1])),
    'fused attention': (
        2 * 4 * 7 * 5 * 16,
        F.scaled_dot_product_attention,
        Q,
        K,
        KEY_SHAPED,
    ),
    'fused attention, double': (
        2 * 4 * 7 * 5 * 16,
        F.scaled_dot_product_attention,
        Q.double(),
        K.double(),
        KEY_SHAPED.double(),
    ),
    'masked attention': (2 * 4 * 7 * 5 * 16, masked, Q, K, KEY_SHAPED),
    'attention by parts': (2 * 4 * 7 * 5 * 16, math_kernel, Q, K, KEY_SHAPED),
    'attention, other values': (
        2 * 4 * 7 * 5 * (8 + 6),
        F.scaled_dot_product_attention,
        Q,
        K,
        V,
    ),
    'unfused attention': (2 * 4 * 7 * 5 * (8 + 6), unfused, Q, K, V),
    'conv1d': (2 * 8 * 6 * 3 * 9, F.conv1d, IMAGE[:, :, 0], rand(8, 6, 3), None, 1, 1),
    'conv2d': (2 * 8 * 6 * 9 * 25, F.conv2d, IMAGE, rand(8, 6, 3, 3), None, 2, 1),
    'conv2d, one image': (
        8 * 6 * 9 * 25,
        F.conv2d,
        IMAGE[0],
        rand(8, 6, 3, 3),
        rand(8),
        2,
        1,
    ),
    'conv2d, grouped': (
        2 * 8 * 3 * 9 * 25,
        F.conv2d,
        IMAGE,
        rand(8, 3, 3, 3),
        rand(8),
        2,
        1,
        1,
        2,
    ),
    'conv2d, depthwise': (
        2 * 6 * 9 * 81,
        F.conv2d,
        IMAGE,
        rand(6, 1, 3, 3),
        None,
        1,
        1,
        1,
        6,
    ),
    'conv2d, channels last': (
        2 * 8 * 6 * 9 * 25,
        F.conv2d,
        IMAGE.to(**LAST),
        rand(8, 6, 3, 3).to(**LAST),
        None,
        2,
        1,
    ),
    'conv3d': (
        2 * 8 * 6 * 27 * 125,
        F.conv3d,
        rand(2, 6, 5, 5, 5),
        rand(8, 6, 3, 3, 3),
        None,
        1,
        1,
    ),
    'transposed conv2d': (
        2 * 8 * 6 * 9 * 81,
        F.conv_transpose2d,
        IMAGE,
        rand(6, 8, 3, 3),
        None,
        2,
        1,
    ),
    'interpolation': (0, F.interpolate, IMAGE, None, 2.0, 'bilinear'),
    'grid_sample': (
        0,
        F.grid_sample,
        IMAGE,
        torch.zeros(2, 3, 3, 2),
        'bilinear',
        'zeros',
        False,
    ),
}


def plainly(function, *args):
    return function(*args)


def in_inference_mode(function, *args):
    with torch.inference_mode():
        return function(*args)


def under_autocast(function, *args):
    with torch.autocast('cpu', torch.bfloat16):
        return function(*args)


@pytest.mark.parametrize('how', [plainly, in_inference_mode, under_autocast])
@pytest.mark.parametrize('name', CASES)
def test_against_hand_count(name, how):
    expected, function, *args = CASES[name]
    assert count_macs(how, function, *args).total == expected


@pytest.mark.parametrize('how', [plainly, in_inference_mode])
def test_fast_paths_of_torch_modules(how):
    x = rand(2, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    expected = 4 * (2 * 5 * 8 * 8) + 2 * (2 * 5 * 5 * 8)
    assert count_macs(how, attention, x, x, x).total == expected
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    expected += 2 * (2 * 5 * 8 * 16)
    assert count_macs(how, layer, x).total == expected


def small_net():
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def test_fast_path_with_a_mask():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    mask = torch.zeros(5, 5, dtype=torch.bool)
    expected = 4 * (2 * 5 * 8 * 8) + 2 * (2 * 5 * 5 * 8) + 2 * (2 * 5 * 8 * 16)
    assert count_macs(layer, rand(2, 5, 8), src_mask=mask).total == expected


@pytest.mark.parametrize('warm', [False, True])
def test_compiled_and_traced_models(warm, new_compiler):
    net, x = small_net(), rand(6, 8)
    expected = 6 * 8 * 16 + 6 * 16 * 4
    outer = torch.compile(net, backend='eager')
    inner = nn.Sequential(outer)
    traced = torch.jit.trace(net, x)
    for model in (outer, inner, traced):
        if warm:
            model(x)
            model(x)
        assert count_macs(model, x).total == expected


def test_report_by_module_and_operator_and_model_left_alone():
    net, x = small_net(), rand(6, 8)
    net.train()
    net[1].eval()
    report = count_macs(net, x)
    assert report.params == 8 * 16 + 16 + 16 * 4 + 4
    assert report.by_module == {'': 1152, '0': 768, '2': 384}
    assert report.by_op == {'aten.addmm': 1152}
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert count_macs(lambda: None).total == 0


def test_module_used_twice_counts_twice():
    layer = nn.Linear(8, 8)
    report = count_macs(nn.Sequential(layer, layer), rand(1, 8))
    assert report.total == 128 and report.params == 72


def test_module_that_is_given_a_parameter():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(rand(3, 8))
            self.layer = nn.Linear(8, 4)

        def forward(self):
            return self.layer(self.queries[None])

    assert count_macs(Queries()).by_module == {'': 96, 'layer': 96}


def test_names_of_products():
    known = [str(op) for op in FlopCounterMode(display=False).__dict__[REGISTRY]]
    known = [op for op in known if not op.endswith('_backward')]
    assert len(known) > 7
    assert [op for op in known if not looks_like_product(op)] == []
    for op in ('aten.upsample_bilinear2d', 'aten.add', 'aten.im2col', 'aten.cumsum'):
        assert not looks_like_product(op)


def test_unknown_product_is_not_missed_silently():
    args = F.bilinear, rand(6, 8), rand(6, 8), rand(4, 8, 8)
    with pytest.raises(UnknownProductError, match='aten._trilinear'):
        count_macs(plainly, *args)
    with pytest.warns(UserWarning, match='aten._trilinear'):
        report = count_macs(plainly, *args, on_unknown='warn')
    assert report.total == 0
    with pytest.raises(UnknownProductError, match='rnn'):
        count_macs(nn.LSTM(8, 4), rand(1, 2, 8))
    with pytest.raises(ValueError, match='on_unknown'):
        count_macs(plainly, *args, on_unknown='ignore')


def mixing_macs(tokens, points, channels):
    return tokens * points * channels * (points + channels)


@pytest.mark.parametrize('fast', [True, False])
def test_sparseformer_by_hand(monkeypatch, fast):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    n, p, c, d_f, d_c, repeats, depth = 4, 5, 6, 8, 12, 2, 3
    model = SparseFormer(
        dict(
            num_tokens=n,
            num_points=p,
            feat_channels=c,
            focusing_dims=d_f,
            cortex_dims=d_c,
            focusing_repeats=repeats,
            cortex_depth=depth,
            num_heads=2,
        )
    )

    def block(d, looks):
        macs = n * d * d * 4 + 2 * n * n * d  # projections, attention
        macs += 2 * n * d * 4 * d  # feed-forward network
        if looks:
            macs += n * d * 4 + n * d * 2 * p  # RoI adjusting, offsets
            macs += n * (d // 4) * (d + c * c + p * p)  # parameters
            macs += mixing_macs(n, p, c) + n * p * c * d
        return macs

    expected = 16 * 16 * 7 * 7 * 3 * c  # stem at stride 2
    expected += repeats * block(d_f, True) + n * d_f * d_c
    expected += block(d_c, True) + (depth - 1) * block(d_c, False)
    assert count_macs(model, rand(1, 3, 32, 32)).total == expected
