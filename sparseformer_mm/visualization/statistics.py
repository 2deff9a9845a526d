"""Where the sampling is and how much of it lies on the object, stage by stage.

Nothing here runs inside a model: hand on the ``stages`` of
:meth:`.SparseFormer.forward_intermediates`, or of :func:`~.recording.record` around a
library's own call.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from .density import BANDWIDTH, GRID, density_map, entropy_bits


class FocusGain(NamedTuple):
    """Focus of a model over a set of images.

    Attributes:
        shares (Tensor): Mean share of points inside the box, one number per
            sampling stage, shape (S,).
        first (float): Share at the first stage.
        last (float): Share at the last stage.
        gain (float): ``last - first``; above 0 where the model focuses.
        ratio (float): ``last / first``; infinite if ``first`` is 0 and
            ``last`` is not, 1 if both are.
    """

    shares: Tensor
    first: float
    last: float
    gain: float
    ratio: float


def focus_share(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the share of sampling points inside the object's box.

    Args:
        points (Tensor): Sampling points relative to the image, x first, of
            N tokens with P points each, shape (B, N, P, 2).
        boxes (Tensor): One box per image, corners (x1, y1, x2, y2) relative
            to the image (0 and 1 are its outer edges), shape (B, 4).

    Returns:
        Tensor: Numbers in 0..1, float32, shape (B,). A point on the border
        of the box is inside.

    Example:
        >>> points = torch.tensor([0.2, 0.6, 0.5, 0.5]).view(1, 1, 2, 2)
        >>> focus_share(points, torch.tensor([[0.4, 0.4, 0.8, 0.8]]))
        tensor([0.5000])
    """
    if points.ndim != 4 or points.shape[-1] != 2:
        raise ValueError(
            'points must have shape (B, N, P, 2), got '
            f'{tuple(points.shape)}; of video points pass the '
            'first two numbers (x, y)'
        )
    if boxes.shape != (len(points), 4):
        raise ValueError(
            f'boxes must have shape ({len(points)}, 4) to match '
            f'the points, got {tuple(boxes.shape)}'
        )
    if points.shape[1] == 0 or points.shape[2] == 0:
        raise ValueError(
            f'there are no points to count in points of shape {tuple(points.shape)}'
        )
    # In half precision the borders would move by up to 1/2000 of the image.
    points, boxes = points.float(), boxes.float().to(points.device)
    lower, upper = boxes[:, None, None, :2], boxes[:, None, None, 2:]
    inside = ((points >= lower) & (points <= upper)).all(dim=-1)
    return inside.float().mean(dim=(1, 2))


def focus_gain(stage_shares: Sequence[Tensor]) -> FocusGain:
    """Compare the last sampling stage with the first.

    Args:
        stage_shares (Sequence[Tensor]): :func:`focus_share` of every
            sampling stage, first stage first: S tensors of shape (B,), or
            one of shape (S, B).

    Returns:
        FocusGain: Means over the images and how they rise.
    """
    if len(stage_shares) == 0 or len(stage_shares[0]) == 0:
        raise ValueError('focus_gain needs at least one stage and one image')
    shares = torch.stack([share.float().mean() for share in stage_shares])
    first, last = float(shares[0]), float(shares[-1])
    ratio = 1.0
    if last > 0:
        ratio = last / first if first > 0 else float('inf')
    elif first > 0:
        ratio = 0.0
    return FocusGain(shares, first, last, last - first, ratio)


class StageStatistics(NamedTuple):
    """One sampling stage of B pictures or clips in numbers.

    Every tensor is float32, on the CPU, of shape (B,), one number per picture, and in
    units of the picture (of the clip along time).

    Attributes:
        name (str): 'focusing.0', ..., 'cortex.0'.
        roi_width, roi_height (Tensor): Mean over the tokens' RoIs.
        roi_length (Tensor, optional): The same along time; None for pictures.
        center_spread (Tensor): Root mean square distance of the RoIs' centers (x, y)
            from their mean.
        outside (Tensor): Share of sampling points outside the picture, or before or
            after the clip. A point on the border is inside.
        entropy (Tensor): Of the density map of the points in x and y, in bits; see
            :func:`~.density.entropy_bits`. nan where no point is near the picture.
        focus (Tensor, optional): Share of points inside the boxes, nan for a picture
            without any; None if no boxes were given.
    """

    name: str
    roi_width: Tensor
    roi_height: Tensor
    roi_length: Optional[Tensor]
    center_spread: Tensor
    outside: Tensor
    entropy: Tensor
    focus: Optional[Tensor]

    def means(self) -> Dict[str, float]:
        """Mean of each number over the pictures which have it, by its name."""
        fields = self._asdict()
        del fields['name']
        return {
            key: float(values.nanmean())
            for key, values in fields.items()
            if values is not None and not values.isnan().all()
        }


def stage_statistics(
    stages: Sequence,
    boxes: Optional[Sequence] = None,
    sizes: Optional[Sequence[Sequence[float]]] = None,
    bandwidth: float = BANDWIDTH,
    grid: Sequence[int] = GRID,
) -> List[StageStatistics]:
    """Put what a backbone recorded into numbers.

    Args:
        stages (Sequence[StageRecord]): ``rois`` (B, N, 2D) and ``points``
            (B, N, P, D) of each stage, D = 2 or 3, on any device, of any precision.
        boxes (Sequence, optional): For each of the B pictures an array or tensor
            (n, 4) of true boxes, corners x1, y1, x2, y2 relative to the picture; n may
            be 0, or the entry None. With several, a point counts once. Of clips, the
            boxes hold at all times.
        sizes (Sequence, optional): Width and height of each picture, for the shape of
            the density's kernel; squares by default.
        bandwidth (float): Radius of the density's kernel in units of the picture's
            shorter side.
        grid (Sequence[int]): Rows and columns of the density map whose entropy is
            measured.

    Returns:
        List[StageStatistics]: One per stage, in their order.

    Raises:
        ValueError: for boxes or sizes which do not fit the number of pictures.

    Example:
        >>> from sparseformer_mm import SparseFormer
        >>> model = SparseFormer('tiny', num_tokens=9, cortex_depth=1).eval()
        >>> seen = model.forward_intermediates(torch.rand(1, 3, 64, 64))
        >>> first = stage_statistics(seen.stages)[0]
        >>> first.name, first.roi_width.tolist(), first.outside.tolist()
        ('focusing.0', [0.5], [0.0])
    """
    num_pictures = len(stages[0].rois) if len(stages) else 0
    for name, given in (('boxes', boxes), ('sizes', sizes)):
        if given is not None and len(given) != num_pictures:
            raise ValueError(
                f'{name} must have one entry for each of the {num_pictures} pictures, '
                f'got {len(given)}'
            )
    sizes = [(1, 1)] * num_pictures if sizes is None else sizes
    result = []
    for stage in stages:
        # In half precision the borders would move by up to 1/2000 of the image.
        rois, points = (x.detach().float().cpu() for x in (stage.rois, stage.points))
        dims = points.shape[-1]
        centers = rois[..., :2]
        spread = (centers - centers.mean(1, keepdim=True)).square().sum(-1)
        outside = ((points < 0) | (points > 1)).any(-1)
        flat = points[..., :2].flatten(1, 2)
        entropy = [
            entropy_bits(density_map(xy.numpy(), size, bandwidth, grid))
            for xy, size in zip(flat, sizes)
        ]
        focus = None
        if boxes is not None:
            focus = torch.tensor(
                [share_in_boxes(xy, one) for xy, one in zip(flat, boxes)]
            )
        result.append(
            StageStatistics(
                stage.name,
                rois[..., dims].mean(1),
                rois[..., dims + 1].mean(1),
                rois[..., 5].mean(1) if dims == 3 else None,
                spread.mean(1).sqrt(),
                outside.float().mean((1, 2)),
                torch.tensor(entropy, dtype=torch.float32),
                focus,
            )
        )
    return result


def share_in_boxes(points, boxes) -> float:
    """Share of points that lie in at least one of several boxes.

    Args:
        points (Tensor or np.ndarray): (..., 2), x first.
        boxes (Tensor or np.ndarray): (n, 4) corners x1, y1, x2, y2 in the same unit,
            border included. None stands for n = 0.

    Returns:
        float: in 0..1; nan without any box.
    """
    boxes = torch.as_tensor([] if boxes is None else boxes).detach().float().cpu()
    boxes = boxes.reshape(-1, 1, 4)
    points = torch.as_tensor(points).detach().float().cpu().reshape(-1, 2)
    if not len(boxes):
        return float('nan')
    inside = (points >= boxes[..., :2]) & (points <= boxes[..., 2:])
    return float(inside.all(-1).any(0).float().mean())


def share_in_area(points, area) -> float:
    """Share of points on the marked pixels of a picture.

    Args:
        points (Tensor or np.ndarray): (..., 2) relative to the picture, x first.
        area (np.ndarray): (H, W) bool. Points outside the picture are in no area.

    Returns:
        float: in 0..1.
    """
    area = np.asarray(area, dtype=bool)
    points = torch.as_tensor(points).detach().double().cpu().numpy().reshape(-1, 2)
    height, width = area.shape
    x, y = np.floor(points * [width, height]).astype(int).T
    there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(area[y[there], x[there]].sum() / len(points))
