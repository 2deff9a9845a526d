"""One HTML file in which a person steps through the sampling stages of pictures.

The file holds everything: pictures and density maps as data URIs, RoIs and points as
JSON, a script without libraries. It opens from a disk and asks no network.
"""

import base64
import html
import io
import json
from pathlib import Path
from typing import List, Sequence, Union

import numpy as np

from .density import BANDWIDTH, density_map
from .draw import heat_colors, light_colors
from .page_template import TEMPLATE
from .panels import corners_of, fit_image
from .recording import Look
from .statistics import share_in_area, share_in_boxes

# Positions are whole numbers; the picture spans 0 ... 10000.
UNIT = 10000
# Longer side of an embedded density map.
_MAP_SIDE = 224


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    picture = Image.fromarray(image)
    file = io.BytesIO()
    # Large photos would be megabytes as PNG; small pictures stay exact.
    if max(image.shape[:2]) > 256 and image.ndim == 3:
        picture.save(file, 'JPEG', quality=88)
        kind = 'jpeg'
    else:
        picture.save(file, 'PNG', optimize=True)
        kind = 'png'
    return f'data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}'


def _heat_uri(density: np.ndarray, most: float) -> str:
    from PIL import Image

    # A palette makes the file three times smaller.
    picture = Image.fromarray(heat_colors(density, most)).quantize(64)
    file = io.BytesIO()
    picture.save(file, 'PNG', optimize=True)
    return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def _whole(values: np.ndarray) -> list:
    return np.rint(np.asarray(values, dtype=float) * UNIT).astype(int).tolist()


def _share(value: float):
    return None if value != value else round(value, 4)


def picture_data(look: Look, bandwidth: float = BANDWIDTH) -> dict:
    """What the page knows about one picture, ready for JSON.

    Args:
        look (Look): With N tokens of P points each in every stage.
        bandwidth (float): See :func:`~.density.density_map`.

    Returns:
        dict: ``name``, ``title``, ``answer``; ``width``, ``height`` of the picture in
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
    colors = light_colors(len(look.stages[-1].rois))
    return dict(
        name=look.name,
        title=look.title,
        answer=look.answer,
        width=width,
        height=height,
        image=_data_uri(fit_image(look.image, least=1)),
        boxes=_whole(look.boxes),
        area=area,
        colors=[
            '#' + ''.join(f'{round(255 * part):02x}' for part in color)
            for color in colors
        ],
        tokens=None if look.tokens is None else [int(i) for i in look.tokens],
        stages=[
            dict(
                name=stage.name,
                rois=_whole(corners_of(stage.rois)),
                points=_whole(stage.points.reshape(len(stage.points), -1)),
                density=_heat_uri(density, most),
                inBoxes=_share(share_in_boxes(stage.points, look.boxes)),
                onArea=None
                if look.area is None
                else _share(share_in_area(stage.points, look.area)),
            )
            for stage, density in zip(look.stages, maps)
        ],
    )


def attention_page(
    looks: Sequence[Look],
    title: str = 'Where it looks',
    shown: Sequence[str] = ('points', 'rois'),
    bandwidth: float = BANDWIDTH,
) -> str:
    """Make the page.

    Args:
        looks (Sequence[Look]): At least one.
        title (str): Of the page.
        shown (Sequence[str]): What is drawn at first: any of 'points', 'rois' and
            'density'.
        bandwidth (float): Of the density maps.

    Returns:
        str: HTML, all in one.

    Raises:
        ValueError: without any picture.
    """
    if not looks:
        raise ValueError('a page needs at least one picture')
    pictures: List[dict] = [picture_data(look, bandwidth) for look in looks]
    data = json.dumps(
        dict(unit=UNIT, shown=list(shown), pictures=pictures),
        separators=(',', ':'),
        allow_nan=False,
    )
    # No name of a file or class may end the script element or begin a comment in it.
    for sign in '<>&':
        data = data.replace(sign, f'\\u{ord(sign):04x}')
    parts = TEMPLATE.split('@@')
    assert parts[1::2] == ['TITLE', 'TITLE', 'DATA']
    parts[1] = parts[3] = html.escape(title)
    parts[5] = data
    return ''.join(parts)


def write_page(path: Union[str, Path], looks: Sequence[Look], **kwargs) -> None:
    """Write :func:`attention_page` to a file."""
    Path(path).write_text(attention_page(looks, **kwargs), encoding='utf-8')
