import pytest
import torch

from sparseformer_mm.models.rois import (
    adjust_rois,
    corners_to_rois,
    inflate_rois,
    init_offsets,
    init_rois,
    points_in_rois,
    rois_to_corners,
    split_evenly,
)


@pytest.mark.parametrize('num', [1, 2, 3, 5, 7, 9, 10, 48, 49, 50, 144, 400])
def test_split_evenly_is_complete_and_even(num):
    lines = split_evenly(num)
    assert sum(lines) == num
    assert max(lines) - min(lines) <= 1
    assert len(lines) == max(1, round(num**0.5))


def test_half_rois_fill_the_image_with_x_slow():
    rois = init_rois(49)
    corners = rois_to_corners(rois)
    assert corners.min() == 0 and corners.max() == 1
    steps = 0.25 + 0.5 * torch.arange(7) / 6
    torch.testing.assert_close(rois[:, 0], steps.repeat_interleave(7))
    torch.testing.assert_close(rois[:, 1], steps.repeat(7))
    assert (rois[:, 2:] == 0.5).all()


@pytest.mark.parametrize('num', [1, 2, 5, 10, 49])
def test_cells_tile_the_image_without_overlap(num):
    corners = rois_to_corners(init_rois(num, 'cell'))
    grid = torch.cartesian_prod(torch.rand(200), torch.rand(5))
    inside = ((grid[:, None] > corners[:, :2]) & (grid[:, None] < corners[:, 2:])).all(
        -1
    )
    assert (inside.sum(1) == 1).all()


def test_whole_and_random():
    assert (init_rois(5, 'whole') == torch.tensor([0.5, 0.5, 1.0, 1.0])).all()
    torch.manual_seed(0)
    rois = init_rois(4000, 'random')
    assert (rois[:, 2:] == 0.5).all()
    assert rois[:, :2].min() >= 0 and rois[:, :2].max() <= 1
    # Uniform on [0, 1]: mean 1/2, variance 1/12.
    torch.testing.assert_close(
        rois[:, :2].mean(0), torch.full((2,), 0.5), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        rois[:, :2].var(0), torch.full((2,), 1 / 12), atol=0.005, rtol=0
    )


def test_inflated_tubes_share_the_clip():
    image = init_rois(4, 'cell')
    tubes = inflate_rois(image, 8)
    assert tubes.shape == (32, 6)
    for k in range(8):
        copy = tubes[4 * k : 4 * k + 4]
        torch.testing.assert_close(copy[:, [0, 1, 3, 4]], image)
        assert (copy[:, 2] == (k + 0.5) / 8).all() and (copy[:, 5] == 1 / 8).all()


@pytest.mark.parametrize('dims', [2, 3])
def test_corners_round_trip(dims):
    rois = torch.rand(5, 2 * dims, dtype=torch.float64)
    torch.testing.assert_close(corners_to_rois(rois_to_corners(rois)), rois)


@pytest.mark.parametrize('dims', [2, 3])
def test_adjust_is_equations_7_and_8(dims):
    rois = torch.rand(2, 3, 2 * dims, dtype=torch.float64) + 0.1
    rois[0, 0, dims] *= -1  # a width coming in counts by its absolute value
    deltas = torch.randn_like(rois)
    out = adjust_rois(rois, deltas)
    for index in range(dims):
        center, size = rois[..., index], rois[..., dims + index].abs()
        torch.testing.assert_close(out[..., index], center + deltas[..., index] * size)
        torch.testing.assert_close(
            out[..., dims + index], size * deltas[..., dims + index].exp()
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('value', [1e-30, 1e4, -1e4, 0.0])
def test_wild_rois_stay_finite(dtype, value):
    rois = torch.tensor([[0.5, 0.5, 0.5, 0.5]], dtype=dtype, requires_grad=True)
    deltas = torch.full((1, 4), value, dtype=dtype, requires_grad=True)
    out = rois
    for _ in range(6):
        out = adjust_rois(out, deltas)
        assert out.dtype == torch.float32
    points = points_in_rois(out[None], torch.randn(1, 1, 9, 2))
    points.sum().backward()
    assert points.isfinite().all() and (out[:, 2:] > 0).all()
    assert rois.grad.isfinite().all() and deltas.grad.isfinite().all()


def test_initial_offsets_are_cell_centers_with_x_fastest():
    offsets = init_offsets(36)
    cells = (torch.arange(6) + 0.5) / 6 - 0.5
    torch.testing.assert_close(offsets[:, 0], cells.repeat(6))
    torch.testing.assert_close(offsets[:, 1], cells.repeat_interleave(6))
    assert init_offsets(1).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize('num', [1, 9, 10, 16, 36, 49])
def test_initial_times(num):
    middle = init_offsets(num, 3, 'middle')
    spread = init_offsets(num, 3)
    assert (middle[:, 2] == 0).all()
    for offsets in (middle, spread):
        assert torch.equal(offsets[:, :2], init_offsets(num))
    cells = (torch.arange(num) + 0.5) / num - 0.5
    assert torch.equal(spread[:, 2].sort().values, cells)
    if num >= 16:  # early and late points everywhere
        assert torch.corrcoef(spread.t())[2, :2].abs().max() < 0.1


@pytest.mark.parametrize('dims', [2, 3])
def test_points_against_a_loop(dims):
    rois = torch.rand(2, 3, 2 * dims, dtype=torch.float64)
    offsets = torch.randn(2, 3, 5, dims, dtype=torch.float64)
    points = points_in_rois(rois, offsets)
    for b in range(2):
        for n in range(3):
            for axis in range(dims):
                o = offsets[b, n, :, axis]
                deviation = ((o - o.mean()) ** 2).sum().div(4).sqrt()
                expected = rois[b, n, axis] + (
                    (o - o.mean()) / (3 * (deviation + 1e-7)) * rois[b, n, dims + axis]
                )
                torch.testing.assert_close(points[b, n, :, axis], expected)


def test_one_point_lies_at_the_center():
    rois = torch.rand(1, 4, 4)
    points = points_in_rois(rois, torch.randn(1, 4, 1, 2))
    torch.testing.assert_close(points[:, :, 0], rois[..., :2])
