"""What is on the figures: panels for a :class:`~.recording.Look`."""

from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from .panels import Panel, Rectangles, fit_image, heat_image, token_colors
from .recording import Frame, Look, Stage
from .statistics import density_map

GREY, WHITE = (0.62,) * 3, (1.0,) * 3


def true_boxes(frame: Frame) -> Rectangles:
    """Thin dashed lines around what is known to be there."""
    return Rectangles(frame.boxes, WHITE, width=1, dashed=True)


def _there(stage: Stage, frame: Frame) -> np.ndarray:
    """(N,) bool: RoIs which are there at the time of a frame, from start to end."""
    if frame.time is None:
        return np.ones(len(stage.rois), dtype=bool)
    return np.abs(stage.rois[:, 2] - frame.time) <= stage.rois[:, 5] / 2


def kind_panels(look: Look, kind: str, bandwidth: float) -> List[Panel]:
    """The picture, then each of its stages.

    Of a clip its middle frame, with the tubes that are there at its time and all their
    points; densities are those of the whole clip.

    Args:
        look: a token's colour is the same in all stages and figures.
        kind: 'points', 'rois' or 'density'; the density is that of all tokens, in one
            scale for all stages.
        bandwidth: of the density, in units of the picture's shorter side.
    """
    frame, true = look.frame, true_boxes(look.frame)
    panels = [Panel('image', frame.image, [true])]
    if kind == 'density':
        return panels + _density_panels(look, bandwidth, true)
    colors = token_colors(look.num_tokens)
    for stage in look.stages:
        drawn = look.drawn_tokens[_there(stage, frame)[look.drawn_tokens]]
        if kind == 'points':
            points = stage.points[drawn][..., :2]
            panel = Panel(stage.name, frame.image, [true], points, colors[drawn])
        else:
            rois = Rectangles(stage.corners[drawn], colors[drawn], width=1.5)
            panel = Panel(stage.name, frame.image, [rois, true])
        panels.append(panel)
    return panels


def _density_panels(look: Look, bandwidth: float, true: Rectangles) -> List[Panel]:
    image = fit_image(look.image)  # discs of small pictures are round then
    height, width = image.shape[:2]
    maps = [
        density_map(stage.points[..., :2], (width, height), bandwidth, (height, width))
        for stage in look.stages
    ]
    most = max(float(density.max()) for density in maps)
    return [
        Panel(stage.name, heat_image(image, density, most), [true])
        for stage, density in zip(look.stages, maps)
    ]


class Row(NamedTuple):
    """A row of a figure.

    Attributes:
        name: to its left.
        panels: from left to right.
        legend: names and colours below.
    """

    name: str
    panels: List[Panel]
    legend: Sequence[Tuple[str, Sequence[float]]] = ()


def headline(look: Look) -> str:
    """Name and answer; '' where a panel shows the answer."""
    shown = look.detections is not None or look.painted is not None
    return '' if shown else f'{look.name}: {look.title}'


def focus_rows(look: Look) -> List[Row]:
    """The figure of one picture or clip; a sheet of several takes its last row.

    - Clip: a row for each stage, with a panel for each frame: the tubes that are there
      at its time, and the points which are nearer to it in time than half the spacing
      of the drawn frames. Tokens that were asked for have a colour each, the others'
      tubes are grey.
    - Detections: these, then each stage; other tokens' RoIs are grey.
    - Masks: these, and the RoIs of the last stage.
    - Else the picture, then each stage.
    """
    if look.frame.time is not None:
        colors = token_colors(len(look.tokens))
        legend = [(f'token {i}', color) for i, color in zip(look.tokens, colors)]
        rows = []
        for stage in look.stages:
            row = [_clip_panel(look, stage, frame, colors) for frame in look.frames]
            rows.append(Row(stage.name, row))
        return [*rows[:-1], rows[-1]._replace(legend=legend)]
    image, true = look.image, true_boxes(look.frame)
    if look.detections is not None:
        tokens, boxes, texts = look.detections
        # By rank, not by token: the first few of these colours differ the most.
        colors = token_colors(len(tokens))
        boxes = Rectangles(boxes, colors, labels=texts)
        panels = [Panel('detections', image, [boxes, true])]
        for stage in look.stages:
            rois = _told_apart(stage, tokens, colors, look.frame)
            panels.append(Panel(stage.name, image, rois, stage.points[tokens], colors))
        return [Row(look.name, panels)]
    tokens = look.drawn_tokens
    colors = token_colors(look.num_tokens)[tokens]
    thin = [
        Rectangles(stage.corners[tokens], colors, width=1, halo=False)
        for stage in look.stages
    ]
    if look.painted is not None:
        panels = [Panel('image', image)]
        panels += [Panel(name, mask) for name, mask in look.painted.items()]
        title = f'token RoIs ({look.stages[-1].name})'
        return [Row(look.name, [*panels, Panel(title, image, thin[-1:])], look.legend)]
    panels = [Panel('image', image, [true])]
    for stage, rois in zip(look.stages, thin):
        points = stage.points[tokens]
        panels.append(Panel(stage.name, image, [rois, true], points, colors))
    return [Row(look.name, panels)]


def _told_apart(
    stage: Stage, tokens: np.ndarray, colors: np.ndarray, frame: Frame
) -> List[Rectangles]:
    """RoIs of some tokens in their colours, those of the others thin and grey."""
    there = _there(stage, frame)
    others = np.setdiff1d(there.nonzero()[0], tokens)
    shown = there[tokens]
    return [
        Rectangles(stage.corners[others], GREY, width=1, alpha=0.5, halo=False),
        Rectangles(stage.corners[tokens[shown]], colors[shown]),
    ]


def _clip_panel(look: Look, stage: Stage, frame: Frame, colors: np.ndarray) -> Panel:
    rectangles = _told_apart(stage, look.tokens, colors, frame)
    rectangles += [true_boxes(frame)] if len(frame.boxes) else []
    points = stage.points[look.tokens]
    near = np.abs(points[..., 2] - frame.time) < 0.5 / len(look.frames)
    places, near_colors = points[near][:, None, :2], colors[near.nonzero()[0]]
    return Panel(frame.name, frame.image, rectangles, places, near_colors)
