from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers.numerics import assert_near
from sparseformer_mm.models import ops

# Of sums of at most 24 products of numbers around 1, in float32.
SUMS = 1e-5


def gelu_linear(x, weight, bias=None):
    return ops.linear(x, weight, bias, gelu=True)


@pytest.mark.parametrize('bias', [True, False])
# Fewer rows than columns of a result, and more.
@pytest.mark.parametrize(
    'shape', [(5, 12), (2, 3, 12), (1, 12), (2, 3, 4, 12), (40, 12), (9, 7, 12)]
)
def test_linear_agrees_with_torch(shape, bias):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(9, 12, requires_grad=True)
    args = (x, weight) + ((torch.randn(9, requires_grad=True),) if bias else ())
    cotangent = torch.randn(*shape[:-1], 9)
    assert ops._use_onednn(x, weight, None)

    def plain_gelu(x, *others):
        return F.linear(F.gelu(x), *others)

    for theirs, ours in ((F.linear, ops.linear), (plain_gelu, gelu_linear)):
        results = []
        for function in (ours, theirs):
            out = function(*args)
            grads = torch.autograd.grad((out * cotangent).sum(), args)
            results.append([out, *grads])
        assert_near(*results, SUMS)
        with torch.no_grad():
            assert_near([ours(*args)], results[1][:1], SUMS)


def test_linear_gives_only_the_gradients_asked_for():
    x, weight = torch.randn(4, 6), torch.randn(3, 6, requires_grad=True)
    ops.linear(x, weight).sum().backward()
    assert_near([weight.grad], [x.sum(0).expand(3, -1)], SUMS)


def test_a_bias_alone_learns():
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    bias = torch.zeros(3, requires_grad=True)
    ops.linear(x, weight, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((3,), 4.0))


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('avx512', [True, False])
@pytest.mark.parametrize(
    ('rows', 'columns', 'width', 'form', 'least'),  # from so many threads
    [
        (49, 512, 512, 'transposed', 2),
        (95, 256, 1024, 'transposed', 2),
        (16, 2048, 128, 'transposed', 1),
        (49, 512, 8, 'linear', 2),
        (31, 192, 8, 'linear', 1),
        (31, 64, 4096, 'linear', 1),
        (15, 512, 512, None, 1),
        (96, 512, 512, None, 1),
        (49, 1024, 256, None, 1),
    ],
)
def test_few_rows_are_not_left_to_one_thread(
    monkeypatch, rows, columns, width, form, least, avx512, threads
):
    torch.manual_seed(0)
    args = [
        torch.randn(*shape, requires_grad=True)
        for shape in [(1, rows, columns), (width, columns), (width,)]
    ]
    cotangent = torch.randn(1, rows, width)
    calls = []

    def noted(name, function):
        def call(*args):
            calls.append(name)
            return function(*args)

        return call

    def run(function, *args):
        calls.clear()
        out = function(*args)
        forward = list(calls)
        return forward, [out, *torch.autograd.grad((out * cotangent).sum(), args)]

    _, exact = run(F.linear, *[arg.double() for arg in args])
    monkeypatch.setattr(ops, '_HAS_AVX512', avx512)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    linear = noted('linear', F.linear)
    monkeypatch.setattr(ops, 'F', SimpleNamespace(linear=linear))
    monkeypatch.setattr(ops, '_transposed', noted('transposed', ops._transposed))
    forward, ours = run(ops.linear, *args)
    assert_near(ours, [x.float() for x in exact], 30 * SUMS)
    assert forward == ([form] if form and avx512 and threads >= least else [])


def test_products_of_many_images_for_a_weight_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(ops, '_HAS_AVX512', True)
    monkeypatch.setattr(ops, 'F', SimpleNamespace(linear=None))
    x, weight = torch.randn(512, 48), torch.randn(24, 48, requires_grad=True)
    # A product of 24 or 48 rows and 512 columns.
    ops.linear(x, weight).sum().backward()
    assert_near([weight.grad], [x.sum(0).expand(24, -1)], 10 * SUMS)


@pytest.mark.skipif(
    not hasattr(torch.ops.sparseformer_mm, 'linear'), reason='for compilers that ask'
)
def test_compilers_get_what_they_were_told_of(monkeypatch):
    monkeypatch.setattr(ops, '_HAS_AVX512', True)
    x, weight = torch.randn(1, 20, 512), torch.randn(512, 512)
    assert not ops.linear(x, weight).is_contiguous()
    out = torch.ops.sparseformer_mm.linear(x, weight, None)
    assert out.is_contiguous()
    assert_near([out], [F.linear(x, weight)], 100 * SUMS)


@pytest.mark.parametrize('rows', [8, 20, 200])  # each in a form of its own
def test_gradients_inside_autocast_are_those_of_the_forward_pass(rows, monkeypatch):
    monkeypatch.setattr(ops, '_HAS_AVX512', True)
    args = [torch.randn(n, 256, requires_grad=True) for n in (rows, 300)]
    with torch.enable_grad():
        expected = torch.autograd.grad(ops.linear(*args).square().sum(), args)
        loss = ops.linear(*args).square().sum()
        with torch.autocast('cpu', torch.bfloat16):
            grads = torch.autograd.grad(loss, args)
    assert_near(grads, expected, SUMS)


def test_other_dtypes_take_the_reference(monkeypatch):
    monkeypatch.setattr(ops, '_onednn', lambda *args: pytest.fail('fast path taken'))
    for dtype in (torch.float64, torch.bfloat16):
        ops.linear(torch.randn(2, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = ops.linear(torch.randn(2, 4), torch.randn(3, 4))
    assert out.dtype == torch.bfloat16
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    ops.linear(torch.randn(2, 4), torch.randn(3, 4))


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    x = torch.ones(4000, 3)
    out = ops.drop_path(x, 0.25, training=True)
    assert ((out == 0).all(1) | (out == 1 / 0.75).all(1)).all()
    assert abs(out.mean().item() - 1) < 0.03
    assert ops.drop_path(x, 0.25, training=False) is x
    assert ops.drop_path(x, 0.0, training=True) is x


def test_only_the_weights_take_random_numbers():
    """Nothing in between: a seed gives the weights that it always gave."""
    torch.manual_seed(0)
    layers = [ops.make_linear(6, 5), ops.make_linear(5, 4, bias=False)]
    torch.manual_seed(0)
    for layer in layers:
        expected = torch.empty_like(layer.weight)
        torch.nn.init.trunc_normal_(expected, std=0.02, a=-2.0, b=2.0)
        assert torch.equal(layer.weight, expected)


def test_init_is_truncated_normal():
    torch.manual_seed(0)
    layer = ops.make_linear(300, 300)
    assert abs(layer.weight.std().item() - 0.02) < 5e-4
    assert (layer.bias == 0).all()


@pytest.mark.parametrize('count, at_most', [(7, 3), (6, 3), (5, 9), (4, 0), (0, 3)])
def test_even_slices(count, at_most):
    slices = ops.even_slices(count, at_most)
    assert [i for part in slices for i in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in slices]
    assert max(lengths, default=0) <= max(1, at_most)
    assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_weights_of_other_kinds_get_torchs_own_functions():
    """Quantized and sharded ones are subclasses, which know those only."""
    called = []

    class Quantized(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            called.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    layer = ops.make_linear(6, 3)
    layer.weight = torch.nn.Parameter(weight.as_subclass(Quantized))
    with torch.no_grad():
        assert_near([ops.project(x, layer)], [F.linear(x, weight, layer.bias)], SUMS)
    assert F.linear in called
    called.clear()
    assert_near([ops.linear(x.as_subclass(Quantized), weight)], [x @ weight.t()], SUMS)
    assert F.linear in called
