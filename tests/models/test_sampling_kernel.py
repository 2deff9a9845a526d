"""The kernel that reads maps agrees with torch's grid_sample."""

import pytest
import torch

from helpers.numerics import assert_near
from sparseformer_mm import SparseFormer
from sparseformer_mm.models import kernels, ops, sampling
from sparseformer_mm.models.sampling import sample_gather, sample_grid

MAPS = [(5, 7), (1, 1), (3, 4, 5), (1, 4, 1)]


def make(sizes, channels, num=40):
    """Points inside and up to a pixel outside the map, on its edges, and far away."""
    torch.manual_seed(0)
    dims = len(sizes)
    extent = torch.tensor(sizes[::-1], dtype=torch.float32)
    points = torch.rand(2, num, dims) * (1 + 3 / extent) - 1.5 / extent
    points[0, 0] = 0.0
    points[0, 1] = 1.0
    points[0, 2] = 1e30
    points[1, 3] = torch.tensor([0.3, -1e30, 0.3])[:dims]
    return torch.randn(2, *sizes, channels), points, torch.randn(2, num, channels)


def by_torch(feature, points, cotangent):
    """Output and gradients, in 64 bits."""
    # Not so far that they are no whole numbers in torch.
    points = points.clamp(-100, 100).double().requires_grad_()
    feature = feature.double().requires_grad_()
    out = sample_grid(feature, points)
    grads = torch.autograd.grad(out, (feature, points), cotangent.double())
    return out, *grads


@pytest.mark.parametrize('channels', [1, 16, 39, 96])
@pytest.mark.parametrize('sizes', MAPS)
def test_agrees_with_torch(compiled, sizes, channels):
    feature, points, cotangent = make(sizes, channels)
    out = compiled.sample(feature, points)
    grads = compiled.sample_backward(feature, points, cotangent, True, True)
    expected = by_torch(feature, points, cotangent)
    assert expected[1].abs().max() > 0.1
    assert_near([out, *grads], expected, 1e-5)


@pytest.mark.parametrize('sizes', [(5, 7), (3, 4, 5)])
def test_only_what_is_wanted(compiled, sizes):
    feature, points, cotangent = make(sizes, 16)
    expected = by_torch(feature, points, cotangent)[1:]
    both = feature, points, cotangent
    of_map, nothing = compiled.sample_backward(*both, True, False)
    assert nothing is None
    nothing, of_points = compiled.sample_backward(*both, False, True)
    assert nothing is None
    assert_near([of_map, of_points], expected, 1e-5)


@pytest.mark.parametrize('dims', [2, 3])
def test_is_what_models_run(compiled, dims):
    """Once a look, forward and backward."""
    torch.manual_seed(0)
    model = SparseFormer('tiny', dims, num_tokens=4, cortex_depth=1)
    images = torch.rand(2, 3, *(4, 32, 32)[-dims:])

    def run():
        with torch.profiler.profile() as profiler:
            (out,) = model(images)
            weights = torch.linspace(-1, 1, out.numel()).view_as(out)
            grads = torch.autograd.grad((out * weights).sum(), model.parameters())
        counts = {op.key: op.count for op in profiler.key_averages()}
        name = 'sparseformer_mm_kernels::sample'
        return [out, *grads], counts.get(name), counts.get(f'{name}_backward')

    found, *counts = run()
    assert counts == [5, 5]
    with kernels.without():
        plain, *counts = run()
    assert counts == [None, None]
    assert_near(found, plain, 1e-4)


def test_goes_back_as_it_went_forward(compiled):
    """Where a context has ended or begun between."""
    feature, points, cotangent = make((5, 7), 16)
    points.requires_grad_()
    with_kernel = sample_gather(feature, points)
    with kernels.without():
        plain = sample_gather(feature, points)
        grads = torch.autograd.grad(with_kernel, points, cotangent)
    assert_near(grads, torch.autograd.grad(plain, points, cotangent), 1e-5)


@pytest.mark.parametrize('size', [14, 28, 56, 112])
def test_on_the_center_of_a_pixel_gradients_are_plain_torch(compiled, size):
    """There they jump."""
    feature = torch.randn(1, size, size, 16)
    points = (torch.arange(size) + 0.5) / size
    points = torch.stack([points, points.flip(0)], -1)[None].requires_grad_()
    cotangent = torch.randn(1, size, 16)
    out = sample_gather(feature, points)
    with kernels.without():
        plain = sample_gather(feature, points)
    expected = torch.autograd.grad(plain, points, cotangent)
    assert_near(torch.autograd.grad(out, points, cotangent), expected, 1e-5)


@pytest.mark.parametrize('sizes', [(5, 7), (3, 4, 5)])
def test_leaves_autograd_what_it_wants(compiled, sizes, monkeypatch):
    monkeypatch.setattr(sampling, '_corner_rows', lambda *args: pytest.fail('bags'))
    feature, points, cotangent = make(sizes, 16)
    expected = by_torch(feature, points, cotangent)
    for wanted in ([True, True], [True, False], [False, True]):
        args = feature.clone(), points.clone()
        for x, wants in zip(args, wanted):
            x.requires_grad_(wants)
        out = sample_gather(*args)
        out.backward(cotangent)
        assert_near([out], expected[:1], 1e-5)
        for x, wants, grad in zip(args, wanted, expected[1:]):
            assert (x.grad is not None) == wants
            if wants:
                assert_near([x.grad], [grad], 1e-5)


def test_is_not_run_where_it_may_not_be(compiled, monkeypatch):
    monkeypatch.setattr(sampling._Kernel, 'apply', lambda *args: pytest.fail('kernel'))
    feature, points, cotangent = make((5, 7), 16)
    expected = by_torch(feature, points, cotangent)[:1]
    assert_near([sample_gather(feature.double(), points.double())], expected, 1e-6)
    args = feature, points, torch.ones_like(cotangent)
    grad = torch.func.grad(lambda x: sample_gather(x, points).sum())(feature)
    assert_near([grad], by_torch(*args)[1:2], 1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        assert_near([sample_gather(feature, points)], expected, 0.02)
    traced = torch.jit.trace(sample_gather, (feature, points), check_trace=False)
    assert_near([traced(feature, points)], expected, 1e-5)
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    assert_near([sample_gather(feature, points)], expected, 1e-5)


def test_strides(compiled):
    feature, points, cotangent = make((5, 7), 16)
    expected = by_torch(feature, points, cotangent)
    args = [x.movedim(-1, 1).contiguous().movedim(1, -1) for x in (feature, points)]
    assert not any(x.is_contiguous() for x in args)
    found = compiled.sample(*args)
    grad = cotangent.transpose(0, 1).contiguous().transpose(0, 1)
    grads = compiled.sample_backward(*args, grad, True, True)
    assert_near([found, *grads], expected, 1e-5)


def test_nan_and_infinity(compiled):
    """A point that is NaN in part reads NaN, and no other; an infinite one nothing."""
    feature, points, cotangent = make((5, 7), 16)
    clean = compiled.sample(feature, points)
    nan = float('nan')
    points[0, 3:6] = torch.tensor([[0.5, nan], [9.0, nan], [nan, -9.0]])
    points[1, 6] = float('inf')
    points[1, 7] = -float('inf')
    out = compiled.sample(feature, points)
    with kernels.without():
        plain = sample_gather(feature, points)
    assert torch.equal(out.isnan(), plain.isnan())
    assert out[0, 3:6].isnan().all()
    assert torch.equal(out[1, 6:8], torch.zeros(2, 16))
    clean[0, 3:6], clean[1, 6:8] = 0, 0
    out[0, 3:6] = 0
    assert torch.equal(out, clean)
    of_map, grad = compiled.sample_backward(feature, points, cotangent, True, True)
    assert grad[0, 3:6].isnan().all()
    assert torch.equal(grad[1, 6:8], torch.zeros(2, 2))
    assert grad[0, 6:].isfinite().all() and of_map[1].isfinite().all()


def test_what_is_outside_is_not_read(compiled):
    """A corner that counts as zero, beside a row that is no number."""
    feature = torch.ones(1, 2, 2, 16)
    feature[0, 0, 0] = float('nan')
    points = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    out = compiled.sample(feature, points)
    assert torch.equal(out[0, 0], torch.full((16,), 0.25))
    assert out[0, 1].isnan().all()
    ones = torch.ones_like(out)
    of_map, grad = compiled.sample_backward(feature, points, ones, True, True)
    assert torch.equal(grad[0, 0], torch.full((2,), -16.0))
    assert of_map.isfinite().all()


@pytest.mark.parametrize('batch', [1, 3])
def test_threads_make_no_difference(compiled, batch):
    torch.manual_seed(0)
    feature, points = torch.randn(batch, 9, 9, 40), torch.rand(batch, 700, 2)
    cotangent = torch.randn(batch, 700, 40)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            grads = compiled.sample_backward(feature, points, cotangent, True, True)
            found.append([compiled.sample(feature, points), *grads])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, others, found[0]))


def test_nothing_to_sample(compiled):
    feature, points, cotangent = make((5, 7), 16, num=4)
    none = points[:, :0], cotangent[:, :0]
    assert compiled.sample(feature, none[0]).shape == (2, 0, 16)
    of_map, of_points = compiled.sample_backward(feature, *none, True, True)
    assert torch.equal(of_map, torch.zeros_like(feature))
    assert of_points.shape == (2, 0, 2)


@pytest.mark.parametrize(
    'feature, points',
    [
        (torch.ones(1, 4, 4, 3).double(), torch.ones(1, 2, 2)),
        (torch.ones(1, 4, 4, 3), torch.ones(1, 2, 2).double()),
        (torch.ones(1, 4, 3), torch.ones(1, 2, 1)),
        (torch.ones(1, 4, 4, 3), torch.ones(1, 2, 3)),
        (torch.ones(2, 4, 4, 3), torch.ones(1, 2, 2)),
        (torch.ones(1, 4, 4, 3), torch.ones(1, 2)),
        (torch.ones(1, 0, 4, 3), torch.ones(1, 2, 2)),
    ],
)
def test_others_are_refused(compiled, feature, points):
    with pytest.raises(RuntimeError, match='sample: a map'):
        compiled.sample(feature, points)
    with pytest.raises(RuntimeError, match='sample: a map'):
        compiled.sample_backward(feature, points, points, True, True)


def test_a_gradient_of_another_shape_is_refused(compiled):
    feature, points, cotangent = make((5, 7), 16)
    for wrong in (cotangent[:, 1:], cotangent[..., 1:], cotangent.double()):
        with pytest.raises(RuntimeError, match='sample_backward: a gradient'):
            compiled.sample_backward(feature, points, wrong, True, True)
