from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers.numerics import assert_exact, assert_near
from sparseformer_mm.models import kernels, ops, self_attention
from sparseformer_mm.models.self_attention import self_attention as attend


@pytest.fixture(autouse=True, params=['kernels', 'torch'])
def form(request):
    """All of it in the compiled form, where there is one, and in plain torch."""
    if request.param == 'torch':
        request.getfixturevalue('no_kernels')
    elif kernels.OPS is None:
        pytest.skip('no kernels here')
    return request.param


def by_torch(qkv, num_heads):
    query, key, value = (
        x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in qkv.chunk(3, -1)
    )
    out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2).flatten(2)


def with_gradient(function, qkv, num_heads, cotangent):
    out = function(qkv, num_heads)
    return [out, *torch.autograd.grad((out * cotangent).sum(), qkv)]


@pytest.mark.parametrize('width', [1, 4, 8, 12, 64])
@pytest.mark.parametrize('max_scores', [1, 150, 10**6])
def test_agrees_with_torch(width, max_scores, monkeypatch):
    """Whether few heads at a time, or all, or a form for wide ones."""
    torch.manual_seed(0)
    monkeypatch.setattr(self_attention, '_MAX_SCORES', max_scores)
    qkv = torch.randn(2, 7, 3 * 5 * width, requires_grad=True)
    cotangent = torch.randn(2, 7, 5 * width)
    ours, theirs = (
        with_gradient(function, qkv, 5, cotangent) for function in (attend, by_torch)
    )
    assert_near(ours, theirs, 1e-5)
    with torch.no_grad():
        assert_near([attend(qkv, 5)], theirs[:1], 1e-5)


def test_is_exact_in_float64(no_kernels, monkeypatch):
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 60, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 7, 20, dtype=torch.float64)
    monkeypatch.setattr(self_attention, 'fast_cpu', lambda *tensors: True)
    ours, theirs = (
        with_gradient(function, qkv, 5, cotangent) for function in (attend, by_torch)
    )
    for mine, theirs_ in zip(ours, theirs):
        assert_exact(mine, theirs_)


def test_one_token_leaves_its_input_alone():
    qkv = torch.randn(1, 1, 60, requires_grad=True)
    before = qkv.detach().clone()
    out, grad = with_gradient(attend, qkv, 5, torch.ones(20))
    assert torch.equal(qkv.detach(), before)
    expected = torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(20)
    assert_near([out[0, 0], grad[0, 0]], [before[0, 0, 40:], expected], 1e-6)


def test_strided_inputs_and_gradients():
    torch.manual_seed(0)
    qkv = torch.randn(60, 7, 2).permute(2, 1, 0).requires_grad_()
    cotangent = torch.randn(20, 7, 2).permute(2, 1, 0)
    ours, theirs = (
        with_gradient(function, qkv, 5, cotangent) for function in (attend, by_torch)
    )
    assert_near(ours, theirs, 1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('autocast', [False, True])
def test_half_numbers_are_computed_in_float32(dtype, autocast):
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 60).to(dtype).requires_grad_()
    cotangent = torch.randn(2, 7, 20).to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        ours = with_gradient(attend, qkv, 5, cotangent)
    full = qkv.detach().float().requires_grad_()
    theirs = with_gradient(attend, full, 5, cotangent.float())
    for mine, exact in zip(ours, theirs):
        assert mine.dtype == dtype
        assert torch.equal(mine, exact.to(dtype))


def test_backward_alone_inside_autocast():
    """What forward did in float32, backward does."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 60, requires_grad=True)
    found = []
    for enabled in (False, True):
        out = attend(qkv, 5)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            out.backward(torch.ones_like(out), inputs=[qkv])
        found.append(qkv.grad.clone())
        qkv.grad = None
    assert torch.equal(*found)


def test_others_take_the_reference(form, monkeypatch):
    def fail(*args):
        pytest.fail('fast path taken')

    monkeypatch.setattr(self_attention, '_narrow', fail)
    if kernels.OPS is not None:
        monkeypatch.setattr(kernels, 'OPS', SimpleNamespace(self_attention=fail))
    many, wide = torch.randn(1, 1001, 12), torch.randn(1, 3, 3 * 11)
    others = many[:, :3].double(), many[:0], many[:0].bfloat16(), wide.bfloat16()
    if form == 'torch':
        others = many, *others
    for qkv in (wide, *others):
        assert attend(qkv, 1).dtype == qkv.dtype
    few = many[:, :3]
    torch.func.grad(lambda x: attend(x, 1).sum())(few)
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    attend(few, 1)
    attend(few.bfloat16(), 1)


def test_transforms_agree():
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 60, requires_grad=True)
    _, expected = with_gradient(by_torch, qkv, 5, torch.ones(()))
    ours = torch.func.grad(lambda x: attend(x, 5).sum())(qkv)
    assert_near([ours], [expected], 1e-5)


@pytest.mark.parametrize('score', [20.0, 30.0, 40.0, 1e3])
def test_large_scores(score):
    """On either side of the one up to which powers of two are taken as they are."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 60)
    # The largest of all products of a query and a key, over sqrt(4).
    query, key = qkv.unflatten(-1, (3, 5, 4)).norm(dim=-1).amax((0, 1, 3))[:2]
    qkv[..., :40] *= (2 * score / (query * key)) ** 0.5
    cotangent = torch.randn(2, 7, 20)
    ours = with_gradient(attend, qkv.requires_grad_(), 5, cotangent)
    exact = qkv.detach().double().requires_grad_()
    theirs = with_gradient(by_torch, exact, 5, cotangent.double())
    # Scores have 24 bits.
    assert_near(ours, [x.float() for x in theirs], max(1e-5, score * 1e-6))


def test_huge_scores_stay_finite_and_nan_shows():
    qkv = (torch.randn(1, 4, 12) * 1e4).requires_grad_()
    out = attend(qkv, 1)
    out.sum().backward()
    assert out.isfinite().all() and qkv.grad.isfinite().all()
    assert attend(qkv.detach() * float('nan'), 1).isnan().all()
