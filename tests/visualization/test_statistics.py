"""Focus, density, entropy and the rest, against loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch

from sparseformer_mm.visualization.recording import Stage
from sparseformer_mm.visualization.statistics import (
    density_map,
    entropy_bits,
    focus_gain,
    share_in_area,
    share_in_boxes,
    stage_statistics,
)

# ----------------------------------------------------------------------- shares


def test_share_equals_naive_loop():
    rng = np.random.default_rng(0)
    points = rng.random((3, 7, 2)) * 1.4 - 0.2  # some lie outside the image
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.5, 0.7, 1.1], [0.8, 0, 0.9, 1]])
    inside = [
        any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes)
        for x, y in points.reshape(-1, 2)
    ]
    assert 0 < np.mean(inside) < 1
    for given in (points, torch.from_numpy(points).half(), points.reshape(-1, 2)):
        assert share_in_boxes(given, boxes) == pytest.approx(np.mean(inside))
    assert math.isnan(share_in_boxes(points, np.zeros((0, 4))))
    assert math.isnan(share_in_boxes(points, None))


def test_axes_and_borders():
    # Inside in x and y only if x comes first in points and boxes.
    assert share_in_boxes([[0.9, 0.1]], [[0.8, 0.0, 1.0, 0.2]]) == 1
    assert share_in_boxes([[0.9, 0.1]], [[0.0, 0.8, 0.2, 1.0]]) == 0
    box = [[0.25, 0.5, 0.75, 1.0]]
    border = [[0.25, 0.5], [0.75, 1.0], [0.25, 0.75], [0.5, 1.0]]
    beyond = [[0.2499, 0.75], [0.5, 1.0001], [0.5, 0.4999], [0.7501, 0.75]]
    assert share_in_boxes(border, box) == 1
    assert share_in_boxes(beyond, box) == 0
    # A point in two boxes counts once.
    assert share_in_boxes(border, box * 2) == 1


def test_boxes_that_move():
    boxes = np.array([[[0, 0, 0.5, 0.5]], [[0.5, 0.5, 1, 1]]])
    points = np.array(
        [
            [[0.2, 0.2, 0.1], [0.7, 0.7, 0.1], [0.2, 0.2, 0.9], [0.7, 0.7, 0.9]],
            # At the corner, too far right, before and after the clip.
            [[1.0, 1.0, 1.0], [1.1, 0.7, 0.9], [0.2, 0.2, -0.1], [0.7, 0.7, 1.1]],
        ]
    )
    assert share_in_boxes(points[0], boxes) == 0.5
    assert share_in_boxes(points[1], boxes) == 0.25
    assert share_in_boxes(points, boxes) == 0.375
    # At all times.
    assert share_in_boxes(points[0], boxes[0]) == 0.5


def test_points_on_an_area():
    area = np.zeros((2, 4), dtype=bool)  # of pixels a quarter wide, a half high
    area[1, 3] = area[0, 0] = True
    points = [[0.1, 0.1], [0.1, 0.6], [0.9, 0.4], [0.76, 0.51], [1.01, 0.9], [-0.1, 0]]
    assert share_in_area(points, area) == pytest.approx(2 / 6)
    assert share_in_area(torch.tensor(points[:1]), area) == 1


def test_focus_gain():
    expected = dict(first=0.25, last=0.75, gain=0.5, ratio=3.0)
    assert focus_gain([0.25, 0.1, 0.75]) == expected
    assert focus_gain([0.5, 0.0])['ratio'] == 0
    assert focus_gain([0.0, 0.5]) == dict(first=0, last=0.5, gain=0.5, ratio=None)


# ---------------------------------------------------------------------- density


@pytest.mark.parametrize('bandwidth', [0.02, 0.3, 2.0])
def test_equals_scikit_learn(bandwidth):
    neighbors = pytest.importorskip('sklearn.neighbors')
    rng = np.random.default_rng(0)
    (width, height), (rows, columns) = size, grid = (7.0, 5.0), (33, 46)
    points = rng.normal(0.5, 0.35, (4, 50, 2))  # some outside
    y, x = np.mgrid[:rows, :columns] + 0.5
    where = np.stack([x / columns * width, y / rows * height], -1).reshape(-1, 2)
    model = neighbors.KernelDensity(kernel='tophat', bandwidth=bandwidth * 5)
    model.fit(points.reshape(-1, 2) * size)
    expected = np.exp(model.score_samples(where))
    assert expected.max() > 0
    # The map is per area of the picture. scikit-learn's sums leave up to 1e-14 where
    # there is nothing.
    drawn = density_map(points, size, bandwidth, grid)
    assert drawn.shape == grid
    np.testing.assert_allclose(drawn.ravel(), expected * 35, rtol=1e-12, atol=1e-11)


def test_one_disc_is_a_circle_of_pixels():
    # Half the shorter side, 40 of 80 pixels, around x = 30, y = 50.
    drawn = density_map([[0.25, 0.625]], (120, 80), 0.25, (80, 120))
    y, x = np.mgrid[:80, :120] + 0.5
    inside = (x - 30) ** 2 + (y - 50) ** 2 < 20**2
    np.testing.assert_allclose(drawn, inside * (120 * 80) / (math.pi * 400))
    # All of it is inside: the mean of the map is its integral.
    assert drawn.mean() == pytest.approx(1, abs=0.01)


def test_mass_outside_of_the_picture():
    # A point at the edge has half its mass outside, one far away all of it.
    assert density_map([[0.0, 0.5]], grid=(400, 400)).mean() == pytest.approx(0.5, 0.02)
    both = density_map([[0.5, 0.5], [5.0, 0.5]], grid=(400, 400))
    assert both.mean() == pytest.approx(0.5, 0.02)
    assert density_map([[5.0, 5.0]]).sum() == 0
    # Cells whose center is at the rim do not count.
    assert density_map([[0.25, 0.5]], bandwidth=0.5, grid=(1, 2)).tolist()[0][1] == 0


def test_even_points_have_density_one_and_most_entropy():
    grid = (16, 16)
    points = np.random.default_rng(2).random((20000, 2))
    drawn = density_map(points, bandwidth=0.1, grid=grid)
    assert drawn[4:12, 4:12].mean() == pytest.approx(1, abs=0.02)
    assert entropy_bits(np.ones(grid)) == pytest.approx(8)
    assert entropy_bits(drawn) == pytest.approx(8, abs=0.05)
    focused = density_map(points * 0.1 + 0.4, bandwidth=0.1, grid=grid)
    assert entropy_bits(focused) < entropy_bits(drawn) - 2


def test_entropy():
    assert entropy_bits([[0, 3], [0, 0]]) == 0
    assert entropy_bits([2, 2, 0, 4]) == pytest.approx(1.5)
    assert math.isnan(entropy_bits(np.zeros((3, 3))))


@pytest.mark.parametrize(
    'points, kwargs, message',
    [
        (np.zeros((3, 4, 3)), {}, r'points must have .* \(3, 4, 3\)'),
        ([[0, 0]], dict(grid=(0, 4)), 'at least one cell'),
        ([[0, 0]], dict(size=(0, 4)), 'size must be above 0'),
        ([[0, 0]], dict(bandwidth=0), 'bandwidth must be above 0'),
        ([[0, 0]], dict(bandwidth=math.nan), 'bandwidth must be above 0'),
        (np.zeros((0, 2)), {}, 'no points'),
    ],
)
def test_wrong_input(points, kwargs, message):
    with pytest.raises(ValueError, match=message):
        density_map(points, **kwargs)


# -------------------------------------------------------------- stage by stage


@pytest.mark.parametrize('dims', [2, 3])
@pytest.mark.parametrize(
    'boxes', [np.array([[0.2, 0.1, 0.6, 0.9], [0.5, 0.5, 0.9, 0.7]]), None]
)
def test_stage_statistics_equal_naive_loops(dims, boxes):
    rng = np.random.default_rng(dims)
    rois, points = rng.random((5, 2 * dims)), rng.random((5, 9, dims)) * 1.5 - 0.25
    (found,) = stage_statistics([Stage('a', rois, points)], boxes, (3, 2))
    assert found.name == 'a' and found.points == 45
    assert found.roi_width == pytest.approx(rois[:, dims].mean())
    assert found.roi_height == pytest.approx(rois[:, dims + 1].mean())
    length = pytest.approx(rois[:, 5].mean()) if dims == 3 else None
    assert found.roi_length == length
    middle = rois[:, :2].mean(0)
    square = [(x - middle[0]) ** 2 + (y - middle[1]) ** 2 for x, y in rois[:, :2]]
    assert found.center_spread == pytest.approx(np.mean(square) ** 0.5)
    flat = points.reshape(-1, dims)
    out = [not all(0 <= v <= 1 for v in point) for point in flat]
    assert found.outside == pytest.approx(np.mean(out)) and 0 < np.mean(out) < 1
    bits = entropy_bits(density_map(points[..., :2], (3, 2)))
    assert found.entropy_bits == pytest.approx(bits, abs=1e-4)
    if boxes is None:
        assert found.in_boxes is None
    else:
        inside = [
            any(b[0] <= p[0] <= b[2] and b[1] <= p[1] <= b[3] for b in boxes)
            for p in flat
        ]
        assert found.in_boxes == pytest.approx(np.mean(inside))
    # Nothing near the picture has no entropy.
    (away,) = stage_statistics([Stage('a', rois, points + 9)], boxes)
    assert away.entropy_bits is None and away.outside == 1


def test_statistics_take_tensors_of_any_precision():
    rois, points = torch.rand(5, 4).bfloat16(), torch.rand(5, 9, 2).bfloat16()
    settings = dict(bandwidth=0.2, grid=(8, 8))
    (half,) = stage_statistics([Stage('a', rois, points)], **settings)
    fine = Stage('a', rois.float().numpy(), points.float().numpy())
    assert [half] == stage_statistics([fine], **settings)
    assert 0 < half.entropy_bits <= 6
    assert stage_statistics([]) == []
