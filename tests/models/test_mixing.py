import pytest
import torch

from helpers.numerics import assert_exact, assert_near
from sparseformer_mm.models import mixing, ops

K, P, Q, C = 5, 3, 4, 6


def arguments(dtype=torch.float32, biases=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(K, P, C), (K, C * C + Q * P), (C,), (Q,)]
    tensors = [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in shapes
    ]
    return tensors if biases else [*tensors[:2], None, None]


def results(gelu, tensors):
    out = mixing.mix(*tensors[:2], Q, *tensors[2:], gelu)
    cotangent = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    wanted = [t for t in tensors if t is not None]
    return [out, *torch.autograd.grad((out * cotangent).sum(), wanted)]


@pytest.mark.parametrize('gelu', [True, False])
@pytest.mark.parametrize('biases', [True, False])
@pytest.mark.parametrize('tokens_at_a_time', [1, 2, 99])
def test_fast_form_is_the_reference(gelu, biases, tokens_at_a_time, monkeypatch):
    monkeypatch.setattr(mixing, '_MAX_FEATURES', tokens_at_a_time * P * C)
    for dtype, check in ((torch.float32, assert_near), (torch.float64, assert_exact)):
        args = arguments(dtype, biases)
        with monkeypatch.context() as patch:
            patch.setattr(mixing, 'fast_cpu', lambda *tensors: False)
            expected = results(gelu, args)
            patch.setattr(mixing, 'fast_cpu', lambda *tensors: True)
            ours = results(gelu, args)
            with torch.no_grad():
                ours.append(mixing.mix(*args[:2], Q, *args[2:], gelu))
        expected.append(expected[0])
        if check is assert_near:
            assert_near(ours, expected, 1e-5)
        else:
            for mine, theirs in zip(ours, expected):
                assert_exact(mine, theirs)


def test_equations():
    x, weights, channel_bias, point_bias = arguments(torch.float64)
    out = mixing.mix(x, weights, Q, channel_bias, point_bias)
    for k in range(K):
        channel = weights[k, : C * C].reshape(C, C)
        point = weights[k, C * C :].reshape(Q, P)
        middle = torch.nn.functional.gelu(x[k] @ channel + channel_bias)
        assert_exact(out[k], point @ middle + point_bias[:, None])


def test_transforms_take_the_reference(monkeypatch):
    monkeypatch.setattr(mixing, '_some_tokens', lambda *a: pytest.fail('fast path'))
    x, weights, *_ = arguments()
    torch.func.grad(lambda x: mixing.mix(x, weights, Q).sum())(x)
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    mixing.mix(x, weights, Q)
