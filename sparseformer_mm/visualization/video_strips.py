"""Strips of a clip's frames with the tubes that are there at their time.

Times are in units of the clip: frame i of T is at (i + 0.5) / T.
"""

import argparse
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..utils.errors import fail
from . import recording as records
from .draw import light_colors
from .figures import numbers_of
from .panels import Frames, Panel, Row, corners_of
from .sources import chosen_stages, class_index
from .statistics import stage_statistics
from .truths import Stage, name_of, record
from .videos import Clip, VideoTruths

GREY, WHITE = (0.62,) * 3, (1.0,) * 3


def drawn_frames(num_frames: int, most: int) -> np.ndarray:
    """The frames in the middle of ``most`` equal parts of a clip; all if fewer."""
    if num_frames <= most:
        return np.arange(num_frames)
    return ((np.arange(most) + 0.5) * num_frames / most).astype(int)


def frame_times(num_frames: int) -> np.ndarray:
    """When the frames of a clip are, (T,), in its units."""
    return (np.arange(num_frames) + 0.5) / num_frames


def tubes_at(rois: np.ndarray, time: float) -> np.ndarray:
    """Which tubes are there at a time.

    Args:
        rois: (N, 6) as x, y, t, w, h, l.
        time: in units of the clip.

    Returns:
        (N,) bool: whether ``time`` is in [t - l/2, t + l/2].
    """
    return np.abs(rois[:, 2] - time) <= rois[:, 5] / 2


def points_near(points: np.ndarray, time: float, spacing: float) -> np.ndarray:
    """Which points are nearer in time than half the spacing of the drawn frames.

    Args:
        points: (..., 3) as x, y, t.
        time: of a frame, in units of the clip.
        spacing: the mean time from one drawn frame to the next.

    Returns:
        (...) bool: whether ``|t - time| < spacing / 2``.
    """
    return np.abs(points[..., 2] - time) < spacing / 2


def share_inside(points: np.ndarray, boxes: np.ndarray) -> float:
    """Share of points in the true box of the frame that is there at their time.

    Args:
        points: (..., 3) as x, y, t; those before or after the clip are outside.
        boxes: (T, 4) x1, y1, x2, y2 on each frame of the clip.
    """
    x, y, t = points.reshape(-1, 3).T
    frames = np.clip((t * len(boxes)).astype(int), 0, len(boxes) - 1)
    x1, y1, x2, y2 = boxes[frames].T
    inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2) & (t >= 0) & (t <= 1)
    return float(inside.mean())


def best_tokens(scores: np.ndarray, inflation: int, count: int) -> np.ndarray:
    """The ``count`` best tokens of each copy in time.

    Args:
        scores: (N,) of all tokens; copies in time are the outer index.
        inflation: n_t, copies of an image's tokens.
        count: at most all of a copy are taken.

    Returns:
        (n_t * count,) indices, copy by copy, each with its best token first.
    """
    ranks = np.argsort(-scores.reshape(inflation, -1), axis=1, kind='stable')
    per_copy = len(scores) // inflation
    return (ranks[:, :count] + per_copy * np.arange(inflation)[:, None]).ravel()


def token_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """:func:`~.recording.token_logits`; it names the cure."""
    try:
        return records.token_logits(model, tokens)
    except ValueError as error:
        fail(f'{error}; choose tokens by --tokens')


def seen_frames(preprocessor: nn.Module, inputs: Tensor) -> np.ndarray:
    """What a model saw as pictures.

    Args:
        preprocessor: mmaction2's, whose mean and std are taken back.
        inputs: (C, T, H, W) that it returned.

    Returns:
        (T, H, W, C) RGB uint8.
    """
    if getattr(preprocessor, 'mean', None) is not None:
        std, mean = (
            buffer.reshape(-1, 1, 1, 1)
            for buffer in (preprocessor.std, preprocessor.mean)
        )
        inputs = inputs * std + mean
    pixels = inputs.permute(1, 2, 3, 0).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()


def _chosen(tokens: List[int], total: int) -> np.ndarray:
    wrong = [token for token in tokens if not 0 <= token < total]
    if wrong:
        fail(f'--tokens {wrong[0]}: the model has tokens 0 to {total - 1}')
    return np.array(list(dict.fromkeys(tokens)))


def _panel(
    image: np.ndarray,
    title: str,
    stage: Stage,
    time: float,
    spacing: float,
    tokens: np.ndarray,
    box: Optional[np.ndarray],
) -> Panel:
    """One frame with the tubes and points of one stage that are there."""
    there = tubes_at(stage.rois, time)
    colors = light_colors(len(tokens))
    others = np.setdiff1d(there.nonzero()[0], tokens)
    corners = corners_of(stage.rois[:, [0, 1, 3, 4]])
    frames = [
        Frames(
            corners[others],
            np.tile(GREY, (len(others), 1)),
            width=1,
            alpha=0.5,
            halo=False,
        ),
        Frames(corners[tokens[there[tokens]]], colors[there[tokens]]),
    ]
    if box is not None:
        frames.append(Frames(box[None], np.array([WHITE]), width=1, dashed=True))
    points = stage.points[tokens]
    near = points_near(points, time, spacing)
    return Panel(
        title,
        image,
        frames,
        points=points[near][:, None, :2],
        point_colors=colors[near.nonzero()[0]],
    )


def video_row(
    model: nn.Module,
    path: Path,
    clip: Clip,
    truths: VideoTruths,
    args: argparse.Namespace,
) -> Tuple[Row, dict]:
    """One row of frames per sampling stage, and their numbers.

    The last stage's row is for the sheet.
    """
    data = model.data_preprocessor(pseudo_collate([clip.data]), False)
    with record(model) as recording, torch.no_grad():
        (sample,) = model(**data, mode='predict')
    seen = chosen_stages(recording.calls[0].stages, args)
    images = seen_frames(model.data_preprocessor, data['inputs'][0, 0])
    stages = [
        Stage(one.name, *(x[0].double().cpu().numpy() for x in (one.rois, one.points)))
        for one in seen
    ]
    scores = sample.pred_score.reshape(-1)
    if model.cls_head.average_clips != 'prob':
        scores = scores.softmax(0)
    label = int(scores.argmax())
    if args.tokens is not None:
        tokens = _chosen(args.tokens, len(stages[-1].rois))
    else:
        with torch.no_grad():
            logits = token_logits(model, recording.last_tokens[0][0])
        asked = label
        if args.class_name is not None:
            asked = class_index(args.class_name, truths.classes, logits.shape[1])
        tokens = best_tokens(
            logits[:, asked].double().cpu().numpy(),
            model.backbone.token_inflation,
            args.top_tokens,
        )

    times = frame_times(len(images))
    shown = drawn_frames(len(images), args.num_frames)
    boxes = truths.clip_boxes(path, clip)
    rows = [
        (
            stage.name,
            [
                _panel(
                    images[i],
                    f'frame {clip.frames[i]}',
                    stage,
                    times[i],
                    1 / len(shown),
                    tokens,
                    None if boxes is None else boxes[i],
                )
                for i in shown
            ],
        )
        for stage in stages
    ]
    found = f'{name_of(truths.classes, label)} {scores[label]:.2f}'
    true = truths.label(path)
    if true is not None:
        found += f', true {name_of(truths.classes, true)}'
    title = f'{path.name}: {found}'
    if clip.num_views > 1:
        title += f' (view {clip.view} of {clip.num_views})'
    if boxes is None:
        width, height, length = stages[-1].rois[:, 3:].mean(0)
        numbers = (
            f'mean tube at {stages[-1].name} {width:.2f} x {height:.2f} x {length:.2f}'
        )
    else:
        shares = [
            f'{stage.name} {share_inside(stage.points, boxes):.0%}' for stage in stages
        ]
        numbers = f'points in the true box: {", ".join(shares)}'
    legend = list(
        zip([f'token {token}' for token in tokens], light_colors(len(tokens)))
    )
    height, width = images.shape[1:3]
    statistics = stage_statistics(
        seen, sizes=[(width, height)] * len(seen[0].rois), bandwidth=args.bandwidth
    )
    in_numbers = dict(file=str(path), result=found, stages=[])
    for stage, one in zip(stages, statistics):
        entry = numbers_of(one, stage.points[..., 0].size)
        if boxes is not None:
            entry['in_boxes'] = share_inside(stage.points, boxes)
        in_numbers['stages'].append(entry)
    row = Row(rows[-1][1], legend, f'{found}; {numbers}', title, rows)
    return row, in_numbers
