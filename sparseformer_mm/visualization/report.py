"""The numbers beside the figures: of each picture, their means, as JSON and a table."""

import json
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from .recording import Look
from .statistics import BANDWIDTH, focus_gain, share_in_area, stage_statistics


def look_numbers(look: Look, bandwidth: float = BANDWIDTH) -> dict:
    """What is said about one picture or clip, ready for JSON; None for unknown."""
    height, width = look.image.shape[:2]
    pixels = np.rint(look.boxes * np.tile([width, height], 2)).astype(int).clip(0)
    # Of each frame; a picture has one.
    covered = np.zeros((len(pixels) if pixels.ndim == 3 else 1, height, width), bool)
    for frame, boxes in zip(covered, pixels.reshape(len(covered), -1, 4)):
        for x1, y1, x2, y2 in boxes:
            frame[y1:y2, x1:x2] = True
    statistics = stage_statistics(look.stages, look.boxes, (width, height), bandwidth)
    stages = [numbers._asdict() for numbers in statistics]
    areas = dict(on_area=look.stages, on_area_undisturbed=look.undisturbed)
    for key, seen in areas.items():
        for i, numbers in enumerate(stages):
            known = look.area is not None and seen is not None
            numbers[key] = share_in_area(seen[i].points, look.area) if known else None
    return dict(
        result=look.title,
        size=[width, height],
        boxes=look.boxes.round(6).tolist(),
        box_share=float(covered.mean()) if look.boxes.size else None,
        area_share=None if look.area is None else float(look.area.mean()),
        stages=stages,
    )


def means(pictures: Sequence[dict]) -> dict:
    """Means of :func:`look_numbers` over the pictures which have them."""

    def mean(entries: Sequence[dict], key: str) -> Optional[float]:
        known = [entry[key] for entry in entries if entry[key] is not None]
        return sum(known) / len(known) if known else None

    stages = [
        dict(name=same[0]['name'], **{k: mean(same, k) for k in same[0] if k != 'name'})
        for same in zip(*(picture['stages'] for picture in pictures))
    ]
    result = {key: mean(pictures, key) for key in ('box_share', 'area_share')}
    shares = [stage['in_boxes'] for stage in stages]
    gain = None if None in shares else focus_gain(shares)
    return dict(result, focus_gain=gain, stages=stages)


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
    """:func:`means` for reading, and how the focus rises."""
    stages = mean['stages']
    known = [c for c in COLUMNS if any(stage[c[1]] is not None for stage in stages)]
    lines = [f'Means over {num_pictures} picture(s); share of sampling points:']
    lines.append('stage'.ljust(14) + ''.join(f'{c[0]:>11}' for c in known))
    for stage in stages:
        cells = [
            '-' if stage[key] is None else form.format(stage[key])
            for _, key, form in known
        ]
        lines.append(stage['name'].ljust(14) + ''.join(f'{cell:>11}' for cell in cells))
    for key, text in (('box', 'boxes cover'), ('area', 'disturbed area covers')):
        if mean[f'{key}_share'] is not None:
            lines.append(f'the {text} {mean[f"{key}_share"]:.1%} of the picture')
    gain = mean['focus_gain']
    if gain:
        times = '' if gain['ratio'] is None else f' ({gain["ratio"]:.2f}x)'
        first_to_last = f'{gain["first"]:.1%} -> {gain["last"]:.1%}'
        lines.append(f'in boxes, first to last stage: {first_to_last}{times}')
    return '\n'.join(lines)


def write_numbers(path: Path, settings: dict, pictures: Sequence[dict]) -> dict:
    """Write ``--json``; return its means."""
    mean = means(pictures)
    content = dict(
        settings, num_pictures=len(pictures), means=mean, pictures=list(pictures)
    )
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n')
    return mean
