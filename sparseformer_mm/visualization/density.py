"""Where sampling points are dense: kernel density estimates with a top-hat kernel.

The kernel is a disc of radius h (the bandwidth) around each point, as in figures 3 to
7 of the paper; the estimate is the mean of the discs, each with a volume of one. It
is that of scikit-learn's ``KernelDensity(kernel='tophat', bandwidth=h)``, which is
not needed here.
"""

import math
from typing import Sequence, Union

import numpy as np

# Of a picture's shorter side: about 11 of 224 pixels.
BANDWIDTH = 0.05
# Cells in which the entropy is measured: 12 bits where all are alike.
GRID = (64, 64)


def _positions(name: str, values, dims: int = 2) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 2 or values.shape[-1] != dims:
        raise ValueError(
            f'{name} must have shape (..., {dims}), x first, got {values.shape}'
        )
    return values.reshape(-1, dims)


def _check_bandwidth(bandwidth: float) -> None:
    if not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise ValueError(f'bandwidth must be above 0 and finite, got {bandwidth!r}')


def tophat_density(points, where, bandwidth: float, chunk: int = 1 << 22) -> np.ndarray:
    """Density of points at any positions of the plane.

    Args:
        points (array): The n points, (..., 2).
        where (array): M positions, (..., 2), in the same unit.
        bandwidth (float): Radius h of the kernel, in that unit. A point counts where
            it is nearer than h, not at h.
        chunk (int): Distances held in memory at a time.

    Returns:
        np.ndarray: (M,), float64, per area in that unit; its integral over the plane
        is 1.

    Raises:
        ValueError: for no points, wrong shapes or a bandwidth that is not above 0.

    Example:
        >>> density = tophat_density([[0.0, 0.0], [3.0, 0.0]], [[0.5, 0.5]], 1.0)
        >>> round(float(density[0]) * np.pi, 6)
        0.5
    """
    points, where = _positions('points', points), _positions('where', where)
    _check_bandwidth(bandwidth)
    if not len(points):
        raise ValueError('there are no points, and so no density')
    counts = np.zeros(len(where))
    step = max(1, chunk // len(points))
    for start in range(0, len(where), step):
        part = where[start : start + step, None]
        near = ((part - points) ** 2).sum(-1) < bandwidth**2
        counts[start : start + step] = near.sum(1)
    return counts / (len(points) * math.pi * bandwidth**2)


def density_map(
    points,
    size: Sequence[float] = (1, 1),
    bandwidth: float = BANDWIDTH,
    grid: Sequence[int] = GRID,
) -> np.ndarray:
    """Density of sampling points on a grid over a picture.

    Args:
        points (array): Relative to the picture, x first, (..., 2); those outside
            count for the discs that reach into it, and for the number of points.
        size (Sequence[float]): The picture's width and height, in pixels or any
            unit: only their ratio matters. The kernel is a disc in pixels.
        bandwidth (float): Radius of the kernel in units of the picture's shorter
            side. For a radius of r pixels give ``r / min(width, height)``.
        grid (Sequence[int]): Rows and columns of equal cells over the picture.

    Returns:
        np.ndarray: (rows, columns) at the centers of the cells, float64, per area of
        the picture: 1 is the density of points spread evenly over it. Over the plane
        it integrates to 1, so that the mean of the map is the share of the kernels'
        mass inside the picture, as exactly as the grid is fine.

    Example:
        >>> density_map([[0.25, 0.5]], bandwidth=0.2, grid=(1, 2)).round(3).tolist()
        [[7.958, 0.0]]
    """
    points = _positions('points', points)
    _check_bandwidth(bandwidth)
    rows, columns = (int(cells) for cells in grid)
    if not len(points):
        raise ValueError('there are no points, and so no density')
    if min(rows, columns) < 1:
        raise ValueError(f'grid must have at least one cell, got {tuple(grid)}')
    width, height = (float(side) for side in size)
    if min(width, height) <= 0:
        raise ValueError(f'size must be above 0, got {tuple(size)}')
    radius = bandwidth * min(width, height)
    points = points[np.isfinite(points).all(1)] * [width, height]
    total = max(1, len(points))
    cell_x, cell_y = width / columns, height / rows
    points = points[
        (points > -radius).all(1) & (points < [width + radius, height + radius]).all(1)
    ]
    # Each row of cells cuts a disc in a stretch: add one where it starts, take it off
    # behind its end, and sum up along the row. The work is that of the discs' heights.
    first = np.floor((points[:, 1] - radius) / cell_y).astype(int)
    span = math.ceil(2 * radius / cell_y) + 2
    row = first[:, None] + np.arange(span)
    below = (row + 0.5) * cell_y - points[:, 1:]
    half = np.sqrt(np.maximum(radius**2 - below**2, 0))
    # Cells whose centers are in x - half ... x + half, without the ends.
    start = np.floor((points[:, :1] - half) / cell_x - 0.5).astype(int) + 1
    end = np.ceil((points[:, :1] + half) / cell_x - 0.5).astype(int)
    start, end = start.clip(0, columns), end.clip(0, columns)
    hit = (np.abs(below) < radius) & (row >= 0) & (row < rows) & (start < end)
    edges = np.zeros((rows, columns + 1), dtype=np.int64)
    np.add.at(edges, (row[hit], start[hit]), 1)
    np.add.at(edges, (row[hit], end[hit]), -1)
    counts = edges.cumsum(1)[:, :-1]
    return counts * (width * height) / (total * math.pi * radius**2)


def entropy_bits(density: Union[np.ndarray, Sequence]) -> float:
    """Entropy of a density map, in bits.

    Args:
        density (np.ndarray): Any shape, not negative. It is made to sum to 1 first,
            so points outside the picture do not count.

    Returns:
        float: 0 where all lies in one cell, ``log2(cells)`` where it is even, nan
        where the map is zero everywhere.
    """
    weights = np.asarray(density, dtype=np.float64).ravel()
    total = weights.sum()
    if not total > 0:
        return math.nan
    weights = weights[weights > 0] / total
    return float(abs((weights * np.log2(weights)).sum()))
