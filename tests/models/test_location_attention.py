"""Location-aware attention against loops and against itself."""

from unittest import mock

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from helpers.numerics import assert_near
from sparseformer_mm.models import location_attention as module
from sparseformer_mm.models import ops
from sparseformer_mm.models.location_attention import (
    LocationAwareAttention,
    location_bias,
)


@pytest.fixture(params=['plain', 'lean'])
def both(request, monkeypatch):
    """Run a test on the formula as it is written, and on its lean form."""
    monkeypatch.setattr(ops, 'FAST_OPS', request.param == 'lean')


def make(heads=1, channels=6, token_dims=10, dims=8):
    attention = LocationAwareAttention(channels, token_dims, dims, heads)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # large enough that content matters beside B
        for param in attention.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    return attention


def inputs(batch=2, height=5, width=7, num_tokens=4, size=None):
    """Map, tokens and RoIs; ``size`` is that of every other RoI."""
    generator = torch.Generator().manual_seed(7)
    feature = torch.randn(batch, height, width, 6, generator=generator)
    tokens = torch.randn(batch, num_tokens, 10, generator=generator)
    rois = torch.rand(batch, num_tokens, 4, generator=generator)
    rois[..., 2:] = rois[..., 2:] * 0.5 + 0.2
    if size is not None:
        rois[:, ::2, 2:] = size
        # On a pixel, but for half a size, so that it is seen.
        rois[:, ::2, 0] = (width - 3 + 0.5) / width + size / 2
        rois[:, ::2, 1] = (1 + 0.5) / height - size / 2
    return feature, tokens, rois


def run(attention, args, extents=None, lean=None):
    """Output, and gradients of inputs and parameters."""
    if lean is not None:
        with mock.patch.object(ops, 'FAST_OPS', lean):
            return run(attention, args, extents)
    args = [x.detach().clone().requires_grad_() for x in args]
    for param in attention.parameters():
        param.grad = None
    out = attention(*args, extents)
    weight = torch.arange(out.numel(), dtype=torch.float64).sin() + 1
    (out * weight.view(out.shape).to(out)).sum().backward()
    grads = [x.grad for x in (*args, *attention.parameters())]
    return [out.detach(), *grads]


@pytest.mark.usefixtures('float64')
def test_bias_is_that_of_a_double_loop():
    height, width = 3, 4
    _, _, rois = inputs(height=height, width=width, num_tokens=3)
    extents = torch.tensor([[4.0, 3.0], [3.0, 2.0]])
    for shown, sizes in ((None, [(4, 3)] * 2), (extents, [(4, 3), (3, 2)])):
        rows, columns = location_bias(rois, height, width, shown)
        for b in range(2):
            for i in range(height):
                for j in range(width):
                    for n in range(3):
                        x, y, w, h = rois[b, n].tolist()
                        across = ((j + 0.5) / sizes[b][0] - x) / w
                        down = ((i + 0.5) / sizes[b][1] - y) / h
                        actual = rows[b, i, n] + columns[b, j, n]
                        expected = -(across**2) - down**2
                        assert actual.item() == pytest.approx(expected)


@pytest.mark.usefixtures('float64', 'both')
@pytest.mark.parametrize('heads', [1, 2])
def test_naive_attention(heads):
    attention = make(heads)
    feature, tokens, rois = inputs()
    out = attention(feature, tokens, rois)
    dims = 8 // heads
    query, key, value = (
        layer(x)
        for layer, x in (
            (attention.query, feature),
            (attention.key, tokens),
            (attention.value, tokens),
        )
    )
    for b in range(2):
        for i in range(5):
            for j in range(7):
                for head in range(heads):
                    part = slice(head * dims, (head + 1) * dims)
                    scores = []
                    for n in range(4):
                        x, y, w, h = rois[b, n]
                        score = query[b, i, j, part] @ key[b, n, part] / dims**0.5
                        score = score - (((j + 0.5) / 7 - x) / w) ** 2
                        scores.append(score - (((i + 0.5) / 5 - y) / h) ** 2)
                    weights = torch.stack(scores).softmax(0)
                    expected = weights @ value[b, :, part]
                    torch.testing.assert_close(out[b, i, j, part], expected)


@pytest.mark.parametrize('heads', [1, 2])
@pytest.mark.parametrize('size', [None, 1e-1, 1e-2, 1e-3, 2e-6])
def test_values_and_gradients_of_small_rois(size, heads, monkeypatch):
    # Blocks of three rows, the last of two.
    budget = dict(cpu=2 * 3 * heads * 4 * 4)
    monkeypatch.setattr(module, '_BLOCK_SCORES', budget)
    # Powers of two: the pixels' centers are exact, and so is the reference.
    args = inputs(height=8, width=4, size=size)
    extents = torch.tensor([[4.0, 8.0], [2.0, 4.0]])
    wide = [x.double() for x in args]
    reference = run(make(heads).double(), wide, extents, lean=False)
    plain, lean = (run(make(heads), args, extents, lean) for lean in (False, True))
    assert_near(lean, plain, 1e-5)
    # Gradients of the tiniest RoIs are sums of numbers around 1e6.
    assert_near(lean, reference, 1e-5 if size != 2e-6 else 1e-3)


@pytest.mark.usefixtures('float64')
def test_lean_gradients_are_numerical_ones(monkeypatch):
    monkeypatch.setattr(module, '_BLOCK_SCORES', dict(cpu=2 * 2 * 3 * 3))
    attention = make(2)
    args = inputs(height=3, width=3, num_tokens=3)
    args = [x.requires_grad_() for x in args]
    assert torch.autograd.gradcheck(attention, args)


@pytest.mark.usefixtures('both')
def test_a_pixel_far_from_every_roi():
    """Scores of -1e12 and more: the nearest token is all that counts."""
    feature, tokens, rois = inputs(num_tokens=3)
    rois[:] = torch.tensor([0.1, 0.2, 1e-6, 1e-6])
    rois[:, 1, :2] = 0.8
    rois[:, 2] = torch.tensor([0.3, 0.9, 0.0, -1e-6])  # sizes count as 1e-6
    attention = make()
    results = run(attention, (feature, tokens, rois))
    assert all(x.isfinite().all() for x in results)
    value = attention.value(tokens)
    for row, column, nearest in ((0, 0, 0), (4, 6, 1), (4, 0, 2), (2, 5, 1)):
        torch.testing.assert_close(results[0][:, row, column], value[:, nearest])


@pytest.mark.usefixtures('float64', 'both')
def test_a_small_token_far_away_is_ignored():
    attention = make()
    feature, tokens, rois = inputs()
    rois[:, 1] = torch.tensor([0.9, 0.9, 0.05, 0.05])
    out = attention(feature, tokens, rois)
    others = [0, 2, 3]
    without = attention(feature, tokens[:, others], rois[:, others])
    torch.testing.assert_close(out[:, :3, :4], without[:, :3, :4])
    change = (out - without)[:, 4, 6]
    assert change.abs().max() > 0.1  # but counts where it looks


@pytest.mark.usefixtures('float64', 'both')
def test_the_order_of_tokens_does_not_matter():
    attention = make(2)
    feature, tokens, rois = inputs()
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        attention(feature, tokens[:, order], rois[:, order]),
        attention(feature, tokens, rois),
    )


@pytest.mark.usefixtures('float64', 'both')
@pytest.mark.parametrize('axis', [0, 1])
def test_flipping_map_and_rois_flips_the_output(axis):
    attention = make()
    feature, tokens, rois = inputs()
    flipped = rois.clone()
    flipped[..., axis] = 1 - flipped[..., axis]
    side = [2, 1][axis]  # x is the last axis of the map
    out = attention(feature.flip(side), tokens, flipped)
    torch.testing.assert_close(out.flip(side), attention(feature, tokens, rois))
    assert not torch.allclose(out, attention(feature, tokens, rois), atol=0.1)


@pytest.mark.parametrize('heads', [1, 2])
@pytest.mark.usefixtures('both')
def test_bfloat16_keeps_coordinates_in_float32(heads):
    # Near the right edge, bfloat16 has one number for several pixels of this row.
    args = inputs(height=2, width=400, size=2e-3)
    attention = make(heads)
    reference = run(attention, args)
    with torch.autocast('cpu', torch.bfloat16):
        assert attention(*args).dtype == torch.bfloat16
        # Gradients are taken inside, too: a training loop may do either.
        results = run(attention, args)
    # Scores of 8 are rounded to 0.03, and their weights change by as much.
    assert_near(results, reference, 0.1)


@pytest.mark.usefixtures('both')
def test_bfloat16_between_two_far_rois():
    # B is -400 half way, where bfloat16 has even numbers only.
    feature, tokens, rois = inputs(height=1, width=800, num_tokens=2)
    rois[:, 0] = torch.tensor([0.1, 0.5, 0.02, 1.0])
    rois[:, 1] = torch.tensor([0.9, 0.5, 0.02, 1.0])
    attention = make()
    reference = run(attention, (feature, tokens, rois))
    with torch.autocast('cpu', torch.bfloat16):
        results = run(attention, (feature, tokens, rois))
    assert_near(results[:1], reference[:1], 5e-2)


def test_scores_are_not_kept_for_the_backward_pass(monkeypatch):
    num_scores = 2 * 40 * 50 * 30
    largest = {}
    for form in ('plain', 'lean'):
        monkeypatch.setattr(ops, 'FAST_OPS', form == 'lean')
        sizes = []
        feature, tokens, rois = inputs(height=40, width=50, num_tokens=30)
        with saved_tensors_hooks(
            lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x
        ):
            make()(feature, tokens, rois.requires_grad_())
        largest[form] = max(sizes)
    assert largest['plain'] >= num_scores
    assert largest['lean'] == feature.numel()  # the map itself


@pytest.mark.usefixtures('float64')
def test_tracing_gives_the_same():
    attention, args = make(2), inputs()
    traced = torch.jit.trace(attention, args)
    torch.testing.assert_close(traced(*args), attention(*args))


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(heads=3), 'num_heads=3 does not divide the width of the attention, 8'),
        (dict(heads=0), 'num_heads=0 does not divide'),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(**kwargs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('heads', [1, 2])
def test_on_a_gpu(heads, monkeypatch):
    monkeypatch.setattr(module, '_BLOCK_SCORES_ELSEWHERE', 2 * 2 * heads * 7 * 4)
    args = inputs()
    reference = run(make(heads).double(), [x.double() for x in args], lean=False)
    args = [x.cuda() for x in args]
    for lean in (False, True):
        attention = make(heads).cuda()
        results = run(attention, args, lean=lean)
        assert_near(results, reference, 1e-2)  # TF32 may be on
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast('cuda', dtype):
                results = run(attention, args, lean=lean)
            assert_near(results, reference, 1e-1)
