"""Regions of interest: initial grids, adjusting, and points inside them.

One code for images (D = 2: x, y) and videos (D = 3: x, y, t). A RoI is its center
followed by its size, ``(..., 2 * D)``, in units of the image (0..1 spans the image
edge to edge), always with x first. Everything here runs in float32 or better, also
under autocast and for half-precision models.
"""

import math
import operator
from typing import List, Sequence

import torch
from torch import Tensor

from .arguments import check_choice
from .ops import at_least_float32

ROI_INITS = ('half', 'cell', 'whole', 'random', 'square')
TIME_OFFSETS = ('spread', 'middle')

# Bounds that no sensible RoI reaches; they keep exploding or collapsing RoIs finite,
# forward and backward, without touching any value of a healthy model.
MIN_SIZE, _MAX_SIZE, _MAX_CENTER = 1e-6, 1e4, 1e4
_MAX_MOVE, _MAX_LOG_SCALE = 1e3, 16.0

# Added to the standard deviation of the offsets (authors' training code).
OFFSET_EPS = 1e-7


def split_evenly(num: int) -> List[int]:
    """Split ``num`` cells into ``round(sqrt(num))`` lines as equal as possible.

    Any ``num >= 1`` makes a grid this way: 49 gives seven lines of 7, 10 gives
    lines of 4, 3, 3.

    Example:
        >>> split_evenly(10)
        [4, 3, 3]
    """
    lines = max(1, round(math.sqrt(num)))
    short, longer = divmod(num, lines)
    return [short + 1] * longer + [short] * (lines - longer)


def _spread(num: int) -> Tensor:
    """``num`` numbers from 0 to 1, both included; 0.5 when there is only one."""
    if num == 1:
        return torch.full((1,), 0.5)
    return torch.arange(num, dtype=torch.float32) / (num - 1)


def _cells(num: int) -> Tensor:
    """Centers of ``num`` equal cells of [0, 1]."""
    return (torch.arange(num, dtype=torch.float32) + 0.5) / num


def init_rois(num_tokens: int, mode: str = 'half') -> Tensor:
    """Initial image RoIs (paper, appendix A.3 and Table 9).

    Tokens stand in columns (:func:`split_evenly`): x is the slow index, y the fast
    one, as in the authors' checkpoints. When ``num_tokens`` is no square, the first
    columns hold one token more than the last.

    Args:
        num_tokens: N, at least 1.
        mode: 'half' (size 0.5 x 0.5, all inside the image), 'cell' (tiling the
            image without overlap), 'whole' (the image itself, N times), 'random'
            (centers uniform on [0, 1], size 0.5 x 0.5: the paper's detector) or
            'square' ('half' for the largest square number of tokens, 'whole' for the
            rest: the bootstrapped models).

    Returns:
        Tensor (N, 4): x, y, w, h in 0..1.

    Raises:
        ValueError: for an unknown mode.

    Example:
        >>> init_rois(4, 'cell')[1].tolist()
        [0.25, 0.75, 0.5, 0.5]
    """
    check_choice('roi_init', mode, ROI_INITS)
    if mode == 'random':
        return torch.cat(
            [torch.rand(num_tokens, 2), torch.full((num_tokens, 2), 0.5)], 1
        )
    if mode == 'square':
        square = math.isqrt(num_tokens) ** 2
        rest = init_rois(num_tokens - square, 'whole')
        return torch.cat([init_rois(square, 'half'), rest])
    if mode == 'whole':
        return torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(num_tokens, 1)
    columns = split_evenly(num_tokens)
    xs = _spread(len(columns)) if mode == 'half' else _cells(len(columns))
    rois = []
    for x, num_rows in zip(xs, columns):
        ys = _spread(num_rows) if mode == 'half' else _cells(num_rows)
        if mode == 'half':
            x, ys, width, height = 0.25 + 0.5 * x, 0.25 + 0.5 * ys, 0.5, 0.5
        else:
            width, height = 1 / len(columns), 1 / num_rows
        rois.append(
            torch.stack(
                [
                    x.expand_as(ys),
                    ys,
                    torch.full_like(ys, width),
                    torch.full_like(ys, height),
                ],
                1,
            )
        )
    return torch.cat(rois)


def inflate_rois(rois: Tensor, inflation: int) -> Tensor:
    """Repeat image RoIs along time as tubes (paper, section 3.2, video).

    Copy k of ``inflation`` covers the k-th equal part of the clip; copies are the
    outer index.

    Args:
        rois: (N, 4) as x, y, w, h.
        inflation: n_t, at least 1.

    Returns:
        Tensor (n_t * N, 6): x, y, t, w, h, l.
    """
    times = _cells(inflation).to(rois).repeat_interleave(len(rois))[:, None]
    copies = rois.repeat(inflation, 1)
    return torch.cat(
        [copies[:, :2], times, copies[:, 2:], torch.full_like(times, 1 / inflation)], 1
    )


def corners_to_rois(corners: Tensor) -> Tensor:
    """(..., 2D) lower corner and upper corner -> center and size."""
    lower, upper = corners.chunk(2, -1)
    return torch.cat([(lower + upper) / 2, upper - lower], -1)


def rois_to_corners(rois: Tensor) -> Tensor:
    """(..., 2D) center and size -> lower corner and upper corner."""
    center, size = rois.chunk(2, -1)
    return torch.cat([center - size / 2, center + size / 2], -1)


def adjust_rois(rois: Tensor, deltas: Tensor) -> Tensor:
    """Move and scale RoIs by deltas in units of their size (paper, equations 7 and 8).

    ``center + delta * |size|`` and ``|size| * exp(delta)``. Moves beyond +-1000 sizes,
    exponents beyond +-16, sizes outside [1e-6, 1e4] and centers beyond +-1e4 are
    clamped, so that nothing overflows.

    Args:
        rois: (..., 2D) center and size.
        deltas: (..., 2D), broadcastable against ``rois``.

    Returns:
        Tensor (..., 2D), float32 or float64.
    """
    center, size = at_least_float32(rois).chunk(2, -1)
    move, log_scale = at_least_float32(deltas).chunk(2, -1)
    size = size.abs()
    move = move.clamp(-_MAX_MOVE, _MAX_MOVE)
    center = (center + move * size).clamp(-_MAX_CENTER, _MAX_CENTER)
    size = size * log_scale.clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE).exp()
    return torch.cat([center, size.clamp(MIN_SIZE, _MAX_SIZE)], -1)


def init_offsets(
    num_points: int, spatial_dims: int = 2, time_offsets: str = 'spread'
) -> Tensor:
    """Initial offsets of a RoI's sampling points: a grid of cell centers minus 0.5.

    The grid has rows (:func:`split_evenly`) and x runs fastest; the last row of a
    number that is no square holds fewer points.

    Args:
        num_points: P, at least 1.
        spatial_dims: D, 2 or 3.
        time_offsets: of tubes. 'spread': the points share out the tube's length
            among them, P instants, as little related to x and y as
            :func:`_time_order` can. 'middle': all zero, as the authors inflate image
            models: every point lies at the tube's middle instant, and until the
            offsets differ their gradient is about 1e6 times what it is with 'spread'
            (their standardisation divides by a deviation of 0 plus 1e-7).

    Returns:
        Tensor (P, D) in -0.5..0.5, x first.

    Raises:
        ValueError: for an unknown ``time_offsets``.
    """
    check_choice('time_offsets', time_offsets, TIME_OFFSETS)
    rows = split_evenly(num_points)
    offsets = (
        torch.cat(
            [
                torch.stack([_cells(columns), y.expand(columns)], 1)
                for y, columns in zip(_cells(len(rows)), rows)
            ]
        )
        - 0.5
    )
    if spatial_dims == 3:
        times = torch.zeros(num_points)
        if time_offsets == 'spread':
            times = _cells(num_points)[_time_order(rows)] - 0.5
        offsets = torch.cat([offsets, times[:, None]], 1)
    return offsets


def _time_order(rows: Sequence[int]) -> List[int]:
    """A permutation of a grid's points which has little to do with where they lie.

    Multiples of a step, modulo P: of all steps that reach every point, the one whose
    largest covariance with x and y is the least. (In plain numbers: models are also
    built where tensors have no values.)

    Args:
        rows: points in each row, from the top.
    """
    num = sum(rows)
    xs = [(i + 0.5) / columns - 0.5 for columns in rows for i in range(columns)]
    ys = [(i + 0.5) / len(rows) - 0.5 for i, columns in enumerate(rows)]
    ys = [y for y, columns in zip(ys, rows) for _ in range(columns)]

    def relation(order: List[int]) -> float:
        late = [index - (num - 1) / 2 for index in order]
        covariances = [sum(map(operator.mul, late, axis)) for axis in (xs, ys)]
        return round(max(map(abs, covariances)), 6)  # equal ones stay equal

    steps = [step for step in range(1, num + 1) if math.gcd(step, num) == 1]
    return min(([i * s % num for i in range(num)] for s in steps), key=relation)


def points_in_rois(rois: Tensor, offsets: Tensor, eps: float = OFFSET_EPS) -> Tensor:
    """Sampling points from offsets standardised over each token's points.

    Paper, equation 3 and the sentence after it, in the authors' form:
    ``center + size * (o - mean) / (3 std)``, each axis by itself, with the unbiased
    standard deviation. (The paper's equation has a factor 0.5 which their code, and
    so their weights, do not.) A single point lies at the center.

    Args:
        rois: (B, N, 2D) center and size.
        offsets: (B, N, P, D).
        eps: added to the standard deviation.

    Returns:
        Tensor (B, N, P, D) in units of the image, float32 or float64.
    """
    center, size = at_least_float32(rois).unsqueeze(-2).chunk(2, -1)
    offsets = at_least_float32(offsets)
    offsets = offsets - offsets.mean(-2, keepdim=True)
    if offsets.shape[-2] > 1:
        std = offsets.std(-2, keepdim=True)
        offsets = offsets / (3 * (std + eps))
    return center + offsets * size
