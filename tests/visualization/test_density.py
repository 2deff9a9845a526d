"""Top-hat kernel density: scikit-learn's values, units, borders, entropy."""

import math

import numpy as np
import pytest

from sparseformer_mm.visualization.density import (
    density_map,
    entropy_bits,
    tophat_density,
)


def cell_centers(size, grid):
    (width, height), (rows, columns) = size, grid
    y, x = np.mgrid[:rows, :columns] + 0.5
    return np.stack([x / columns * width, y / rows * height], -1).reshape(-1, 2)


@pytest.mark.parametrize('bandwidth', [0.02, 0.3, 2.0])
def test_equals_scikit_learn(bandwidth):
    neighbors = pytest.importorskip('sklearn.neighbors')
    rng = np.random.default_rng(0)
    size, grid = (7.0, 5.0), (33, 46)
    points = rng.normal(0.5, 0.35, (4, 50, 2))  # some outside
    where = cell_centers(size, grid)
    radius = bandwidth * 5
    model = neighbors.KernelDensity(kernel='tophat', bandwidth=radius)
    model.fit(points.reshape(-1, 2) * size)
    expected = np.exp(model.score_samples(where))
    assert (expected > 0).mean() > 0 and expected.max() > 0
    ours = tophat_density(points * size, where, radius, chunk=999)
    # scikit-learn's sums leave up to 1e-14 where there is nothing.
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    # The map is per area of the picture.
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


def test_integral_over_the_plane_is_one():
    rng = np.random.default_rng(1)
    points = rng.random((40, 2))
    where = cell_centers((3.0, 3.0), (600, 600)) - 1  # far around the unit square
    density = tophat_density(points, where, 0.2)
    assert density.sum() * (3 / 600) ** 2 == pytest.approx(1, abs=1e-3)
    # A point at the edge has half its mass outside, one far away all of it.
    assert density_map([[0.0, 0.5]], grid=(400, 400)).mean() == pytest.approx(0.5, 0.02)
    both = density_map([[0.5, 0.5], [5.0, 0.5]], grid=(400, 400))
    assert both.mean() == pytest.approx(0.5, 0.02)
    assert density_map([[5.0, 5.0]]).sum() == 0


def test_the_rim_does_not_count():
    where = [[1.0, 0.0], [1 - 1e-9, 0.0], [0.0, 2.0]]
    density = tophat_density([[0.0, 0.0]], where, 1.0)
    assert (density > 0).tolist() == [False, True, False]


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
    'call, message',
    [
        (lambda: tophat_density(np.zeros((0, 2)), [[0, 0]], 1), 'no points'),
        (lambda: tophat_density([[0, 0]], [[0, 0]], 0), 'bandwidth must be above 0'),
        (lambda: tophat_density([[0, 0]], [0, 0], 1), r'where must have shape'),
        (lambda: density_map(np.zeros((3, 4, 3))), r'points must have .* \(3, 4, 3\)'),
        (lambda: density_map([[0, 0]], grid=(0, 4)), 'at least one cell'),
        (lambda: density_map([[0, 0]], size=(0, 4)), 'size must be above 0'),
        (lambda: density_map([[0, 0]], bandwidth=math.nan), 'bandwidth must be'),
        (lambda: density_map(np.zeros((0, 2))), 'no points'),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
