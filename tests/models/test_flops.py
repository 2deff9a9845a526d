"""A user's own FlopCounterMode counts every product of the model."""

import importlib
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from sparseformer_mm import build
from sparseformer_mm.models import SparseFormer, flops, ops
from sparseformer_mm.models.location_attention import LocationAwareAttention

CONTEXTS = [nullcontext, torch.no_grad, torch.inference_mode]
OLD_TORCH = not hasattr(flop_counter, 'register_flop_formula')  # before 2.2


def count(function, *args, **kwargs):
    with FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    return counter.get_total_flops()


def small_model():
    return SparseFormer('nano', num_tokens=4, cortex_depth=2)


def forward_flops(n=4, axes=2, p=16, c=48, d_f=96, d_c=192, repeats=4, depth=2):
    """Of the small model without its stem, two for each multiply-add."""

    def block(d, looks):
        macs = n * d * d * 4 + 2 * n * n * d + 2 * n * d * 4 * d
        if looks:  # RoI and offsets, mixing weights, mixing, projection
            macs += n * d * axes * (2 + p) + n * (d // 4) * (d + c * c + p * p)
            macs += n * p * c * (p + c) + n * p * c * d
        return macs

    macs = repeats * block(d_f, True) + n * d_f * d_c
    return 2 * (macs + block(d_c, True) + (depth - 1) * block(d_c, False))


STEM = 2 * 16 * 16 * 49 * 3 * 48  # of 32 x 32, at stride 2


@pytest.mark.parametrize('context', CONTEXTS)
def test_published_size(context):
    with context():
        assert count(build('tiny'), torch.rand(1, 3, 224, 224)) == 2 * 2_177_623_552


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('training', [True, False])
def test_every_mode(monkeypatch, fast, context, training):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    model = small_model().train(training)
    with context():
        total = count(model, torch.rand(1, 3, 32, 32))
    assert total == forward_flops() + STEM


@pytest.mark.parametrize('fast', [True, False])
def test_training_step(monkeypatch, fast):
    """Twice the forward pass on the way back, but nothing to the image."""
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    model = small_model()
    total = count(lambda: model(torch.rand(1, 3, 32, 32))[0].sum().backward())
    # Attention makes the scores, a half of its work, again.
    n, d_f, d_c = 4, 96, 192
    scores = 2 * n * n * (4 * d_f + 2 * d_c)
    assert total == 3 * forward_flops() + 2 * STEM + scores


def test_training_step_of_linear_layers():
    model = torch.nn.Sequential(ops.make_linear(8, 16), ops.make_linear(16, 4))
    x = torch.rand(2, 3, 8, requires_grad=True)
    forward = 2 * 6 * (8 * 16 + 16 * 4)
    assert count(model, x) == forward
    assert count(lambda: model(x).sum().backward()) == 3 * forward


def test_training_step_of_fused_attention():
    q, k = torch.rand(2, 3, 7, 8), torch.rand(2, 3, 5, 8)
    product = 2 * 2 * 3 * 7 * 5 * 8
    assert count(F.scaled_dot_product_attention, q, k, k) == 2 * product
    q.requires_grad_()
    total = count(lambda: F.scaled_dot_product_attention(q, k, k).sum().backward())
    assert total == 7 * product


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('fast', [True, False])
def test_location_attention(monkeypatch, fast, context):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    batch, pixels, c, n, d_t, heads, d = 2, 5 * 7, 8, 9, 16, 2, 32
    attention = LocationAwareAttention(c, d_t, d, heads)
    args = torch.rand(2, 5, 7, c), torch.rand(2, n, d_t), torch.rand(2, n, 4)
    tokens = 2 * batch * n * d_t * d  # keys and values
    restored = batch * pixels * n * d
    if fast:  # queries are never made: their weight and bias go to the keys
        scores, extra = batch * heads * pixels * n * c, batch * n * d * (c + 1)
    else:
        scores, extra = batch * pixels * n * d, batch * pixels * c * d
    with context():
        forward = count(attention, *args)
    assert forward == 2 * (tokens + extra + scores + restored)
    if context is nullcontext and fast:
        # All twice on the way back, but nothing to what needs no gradient; scores anew.
        total = count(lambda: attention(*args).sum().backward())
        assert total == 2 * forward + 2 * (extra + 2 * scores + restored)


@pytest.mark.parametrize('context', CONTEXTS)
def test_modules(context):
    """The counter's table: what a module and its children did, by their names."""
    model = small_model()
    with warnings.catch_warnings(), context():
        warnings.simplefilter('ignore')  # of newer versions, which know them anyway
        with FlopCounterMode(model, display=False) as counter:
            model(torch.rand(1, 3, 32, 32))
    counts = {
        name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()
    }
    n, p, c, d = 4, 16, 48, 192
    assert counts['SparseFormer'] == counts['Global'] == forward_flops() + STEM
    assert counts['SparseFormer.stem'] == STEM
    assert counts['SparseFormer.cortex.1.ffn'] == 2 * 2 * n * d * 4 * d
    parameters = n * (d // 4) * (d + c * c + p * p)
    mixing = n * p * c * (p + c) + n * p * c * d
    assert counts['SparseFormer.cortex.0.decoder'] == 2 * (parameters + mixing)


@pytest.mark.parametrize('context', CONTEXTS)
def test_frozen_and_tokens_for_dense_heads(context):
    model = small_model().requires_grad_(False)
    with context():
        assert count(model, torch.rand(1, 3, 32, 32)) == forward_flops() + STEM
    dense = SparseFormer('nano', num_tokens=4, cortex_depth=2, out_type='tokens')
    with context():
        assert count(dense, torch.rand(1, 3, 32, 32)) == forward_flops() + STEM


@pytest.mark.parametrize('context', CONTEXTS)
def test_videos(context):
    model = SparseFormer(
        'nano', num_tokens=4, cortex_depth=2, spatial_dims=3, token_inflation=2
    )
    with context():
        total = count(model, torch.rand(1, 3, 4, 32, 32))
    assert total == forward_flops(n=2 * 4, axes=3) + 4 * STEM


@pytest.mark.skipif(OLD_TORCH, reason='formulas are in a plain dict')
def test_a_formula_that_is_there_already_stays():
    registry = dict(flop_counter.flop_registry)
    importlib.reload(flops)  # registering twice is an error of torch's
    assert flop_counter.flop_registry == registry
