"""Where sampling points are, in numbers: focus, outside, density, entropy.

Nothing here runs inside a model: stages come from a classifier's ``features()``, a
backbone's ``forward_intermediates()`` or :func:`~.recording.record`.
"""

import math
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch

# Radius of the density's kernel in units of a picture's shorter side: 11 of 224 pixels.
BANDWIDTH = 0.05
# Cells in which the entropy is measured: 12 bits where all are alike.
GRID = (64, 64)


def share_in_boxes(points, boxes) -> float:
    """Share of points that lie in at least one true box.

    Args:
        points: tensor or array (..., 2) or, of a clip, (..., 3): x, y(, t).
        boxes: tensor or array (n, 4) of corners x1, y1, x2, y2 in the same unit, the
            border included; (T, n, 4) for boxes on each of T frames of a clip, where a
            point is in those of the frame that is there at its time, and before and
            after the clip in none. None stands for n = 0.

    Returns:
        0 to 1; nan without any box.
    """
    boxes = torch.as_tensor([] if boxes is None else boxes).detach().float().cpu()
    if not boxes.numel():
        return math.nan
    if boxes.dim() < 3:
        boxes = boxes.reshape(1, -1, 4)
    # In half precision the borders would move by up to 1/2000 of the image.
    points = torch.as_tensor(points).detach().float().cpu().flatten(0, -2)
    frames = torch.zeros(len(points), dtype=torch.long)
    if len(boxes) > 1:
        frames = (points[:, 2] * len(boxes)).long().clamp(0, len(boxes) - 1)
    lower, upper = boxes[frames].split(2, dim=-1)
    places = points[:, None, :2]
    inside = ((places >= lower) & (places <= upper)).all(-1).any(-1)
    if len(boxes) > 1:
        inside &= (points[:, 2] >= 0) & (points[:, 2] <= 1)
    return float(inside.float().mean())


def share_in_area(points, area: np.ndarray) -> float:
    """Share of points on the marked pixels of a picture.

    Args:
        points: tensor or array (..., 2) relative to the picture, x first.
        area: (H, W) bool. Points outside the picture are in no area.
    """
    area = np.asarray(area, dtype=bool)
    points = torch.as_tensor(points).detach().double().cpu().numpy().reshape(-1, 2)
    height, width = area.shape
    x, y = np.floor(points * [width, height]).astype(int).T
    there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(area[y[there], x[there]].sum() / len(points))


def focus_gain(shares: Sequence[float]) -> Dict[str, Optional[float]]:
    """Compare the last sampling stage with the first.

    Args:
        shares: :func:`share_in_boxes` of each stage in order, or means of it.

    Returns:
        ``first`` and ``last`` share; ``gain``, their difference, above 0 where the
        model focuses; ``ratio`` of the last to the first, None if the first is 0.
    """
    first, last = float(shares[0]), float(shares[-1])
    ratio = last / first if first > 0 else None
    return dict(first=first, last=last, gain=last - first, ratio=ratio)


def density_map(
    points,
    size: Sequence[float] = (1, 1),
    bandwidth: float = BANDWIDTH,
    grid: Sequence[int] = GRID,
) -> np.ndarray:
    """Density of sampling points on a grid over a picture.

    The mean of discs around the points (top-hat kernel) as in figures 3 to 7 of the
    paper, equal to scikit-learn's KernelDensity. But of 49 x 36 points on 448 x 448
    cells, that takes 2 s, scipy's cKDTree 0.3 s and this 0.013 s.

    Args:
        points: array (..., 2) relative to the picture, x first; those outside count
            for the discs that reach into it, and for the number of points.
        size: width and height of the picture, in pixels or any unit: only their ratio
            matters. The kernel is a disc in pixels.
        bandwidth: radius of the kernel in units of the picture's shorter side. For a
            radius of r pixels give ``r / min(width, height)``. A point counts where it
            is nearer than that.
        grid: rows and columns of equal cells over the picture.

    Returns:
        (rows, columns), float64, at the centers of the cells, per area of the picture:
        1 is the density of points spread evenly over it. The mean of the map is the
        share of the kernels' mass inside the picture, as exactly as the grid is fine.

    Raises:
        ValueError: for no points, a wrong shape, or a bandwidth, grid or size that is
            not above 0.

    Example:
        >>> density_map([[0.25, 0.5]], bandwidth=0.2, grid=(1, 2)).round(3).tolist()
        [[7.958, 0.0]]
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(
            f'points must have shape (..., 2), x first, got {points.shape}'
        )
    if not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise ValueError(f'bandwidth must be above 0 and finite, got {bandwidth!r}')
    rows, columns = (int(cells) for cells in grid)
    if not points.size:
        raise ValueError('there are no points, and so no density')
    if min(rows, columns) < 1:
        raise ValueError(f'grid must have at least one cell, got {tuple(grid)}')
    width, height = (float(side) for side in size)
    if min(width, height) <= 0:
        raise ValueError(f'size must be above 0, got {tuple(size)}')
    radius = bandwidth * min(width, height)
    points = points.reshape(-1, 2)
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


def entropy_bits(density) -> float:
    """Entropy in bits of a density map of any shape, not negative.

    It is made to sum to 1 first, so points outside the picture do not count: 0 where
    all lies in one cell, ``log2(cells)`` where it is even, nan where it is all zero.
    """
    weights = np.asarray(density, dtype=np.float64).ravel()
    total = weights.sum()
    if not total > 0:
        return math.nan
    weights = weights[weights > 0] / total
    return float(abs((weights * np.log2(weights)).sum()))


class StageStatistics(NamedTuple):
    """One sampling stage of one picture or clip in numbers, in units of it.

    Attributes:
        name: 'focusing.0', ..., 'cortex.0', ...
        points: how many, of all tokens.
        roi_width, roi_height: mean over the tokens' RoIs.
        roi_length: the same along time; None for pictures.
        center_spread: root mean square distance of the RoIs' centers (x, y) from their
            mean.
        outside: share of sampling points outside the picture, or before or after the
            clip. A point on the border is inside.
        entropy_bits: of the density map of the points in x and y, see
            :func:`entropy_bits`; None where no point is near the picture.
        in_boxes: share of points in true boxes; None where there are none.
    """

    name: str
    points: int
    roi_width: float
    roi_height: float
    roi_length: Optional[float]
    center_spread: float
    outside: float
    entropy_bits: Optional[float]
    in_boxes: Optional[float]


def stage_statistics(
    stages: Sequence,
    boxes=None,
    size: Sequence[float] = (1, 1),
    bandwidth: float = BANDWIDTH,
    grid: Sequence[int] = GRID,
) -> List[StageStatistics]:
    """Put what a model looked at in one picture or clip into numbers.

    Args:
        stages: :class:`~.recording.Stage` of each stage.
        boxes: true boxes, see :func:`share_in_boxes`; with several, a point counts
            once. (n, 4) of a clip hold at all times.
        size: width and height of the picture, for the shape of the density's kernel.
        bandwidth: of the density, see :func:`density_map`.
        grid: rows and columns of the density map whose entropy is measured.

    Returns:
        One per stage, in their order.

    Example:
        >>> from sparseformer_mm import build
        >>> from sparseformer_mm.visualization.recording import stages_of
        >>> model = build('tiny', num_tokens=9, cortex_depth=1).eval()
        >>> seen = model.features(torch.rand(1, 3, 64, 64))
        >>> first = stage_statistics(stages_of(seen.stages))[0]
        >>> first.name, first.roi_width, first.outside
        ('focusing.0', 0.5, 0.0)
    """

    def known(value: float) -> Optional[float]:
        return None if math.isnan(value) else value

    result = []
    for stage in stages:
        rois, points = (torch.as_tensor(x).float() for x in (stage.rois, stage.points))
        dims = points.shape[-1]
        sides = rois[:, dims:].mean(0).tolist()
        spread = (rois[:, :2] - rois[:, :2].mean(0)).square().sum(-1)
        outside = ((points < 0) | (points > 1)).any(-1)
        density = density_map(points[..., :2].numpy(), size, bandwidth, grid)
        result.append(
            StageStatistics(
                stage.name,
                outside.numel(),
                *sides[:2],
                sides[2] if dims == 3 else None,
                float(spread.mean().sqrt()),
                float(outside.float().mean()),
                known(entropy_bits(density)),
                known(share_in_boxes(points, boxes)),
            )
        )
    return result
