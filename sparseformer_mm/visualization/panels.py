"""The painter: rows of pictures with rectangles and dots on them, pixel by pixel.

Needs matplotlib. mmengine's Visualizer paints on one picture, neither rows of them nor
titles or legends, and resamples its pixels.
"""

import math
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Rectangles(NamedTuple):
    """Rectangles of one kind on a picture.

    Attributes:
        corners: (N, 4) x1, y1, x2, y2 relative to the image.
        colors: (N, 3) RGB in 0..1, or one colour for all, without labels.
        width: of the lines, in pixels.
        alpha: their opacity.
        dashed: instead of solid.
        halo: a dark line behind, which shows them on any image.
        labels: a text at each upper left corner, or nothing.
    """

    corners: np.ndarray
    colors: np.ndarray
    width: float = 2
    alpha: float = 1
    dashed: bool = False
    halo: bool = True
    labels: Sequence[str] = ()


class Panel(NamedTuple):
    """One picture and what is drawn on it; all that lies beyond it is cut off.

    Attributes:
        title: above the panel's column.
        image: (H, W, 3) RGB uint8.
        rectangles: the last ones are on top.
        points: (N, P, 2) dots relative to the image.
        point_colors: (N, 3) RGB in 0..1.
    """

    title: str
    image: np.ndarray
    rectangles: Sequence[Rectangles] = ()
    points: Optional[np.ndarray] = None
    point_colors: Optional[np.ndarray] = None


#: Names and colours.
Legend = Sequence[Tuple[str, Sequence[float]]]

_DPI = 128  # of which any number of pixels is an exact part
_MARGIN = 8  # pixels around an image, white but for
_RIM = 2  # the inner ones, where a line along the image's edge ends
_LINE = 18  # height of a line of text
_ROW_TITLE = 20


def token_colors(num_tokens: int) -> np.ndarray:
    """Well separated colours, (N, 3) RGB in 0..1; blue, too, stands out from black."""
    from matplotlib import colormaps

    # Neighbours in the token order are neighbours in the image; steps of the
    # golden ratio keep their hues apart.
    hues = np.arange(num_tokens) * 0.6180339887 % 1
    return 0.2 + 0.8 * colormaps['hsv'](hues)[:, :3]


def heat_colors(density: np.ndarray, most: float) -> np.ndarray:
    """Colours of a density map, (H, W) -> (H, W, 3) RGB uint8; ``most`` is the top."""
    from matplotlib import colormaps

    relative = np.clip(density / most, 0, 1) if most > 0 else np.zeros(density.shape)
    return (colormaps['turbo'](relative)[..., :3] * 255).round().astype(np.uint8)


def heat_image(image: np.ndarray, density: np.ndarray, most: float) -> np.ndarray:
    """Lay the colours of a density map (H, W) over a picture (H, W, 3), RGB uint8.

    The picture's brightness shows through; ``most`` has the last colour of the scale.
    """
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed = 0.35 * grey + 0.65 * heat_colors(density, most)
    return mixed.round().astype(np.uint8)


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


# Fonts of other scripts; those installed are used beside matplotlib's own.
_SCRIPTS = ('Noto ', 'Source Han', 'WenQuanYi', 'PingFang', 'Microsoft YaHei', 'Malgun')


@lru_cache(maxsize=None)
def _fonts() -> Tuple[List[str], set]:
    """Families to take characters from, the user's own first, and what they have."""
    from matplotlib import font_manager as fonts
    from matplotlib import rcParams

    names = sorted({font.name for font in fonts.fontManager.ttflist})
    families = [*rcParams['font.family'], *(x for x in names if x.startswith(_SCRIPTS))]
    files = [fonts.findfont(fonts.FontProperties(family=[x])) for x in families]
    return families, {c for file in files for c in fonts.get_font(file).get_charmap()}


@lru_cache(maxsize=None)
def _check_characters(text: str) -> None:
    """Warn, once for each text, of characters that would be drawn as boxes."""
    lacking = [x for x in dict.fromkeys(text) if ord(x) not in _fonts()[1]]
    if lacking:
        warnings.warn(
            f'no font here has the characters {"".join(lacking)!r} of {text!r}: they '
            'are drawn as boxes. Install a font of that script that matplotlib finds, '
            'for instance Noto Sans (Debian, Ubuntu: fonts-noto-core, fonts-noto-cjk), '
            'or name one of yours in font.family of a matplotlibrc',
            stacklevel=2,
        )


def _text_style(text: str, size: float) -> dict:
    """How a text is drawn: as it is, '$' included, in any script."""
    _check_characters(text)
    return dict(fontsize=_points(size), parse_math=False, fontfamily=_fonts()[0])


def draw_panels(
    rows: Sequence[Sequence[Panel]],
    row_titles: Sequence[str] = (),
    legends: Sequence[Legend] = (),
    title: str = '',
) -> 'Figure':
    """Draw rows of panels, each image pixel as one of the figure.

    Args:
        rows: of any sizes; :func:`fit_image` is applied. Titles are above the first
            row, and where they change.
        row_titles: one per row, to its left.
        legends: one per row, below it.
        title: above everything.

    Returns:
        A matplotlib figure; ``figure.savefig(path)`` writes it. It needs no display
        and no closing.
    """
    from matplotlib.figure import Figure

    rows = [[p._replace(image=fit_image(p.image)) for p in row] for row in rows]
    widths = [
        max(row[i].image.shape[1] for row in rows if i < len(row)) + 2 * _MARGIN
        for i in range(max(map(len, rows)))
    ]
    heights = [max(p.image.shape[0] for p in row) + 2 * _MARGIN for row in rows]
    left = _ROW_TITLE if row_titles else 0
    total = left + sum(widths)
    lines = [_legend_lines(legend, total - left - _MARGIN) for legend in legends]
    lines = lines or [[]] * len(rows)
    titles = [[panel.title for panel in row] for row in rows]
    titled = [i == 0 or titles[i] != titles[i - 1] for i in range(len(rows))]
    y = _ROW_TITLE if title else 0
    bottom = y + _LINE * (sum(titled) + sum(map(len, lines))) + sum(heights)
    figure = Figure(figsize=(total / _DPI, bottom / _DPI), dpi=_DPI)

    def write(x, y, text, size, **kwargs):
        # From pixels, y downwards, to shares of the figure.
        kwargs.update(_text_style(text, size))
        figure.text(x / total, 1 - y / bottom, text, **kwargs)

    if title:
        write(left + _MARGIN, 15, _shorten(title, (total - left) // 9), 15)
    for row, row_height, with_titles, i in zip(rows, heights, titled, range(len(rows))):
        x = left
        y += _LINE * with_titles
        if row_titles:
            # About seven pixels a letter.
            text = _shorten(row_titles[i], row_height // 7)
            middle = dict(rotation=90, ha='center', va='center')
            write(_ROW_TITLE / 2 + 2, y + row_height / 2, text, 11, **middle)
        for panel, column_width in zip(row, widths):
            height, width = panel.image.shape[:2]
            if with_titles:
                text = _shorten(panel.title, column_width // 9)
                write(x + _MARGIN + width / 2, y - 2, text, 15, ha='center')
            _draw_panel(figure, panel, x + _MARGIN, bottom - y - _MARGIN - height)
            x += column_width
        y += row_height
        for line in lines[i]:
            for offset, name, color in line:
                where = left + _MARGIN + offset
                write(where, y + 11, '\u25a0', 15, color=color)
                write(where + 13, y + 10, name, 11)
            y += _LINE
    return figure


def figure_pixels(figure: 'Figure') -> np.ndarray:
    """A figure of :func:`draw_panels` as (H, W, 3) RGB uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


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


def _points(pixels: float) -> float:
    """Matplotlib measures lines and dots in 1/72 inch."""
    return pixels * 72 / _DPI


def _draw_panel(figure: 'Figure', panel: Panel, left: int, low: int) -> None:
    """Draw without axes: these are slow, and resample an image."""
    from matplotlib.collections import CircleCollection, PatchCollection
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text
    from matplotlib.transforms import Affine2D, Bbox, IdentityTransform

    height, width = panel.image.shape[:2]
    # From shares of the image, y downwards, to pixels of the figure.
    place = Affine2D().scale(width, -height).translate(left, low + height)
    rim = np.array([-1, -1, 2, 2]) * _RIM
    inside = Bbox.from_bounds(*([left, low, width, height] + rim))

    def add(artist):
        figure.add_artist(artist, clip=False)
        artist.set_clip_box(inside)

    figure.figimage(panel.image, left, low, zorder=-1)
    for rectangles in panel.rectangles:
        corners = np.asarray(rectangles.corners, dtype=float).reshape(-1, 4)
        patches = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]
        strokes = [(rectangles.colors, rectangles.width, rectangles.alpha)]
        if rectangles.halo:
            strokes.insert(0, ('black', rectangles.width + 1.5, 0.6 * rectangles.alpha))
        for colors, line_width, alpha in strokes if patches else ():
            style = dict(facecolor='none', edgecolor=colors, alpha=alpha)
            style.update(linewidth=_points(line_width), joinstyle='miter', snap=True)
            dashes = (0, (3, 2)) if rectangles.dashed else 'solid'
            add(PatchCollection(patches, transform=place, linestyle=dashes, **style))
        for corner, text, color in zip(corners, rectangles.labels, rectangles.colors):
            x, y = corner[:2] * [width, height]
            # Above the rectangle, or inside where there is no room above.
            above = y > _LINE
            x = np.clip(x, 0, max(0, width - 7 * len(text)))
            y = y - 3 if above else max(y, 0) + 4
            dark = np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5
            add(
                Text(
                    left + x,
                    low + height - y,
                    text,
                    transform=IdentityTransform(),
                    color='white' if dark else 'black',
                    va='bottom' if above else 'top',
                    bbox=dict(facecolor=color, edgecolor='none', pad=1),
                    clip_on=True,
                    zorder=4,
                    **_text_style(text, 11),
                )
            )
    if panel.points is not None:
        colors = np.asarray(panel.point_colors).repeat(panel.points.shape[1], axis=0)
        add(
            CircleCollection(
                [math.pi * _points(2) ** 2],
                offsets=panel.points.reshape(-1, 2),
                offset_transform=place,
                transform=IdentityTransform(),
                facecolor=colors,
                edgecolor='black',
                linewidth=_points(0.5),
                zorder=3,
            )
        )
