"""Pictures of what a SparseFormer looks at. Needs matplotlib."""

from typing import TYPE_CHECKING, Optional, Sequence

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def token_colors(num_tokens: int) -> np.ndarray:
    """Return one well separated RGB colour per token, (N, 3) in 0..1."""
    from matplotlib import colormaps

    # Neighbours in the token order are neighbours in the image; steps of the
    # golden ratio keep their hues apart.
    hues = np.arange(num_tokens) * 0.6180339887 % 1
    return colormaps['hsv'](hues)[:, :3]


def light_colors(num_tokens: int) -> np.ndarray:
    """Token colours with some white: blue, too, stands out from a dark image."""
    return 0.2 + 0.8 * token_colors(num_tokens)


def heat_colors(density: np.ndarray, most: float) -> np.ndarray:
    """Colours of a density map, (H, W) -> (H, W, 3) RGB uint8; ``most`` is the top."""
    from matplotlib import colormaps

    relative = np.clip(density / most, 0, 1) if most > 0 else np.zeros(density.shape)
    return (colormaps['turbo'](relative)[..., :3] * 255).round().astype(np.uint8)


def heat_image(
    image: np.ndarray, density: np.ndarray, most: Optional[float] = None
) -> np.ndarray:
    """Lay the colours of a density map over a picture.

    Args:
        image (np.ndarray): (H, W, 3) RGB uint8; its brightness shows through.
        density (np.ndarray): (H, W), not negative.
        most (float, optional): What has the last colour of the scale; the maximum of
            this map if not given.

    Returns:
        np.ndarray: (H, W, 3) RGB uint8.
    """
    most = float(density.max()) if most is None else most
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed = 0.35 * grey + 0.65 * heat_colors(density, most)
    return mixed.round().astype(np.uint8)


def draw_stage(
    axes: 'Axes',
    image: np.ndarray,
    rois: Tensor,
    points: Tensor,
    box: Optional[Sequence[float]] = None,
) -> None:
    """Draw one image with the RoIs and sampling points of one stage.

    Args:
        axes (Axes): Where to draw.
        image (np.ndarray): (H, W, 3) RGB uint8.
        rois (Tensor): Centers and sizes (x, y, w, h) relative to the image,
            (N, 4).
        points (Tensor): Sampling points relative to the image, (N, P, 2).
        box (Sequence[float], optional): Corners (x1, y1, x2, y2) of the
            object relative to the image, drawn dashed.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    scale = np.array([width, height])
    rois = rois.detach().float().cpu().numpy()
    points = points.detach().float().cpu().numpy() * scale
    colors = token_colors(len(rois))
    _show_image(axes, image)
    corners = (rois[:, :2] - rois[:, 2:] / 2) * scale
    axes.add_collection(
        PatchCollection(
            [
                Rectangle(corner, *size)
                for corner, size in zip(corners, rois[:, 2:] * scale)
            ],
            facecolor='none',
            edgecolor=colors,
            linewidth=0.6,
            alpha=0.7,
        )
    )
    axes.scatter(
        points[..., 0].ravel(),
        points[..., 1].ravel(),
        s=2,
        linewidths=0,
        c=colors.repeat(points.shape[1], axis=0),
    )
    if box is not None:
        x1, y1, x2, y2 = np.asarray(box) * [width, height, width, height]
        axes.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                facecolor='none',
                edgecolor='white',
                linewidth=1,
                linestyle='--',
            )
        )


def _show_image(axes: 'Axes', image: np.ndarray) -> None:
    height, width = image.shape[:2]
    # Edges at whole numbers, so that 0 and 1 are the image's outer edges.
    axes.imshow(image, extent=(0, width, height, 0))
    # Points may lie outside the image; a small margin shows the nearest.
    axes.set_xlim(-0.03 * width, 1.03 * width)
    axes.set_ylim(1.03 * height, -0.03 * height)
    axes.set(xticks=[], yticks=[], autoscale_on=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_stages(
    images: Sequence[np.ndarray],
    stages: Sequence,
    boxes: Optional[Sequence] = None,
    row_titles: Optional[Sequence[str]] = None,
    column_titles: Optional[Sequence[str]] = None,
) -> 'Figure':
    """Draw images x sampling stages: one row per image.

    Args:
        images (Sequence[np.ndarray]): B pictures, (H, W, 3) RGB uint8.
        stages (Sequence[StageRecord]): What the backbone recorded for a
            batch of which ``images`` are the first: ``rois`` (B, N, 4) and
            ``points`` (B, N, P, 2).
        boxes (Sequence, optional): One box per image or None, corners
            relative to the image.
        row_titles (Sequence[str], optional): One per image.
        column_titles (Sequence[str], optional): One per stage; the records'
            names by default.

    Returns:
        Figure: A matplotlib figure; ``figure.savefig(path)`` writes it. It
        needs no display and no closing.
    """
    from matplotlib.figure import Figure

    # The picture itself is the left-most column.
    num_columns = len(stages) + 1
    figure = Figure(
        figsize=(1.6 * num_columns, 1.6 * len(images) + 0.3),
        dpi=150,
        layout='constrained',
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    grid = figure.subplots(len(images), num_columns, squeeze=False)
    titles = column_titles or [stage.name for stage in stages]
    for axes, title in zip(grid[0], ['image', *titles]):
        axes.set_title(title, fontsize=7)
    for row, image in enumerate(images):
        _show_image(grid[row, 0], image)
        if row_titles is not None:
            grid[row, 0].set_ylabel(row_titles[row], fontsize=7)
        box = None if boxes is None else boxes[row]
        for axes, stage in zip(grid[row, 1:], stages):
            draw_stage(axes, image, stage.rois[row], stage.points[row], box)
    return figure
