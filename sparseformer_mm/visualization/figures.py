"""Figures of one kind, a panel per sampling stage, and the numbers beside them."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch

from .draw import light_colors
from .panels import Frames, Panel, corners_of, density_panels
from .recording import Look
from .sources import truth_frames
from .statistics import (
    StageStatistics,
    share_in_area,
    stage_statistics,
)

KINDS = ('points', 'rois', 'density')


def drawn_tokens(look: Look) -> np.ndarray:
    """Indices of the tokens to draw: those that were asked for, or all."""
    if look.tokens is not None:
        return look.tokens
    return np.arange(len(look.stages[-1].rois))


def kind_panels(look: Look, kind: str, bandwidth: float) -> List[Panel]:
    """The picture, then each of its stages.

    Args:
        look: with a token's colour the same in all stages and figures.
        kind: 'points', 'rois' or 'density'; the density is that of all tokens, in one
            scale for all stages.
        bandwidth: of the density, in units of the picture's shorter side.
    """
    true = truth_frames(look.boxes)
    panels = [Panel('image', look.image, [true])]
    if kind == 'density':
        points = [(stage.name, stage.points) for stage in look.stages]
        return panels + density_panels(look.image, points, bandwidth, [true])
    tokens = drawn_tokens(look)
    colors = light_colors(len(look.stages[-1].rois))[tokens]
    for stage in look.stages:
        if kind == 'points':
            panels.append(
                Panel(stage.name, look.image, [true], stage.points[tokens], colors)
            )
        else:
            rois = Frames(corners_of(stage.rois[tokens]), colors, width=1.5)
            panels.append(Panel(stage.name, look.image, [rois, true]))
    return panels


def numbers_of(one: StageStatistics, num_points: int) -> dict:
    """One stage of one picture or clip, ready for JSON; None for unknown."""
    numbers = dict(name=one.name, points=num_points)
    for key, value in one._asdict().items():
        if key != 'name':
            numbers[key] = None if value is None else _number(value)
    numbers['entropy_bits'] = numbers.pop('entropy')
    numbers['in_boxes'] = numbers.pop('focus')
    return numbers


def stage_numbers(look: Look, bandwidth: float) -> List[dict]:
    """What ``--json`` says about each stage of one picture."""
    height, width = look.image.shape[:2]
    records = [
        SimpleNamespace(
            name=stage.name,
            rois=torch.from_numpy(stage.rois)[None],
            points=torch.from_numpy(stage.points)[None],
        )
        for stage in look.stages
    ]
    statistics = stage_statistics(
        records, [look.boxes], [(width, height)], bandwidth=bandwidth
    )
    result = []
    for i, (stage, one) in enumerate(zip(look.stages, statistics)):
        numbers = numbers_of(one, stage.points[..., 0].size)
        numbers['on_area'] = numbers['on_area_undisturbed'] = None
        if look.area is not None:
            numbers['on_area'] = share_in_area(stage.points, look.area)
        if look.undisturbed is not None:
            points = look.undisturbed[i].points
            numbers['on_area_undisturbed'] = share_in_area(points, look.area)
        result.append(numbers)
    return result


def _number(value) -> Optional[float]:
    value = float(value)
    return value if math.isfinite(value) else None


def picture_numbers(look: Look, path: Path, bandwidth: float) -> dict:
    """What ``--json`` says about one picture."""
    covered = np.zeros(look.image.shape[:2], dtype=bool)
    height, width = covered.shape
    corners = np.rint(look.boxes * np.tile([width, height], 2)).astype(int).clip(0)
    for x1, y1, x2, y2 in corners:
        covered[y1:y2, x1:x2] = True
    return dict(
        file=str(path),
        result=look.title,
        size=[width, height],
        boxes=look.boxes.round(6).tolist(),
        box_share=float(covered.mean()) if len(look.boxes) else None,
        area_share=None if look.area is None else float(look.area.mean()),
        stages=stage_numbers(look, bandwidth),
    )


def means(pictures: Sequence[dict]) -> dict:
    """Means over pictures: of each stage's numbers, where a picture has them."""

    def mean(entries: List[dict], key: str):
        known = [entry[key] for entry in entries if entry.get(key) is not None]
        return sum(known) / len(known) if known else None

    stages = []
    for same in zip(*(picture['stages'] for picture in pictures)):
        keys = [key for key in same[0] if key != 'name']
        stages.append(
            dict(name=same[0]['name'], **{key: mean(list(same), key) for key in keys})
        )
    shares = {key: mean(list(pictures), key) for key in ('box_share', 'area_share')}
    return dict(shares, stages=stages)


# Heading, key, format.
COLUMNS = (
    ('in boxes', 'in_boxes', '{:.1%}'),
    ('on area', 'on_area', '{:.1%}'),
    ('before', 'on_area_undisturbed', '{:.1%}'),
    ('outside', 'outside', '{:.1%}'),
    ('entropy', 'entropy_bits', '{:.2f}'),
    ('RoI width', 'roi_width', '{:.3f}'),
    ('height', 'roi_height', '{:.3f}'),
)


def table(mean: dict, num_pictures: int) -> str:
    """:func:`means` for reading."""
    stages: Sequence[Dict] = mean['stages']
    known = [c for c in COLUMNS if any(stage.get(c[1]) is not None for stage in stages)]
    lines = [f'Means over {num_pictures} picture(s); share of sampling points:']
    lines.append('stage'.ljust(14) + ''.join(f'{c[0]:>11}' for c in known))
    for stage in stages:
        cells = [
            '-' if stage.get(key) is None else form.format(stage[key])
            for _, key, form in known
        ]
        lines.append(stage['name'].ljust(14) + ''.join(f'{cell:>11}' for cell in cells))
    for key, text in (
        ('box_share', 'the boxes cover'),
        ('area_share', 'the disturbed area covers'),
    ):
        if mean[key] is not None:
            lines.append(f'{text} {mean[key]:.1%} of the picture')
    return '\n'.join(lines)


def write_numbers(path: Path, settings: dict, pictures: Sequence[dict]) -> dict:
    """Write ``--json``; return its means."""
    mean = means(pictures)
    content = dict(
        settings, num_pictures=len(pictures), means=mean, pictures=list(pictures)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
    return mean
