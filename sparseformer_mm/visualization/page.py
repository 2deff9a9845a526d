"""One HTML file in which a person steps through the sampling stages of pictures.

The file holds everything: pictures and density maps as data URIs, RoIs and points as
JSON, a script without libraries. It opens from a disk and asks no network.
"""

import base64
import html
import io
import json
from pathlib import Path
from typing import Sequence

import numpy as np

from .panels import fit_image, heat_colors, token_colors
from .recording import Look
from .report import look_numbers
from .statistics import BANDWIDTH, density_map

# Positions are whole numbers; the picture spans 0 ... 10000.
UNIT = 10000
# Longer side of an embedded density map.
_MAP_SIDE = 224


def _data_uri(image: np.ndarray, num_colors: int = 0) -> str:
    from PIL import Image

    picture = Image.fromarray(image)
    if num_colors:  # a palette makes the file of a map three times smaller
        picture = picture.quantize(num_colors)
    # Large photos would be megabytes as PNG; small pictures stay exact.
    is_photo = not num_colors and max(image.shape[:2]) > 256
    kind, settings = 'png', dict(optimize=True)
    if is_photo and image.shape[2] == 3:
        kind, settings = 'jpeg', dict(quality=88)
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return f'data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}'


def _whole(values: np.ndarray) -> list:
    return np.rint(np.asarray(values, dtype=float) * UNIT).astype(int).tolist()


def picture_data(look: Look, bandwidth: float = BANDWIDTH) -> dict:
    """What the page knows about one picture, ready for JSON.

    Args:
        look: at a picture, with N tokens of P points each in every stage.
        bandwidth: see :func:`~.statistics.density_map`.

    Returns:
        ``name``, ``title``, ``answer``; ``width``, ``height`` of the picture in
        pixels; ``image`` (data URI); ``boxes`` (n x 4 corners); ``area`` (data URI of
        a mask, or None); ``colors`` (N); ``tokens`` (indices, or None for all); and
        ``stages``: ``name``, ``rois`` (N x 4 corners), ``points`` (N x 2P, x and y in
        turn), ``density`` (data URI, one scale for all stages), ``inBoxes``,
        ``onArea`` (shares or None). Positions are in 1/10000 of the picture.
    """
    height, width = look.image.shape[:2]
    side = _MAP_SIDE / max(height, width)
    grid = [max(1, round(height * side)), max(1, round(width * side))]
    maps = [
        density_map(stage.points, (width, height), bandwidth, grid)
        for stage in look.stages
    ]
    most = max(float(density.max()) for density in maps)
    area = None
    if look.area is not None:
        # White, and opaque where disturbed.
        marks = np.full((*look.area.shape, 4), 255, dtype=np.uint8)
        marks[..., 3] = look.area * np.uint8(110)
        area = _data_uri(fit_image(marks, least=1, most=256))
    colors = (token_colors(look.num_tokens) * 255).round().astype(int)
    measured = look_numbers(look)['stages']
    return dict(
        name=look.name,
        title=look.title,
        answer=look.answer,
        width=width,
        height=height,
        image=_data_uri(fit_image(look.image, least=1)),
        boxes=_whole(look.boxes),
        area=area,
        colors=['#{:02x}{:02x}{:02x}'.format(*color) for color in colors],
        tokens=None if look.tokens is None else look.tokens.tolist(),
        stages=[
            dict(
                name=stage.name,
                rois=_whole(stage.corners),
                points=_whole(stage.points.reshape(len(stage.points), -1)),
                density=_data_uri(heat_colors(density, most), num_colors=64),
                inBoxes=numbers['in_boxes'],
                onArea=numbers['on_area'],
            )
            for stage, density, numbers in zip(look.stages, maps, measured)
        ],
    )


def write_page(
    path: Path,
    looks: Sequence[Look],
    title: str = 'Where it looks',
    shown: Sequence[str] = ('points', 'rois'),
    bandwidth: float = BANDWIDTH,
) -> None:
    """Write the page, all in one file.

    Args:
        path: of the HTML file.
        looks: at pictures, at least one.
        title: of the page.
        shown: what is drawn at first, any of 'points', 'rois' and 'density'.
        bandwidth: of the density maps.

    Raises:
        ValueError: without any picture.
    """
    if not looks:
        raise ValueError('a page needs at least one picture')
    pictures = [picture_data(look, bandwidth) for look in looks]
    data = json.dumps(
        dict(unit=UNIT, shown=list(shown), pictures=pictures),
        separators=(',', ':'),
        allow_nan=False,
    )
    # No name of a file or class may end the script element or begin a comment in it.
    for sign in '<>&':
        data = data.replace(sign, f'\\u{ord(sign):04x}')
    template = Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    parts = template.split('@@')  # @@NAME@@ stands for what is filled in
    assert parts[1::2] == ['TITLE', 'TITLE', 'DATA']
    parts[1] = parts[3] = html.escape(title)
    parts[5] = data
    path.write_text(''.join(parts), encoding='utf-8')
