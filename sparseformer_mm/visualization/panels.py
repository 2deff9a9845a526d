"""Rows of pictures with frames and dots on them, pixel by pixel. Needs matplotlib."""

import math
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..models.rois import rois_to_corners
from .density import density_map
from .draw import heat_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Frames(NamedTuple):
    """Rectangles of one kind on a picture.

    Attributes:
        corners (np.ndarray): x1, y1, x2, y2 relative to the image, (N, 4).
        colors (np.ndarray): RGB in 0..1, (N, 3).
        width (float): Of the lines, in pixels.
        alpha (float): Their opacity.
        dashed (bool): Instead of solid.
        halo (bool): A dark line behind, which shows them on any image.
        labels (Sequence[str]): A text at each upper left corner, or nothing.
    """

    corners: np.ndarray
    colors: np.ndarray
    width: float = 2
    alpha: float = 1
    dashed: bool = False
    halo: bool = True
    labels: Sequence[str] = ()


class Panel(NamedTuple):
    """One picture and what is drawn on it.

    Attributes:
        title (str): Above the panel's column.
        image (np.ndarray): (H, W, 3) RGB uint8.
        frames (Sequence[Frames]): The last one is on top.
        points (np.ndarray, optional): Dots relative to the image, (N, P, 2).
        point_colors (np.ndarray, optional): RGB in 0..1, (N, 3).
    """

    title: str
    image: np.ndarray
    frames: Sequence[Frames] = ()
    points: Optional[np.ndarray] = None
    point_colors: Optional[np.ndarray] = None


Legend = Sequence[Tuple[str, Sequence[float]]]


class Row(NamedTuple):
    """One picture's or video's part of a sheet.

    Attributes:
        panels (List[Panel]): From left to right.
        legend (Legend): Names and colours below them.
        summary (str): For the terminal.
        title (str): Above the rows of its own file.
        more (Sequence[Tuple[str, List[Panel]]]): Names and panels of the rows of its
            own file, where they are more than ``panels``.
    """

    panels: List[Panel]
    legend: Legend
    summary: str
    title: str = ''
    more: Sequence[Tuple[str, List[Panel]]] = ()


_DPI = 128  # of which any number of pixels is an exact part
_BORDER = 8  # pixels around an image which show what lies outside
_LINE = 18  # height of a line of text
_ROW_TITLE = 20


def corners_of(rois: np.ndarray) -> np.ndarray:
    """Turn center and size (..., 4) into x1, y1, x2, y2."""
    return rois_to_corners(torch.from_numpy(rois)).numpy()


def fit_image(image: np.ndarray, least: int = 256, most: int = 448) -> np.ndarray:
    """Bring the longer side of an image to ``least`` ... ``most`` pixels.

    Small images are enlarged by a whole number, pixel by pixel, and so may
    exceed ``most``.
    """
    from PIL import Image

    height, width = image.shape[:2]
    longer = max(height, width)
    if longer < least:
        factor = math.ceil(least / longer)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    if longer > most:
        size = [max(1, round(side * most / longer)) for side in (width, height)]
        return np.asarray(Image.fromarray(image).resize(size, Image.BOX))
    return image


def density_panels(
    image: np.ndarray,
    stages: Sequence[Tuple[str, np.ndarray]],
    bandwidth: float,
    frames: Sequence[Frames] = (),
) -> List[Panel]:
    """Densities of sampling points over an image, in one scale for all stages.

    Args:
        image (np.ndarray): (H, W, 3) RGB uint8.
        stages (Sequence[tuple]): Name and points (..., 2) relative to the image of
            each stage.
        bandwidth (float): See :func:`~.density.density_map`.
        frames (Sequence[Frames]): Drawn on each.

    Returns:
        list[Panel]: One per stage.
    """
    image = fit_image(image)  # discs of small pictures are round then
    height, width = image.shape[:2]
    maps = [
        density_map(points, (width, height), bandwidth, (height, width))
        for _, points in stages
    ]
    most = max(float(density.max()) for density in maps)
    return [
        Panel(name, heat_image(image, density, most), frames)
        for (name, _), density in zip(stages, maps)
    ]


def draw_panels(
    rows: Sequence[Sequence[Panel]],
    row_titles: Sequence[str] = (),
    legends: Sequence[Legend] = (),
    title: str = '',
) -> 'Figure':
    """Draw rows of panels, each image pixel as one of the figure.

    Args:
        rows (Sequence[Sequence[Panel]]): Any sizes; :func:`fit_image` is
            applied. Titles are above the first row, and where they change.
        row_titles (Sequence[str]): One per row, to its left.
        legends (Sequence[Legend]): One per row, names and colours below it.
        title (str): Above everything.

    Returns:
        Figure: A matplotlib figure; ``figure.savefig(path)`` writes it. It
        needs no display and no closing. The panels are its axes, row by row.
    """
    from matplotlib.figure import Figure

    rows = [[p._replace(image=fit_image(p.image)) for p in row] for row in rows]
    num_columns = max(map(len, rows))
    widths = [
        max(row[i].image.shape[1] for row in rows if i < len(row)) + 2 * _BORDER
        for i in range(num_columns)
    ]
    heights = [max(p.image.shape[0] for p in row) + 2 * _BORDER for row in rows]
    left = _ROW_TITLE if row_titles else 0
    total = left + sum(widths)
    lines = [_legend_lines(legend, total - left - _BORDER) for legend in legends]
    below = [_LINE * len(line) for line in lines] or [0] * len(rows)
    titles = [[panel.title for panel in row] for row in rows]
    titled = [i == 0 or titles[i] != titles[i - 1] for i in range(len(rows))]
    above = _ROW_TITLE if title else 0
    bottom = above + _LINE * sum(titled) + sum(heights) + sum(below)
    figure = Figure(figsize=(total / _DPI, bottom / _DPI), dpi=_DPI)

    def write(x, y, text, size, **kwargs):
        # From pixels, y downwards, to shares of the figure.
        kwargs['fontsize'] = _points(size)
        figure.text(x / total, 1 - y / bottom, text, **kwargs)

    if title:
        write(left + _BORDER, 15, _shorten(title, (total - left) // 9), 15)
    y = above
    for i, row in enumerate(rows):
        x = left
        y += _LINE * titled[i]
        if row_titles:
            # About seven pixels a letter.
            write(
                _ROW_TITLE / 2 + 2,
                y + heights[i] / 2,
                _shorten(row_titles[i], heights[i] // 7),
                11,
                rotation=90,
                ha='center',
                va='center',
            )
        for panel, column_width in zip(row, widths):
            height, width = (side + 2 * _BORDER for side in panel.image.shape[:2])
            if titled[i]:
                title = _shorten(panel.title, column_width // 9)
                write(x + width / 2, y - 2, title, 15, ha='center')
            axes = figure.add_axes(
                (x / total, 1 - (y + height) / bottom, width / total, height / bottom)
            )
            _draw_panel(axes, panel)
            x += column_width
        y += heights[i]
        for line in lines[i] if lines else ():
            for offset, name, color in line:
                where = left + _BORDER + offset
                write(where, y + 11, '\u25a0', 15, color=color)
                write(where + 13, y + 10, name, 11)
            y += _LINE
    return figure


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f'{text[: most - 3]}...'


def _legend_lines(legend: Legend, width: int) -> List[list]:
    """Spread a legend over lines of (x in pixels, name, colour)."""
    lines: List[list] = [[]] if legend else []
    x = 0
    for name, color in legend:
        wanted = 13 + 7 * len(name) + 12
        if x and x + wanted > width:
            lines.append([])
            x = 0
        lines[-1].append((x, name, color))
        x += wanted
    return lines


def _draw_panel(axes: 'Axes', panel: Panel) -> None:
    height, width = panel.image.shape[:2]
    axes.imshow(panel.image, extent=(0, width, height, 0), interpolation='nearest')
    axes.set_xlim(-_BORDER, width + _BORDER)
    axes.set_ylim(height + _BORDER, -_BORDER)
    axes.set_axis_off()
    scale = np.array([width, height])
    for frames in panel.frames:
        _draw_frames(axes, frames, np.tile(scale, 2))
    if panel.points is not None:
        colors = np.asarray(panel.point_colors)
        axes.scatter(
            *(panel.points * scale).reshape(-1, 2).T,
            s=_points(4) ** 2,
            c=colors.repeat(panel.points.shape[1], axis=0),
            edgecolors='black',
            linewidths=_points(0.5),
            zorder=3,
        )


def _points(pixels: float) -> float:
    """Matplotlib measures lines and dots in 1/72 inch."""
    return pixels * 72 / _DPI


def _draw_frames(axes: 'Axes', frames: Frames, scale: np.ndarray) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    corners = np.asarray(frames.corners, dtype=float).reshape(-1, 4) * scale
    boxes = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]
    strokes = [(frames.colors, frames.width, frames.alpha)]
    if frames.halo:
        strokes.insert(0, ('black', frames.width + 1.5, 0.6 * frames.alpha))
    for colors, width, alpha in strokes if boxes else ():
        axes.add_collection(
            PatchCollection(
                boxes,
                facecolor='none',
                edgecolor=colors,
                linewidth=_points(width),
                linestyle=(0, (3, 2)) if frames.dashed else 'solid',
                alpha=alpha,
                joinstyle='miter',
                snap=True,
                zorder=2,
            ),
            autolim=False,
        )
    for (x1, y1, *_), text, color in zip(corners, frames.labels, frames.colors):
        # Above the frame, or inside where there is no room above.
        above = y1 > _LINE - _BORDER
        dark = np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5
        axes.text(
            np.clip(x1, 0, max(0, scale[0] - 7 * len(text))),
            y1 - 3 if above else max(y1, 0) + 4,
            text,
            fontsize=_points(11),
            color='white' if dark else 'black',
            ha='left',
            va='bottom' if above else 'top',
            bbox=dict(facecolor=color, edgecolor='none', pad=1),
            zorder=4,
        )
