"""How much of the sampling lies on the object, stage by stage."""

from typing import NamedTuple, Sequence

import torch
from torch import Tensor


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
