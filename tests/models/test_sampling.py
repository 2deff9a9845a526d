import math

import pytest
import torch

from helpers.numerics import assert_near
from sparseformer_mm import SparseFormer
from sparseformer_mm.models import ops, sampling
from sparseformer_mm.models.sampling import (
    SparseSampling,
    lay_out,
    limit_gradient,
    sample_gather,
    sample_grid,
    sample_points,
)


def naive(feature, points):
    """Multilinear interpolation by loops: pixel i has its center at (i + 0.5) / n."""
    sizes = feature.shape[1:-1]
    out = feature.new_zeros(*points.shape[:2], feature.shape[-1])
    dims = len(sizes)
    for b in range(points.shape[0]):
        for m in range(points.shape[1]):
            where = [points[b, m, a].item() * sizes[-1 - a] - 0.5 for a in range(dims)]
            for corner in range(2**dims):
                weight, index = 1.0, []
                for axis in range(dims):
                    low = math.floor(where[axis])
                    upper = corner >> axis & 1
                    weight *= where[axis] - low if upper else 1 - (where[axis] - low)
                    index.append(low + upper)
                index = index[::-1]
                if all(0 <= i < n for i, n in zip(index, sizes)):
                    out[b, m] += weight * feature[(b, *index)]
    return out


def make(dims, dtype=torch.float64):
    torch.manual_seed(dims)
    sizes = (3, 4, 5)[-dims:]
    feature = torch.randn(2, *sizes, 7, dtype=dtype, requires_grad=True)
    points = torch.rand(2, 11, dims, dtype=dtype) * 1.6 - 0.3  # some outside
    points[0, 0] = 0.0
    points[0, 1] = 1.0
    points[0, 2] = 1e6
    return feature, points.requires_grad_()


@pytest.mark.parametrize('dims', [2, 3])
@pytest.mark.parametrize('sample', [sample_grid, sample_gather, sample_points])
def test_against_a_loop(sample, dims):
    feature, points = make(dims)
    torch.testing.assert_close(sample(feature, points), naive(feature, points))


@pytest.mark.parametrize('dims', [2, 3])
def test_bags_in_float32(no_kernels, dims):
    """What runs where there is no kernel."""
    exact = make(dims)
    bags = [x.detach().float().requires_grad_() for x in exact]
    weight = torch.randn(2, 11, 7, dtype=torch.float64)
    out, expected = sample_gather(*bags), sample_grid(*exact)
    assert_near([out], [expected], 1e-5)
    found = torch.autograd.grad(out, bags, weight.float())
    assert_near(found, torch.autograd.grad(expected, exact, weight), 1e-5)


@pytest.mark.parametrize('dims', [2, 3])
def test_gather_has_the_gradients_of_grid_sample(dims):
    feature, points = make(dims)
    weight = torch.randn(2, 11, 7, dtype=torch.float64)
    grads = [
        torch.autograd.grad((sample(feature, points) * weight).sum(), (feature, points))
        for sample in (sample_grid, sample_gather)
    ]
    for reference, fast in zip(*grads):
        assert reference.abs().max() > 0.1
        torch.testing.assert_close(fast, reference)


@pytest.mark.parametrize('sample', [sample_grid, sample_gather])
def test_gradcheck(sample):
    feature, points = make(2)
    keep = ((points.detach() * 5 - 0.5) % 1 - 0.5).abs().amax(
        -1
    ) < 0.45  # off the kinks
    points = points.detach()[keep][None].requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: sample(f[:1], p), (feature, points))


def test_edges_follow_align_corners_false():
    feature = torch.arange(4.0).view(1, 1, 4, 1)
    points = torch.tensor(
        [[[0.0, 0.5], [0.125, 0.5], [0.5, 0.5], [0.875, 0.5], [1.0, 0.5]]]
    )
    # The outer edge is half a pixel from the outer center, where zeros begin to mix in.
    expected = torch.tensor([[[0.0], [0.0], [1.5], [3.0], [1.5]]])
    for sample in (sample_grid, sample_gather):
        torch.testing.assert_close(sample(feature, points), expected)


def test_deterministic_rows_agree(monkeypatch):
    """The form that deterministic training takes on GPUs."""
    feature, points = make(2)

    def gradients():
        loss = sample_gather(feature, points).pow(2).sum()
        return torch.autograd.grad(loss, (feature, points))

    reference = gradients()
    monkeypatch.setattr(sampling._WeightedRows, 'apply', sampling._weighted_rows)
    plain = gradients()
    torch.testing.assert_close(plain, reference)


@pytest.mark.parametrize('sample', [sample_grid, sample_gather])
def test_a_nan_stays_a_nan(sample):
    feature, points = make(2)
    points = points.detach().clone()
    points[0, 3] = float('nan')
    out = sample(feature, points)
    assert out[0, 3].isnan().all() or sample is sample_grid
    assert out[1].isfinite().all()


def test_fast_ops_off_means_the_reference(monkeypatch):
    monkeypatch.setattr(sampling, 'sample_gather', lambda *args: pytest.fail('fast'))
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    feature, points = make(2)
    torch.testing.assert_close(sample_points(feature, points), naive(feature, points))


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('batch, num', [(0, 5), (2, 0)])
def test_nothing_to_sample(batch, num, fast, monkeypatch):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    feature = torch.rand(batch, 4, 4, 3, requires_grad=True)
    sampled = sample_points(feature, torch.rand(batch, num, 2))
    assert sampled.shape == (batch, num, 3)
    sampled.sum().backward()
    assert torch.equal(feature.grad, torch.zeros_like(feature))


def test_limit_clamps_large_gradients_and_leaves_small_ones():
    x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([-3.0, -0.1, 0.0, 0.2, 7.0], dtype=torch.float64)
    limit = torch.tensor(0.25, dtype=torch.float64)
    limit_gradient(x, limit).backward(grad)
    assert x.grad.tolist() == [-0.25, -0.1, 0.0, 0.2, 0.25]


def sampler_grad(scale=1.0, limit_grad=True):
    torch.manual_seed(0)
    sampler = SparseSampling(8, 4, limit_grad=limit_grad).double()
    sampler.set_loss_scale(scale)
    torch.nn.init.normal_(sampler.proj.weight)
    tokens = torch.randn(2, 3, 8, dtype=torch.float64)
    rois = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64).repeat(2, 3, 1)
    rois.requires_grad_()
    feature = torch.randn(2, 5, 9, 6, dtype=torch.float64) / 2
    sampled, points = sampler(tokens, rois, feature)
    points.retain_grad()
    (sampled.sum() * scale).backward()
    return points.grad / scale, rois.grad / scale


def test_coordinate_gradients_are_limited_by_the_map_height():
    free, _ = sampler_grad(limit_grad=False)
    assert free.abs().min() < 1 / 5 < free.abs().max()
    limited, _ = sampler_grad()
    torch.testing.assert_close(limited, free.clamp(-1 / 5, 1 / 5))


def test_the_limit_scales_with_the_loss():
    for ours, reference in zip(sampler_grad(scale=1024.0), sampler_grad()):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize('shape', [(2, 5, 6, 3), (2, 4, 5, 6, 3)])
def test_maps_lie_as_they_are_read(shape, monkeypatch):
    feature = torch.randn(shape)
    assert lay_out(feature) is feature  # rows of channels
    monkeypatch.setattr(ops, 'FAST_OPS', False)
    planes = lay_out(feature)
    assert torch.equal(planes, feature)
    assert planes.movedim(-1, 1).is_contiguous()
    points = torch.rand(2, 9, len(shape) - 2)
    expected = sample_grid(feature, points)
    torch.testing.assert_close(sample_points(planes, points), expected)


@pytest.mark.parametrize('fast', [True, False])
def test_models_lay_their_map_out(fast, monkeypatch):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    model = SparseFormer('tiny', num_tokens=4, cortex_depth=1)
    seen = model.forward_intermediates(torch.rand(1, 3, 32, 32))
    assert seen.image_feature.is_contiguous() == (not fast)
