"""What detectors and segmentors see in a picture.

Every function that makes a row takes (model, source, truths, args) and returns the row
for the sheet and a :class:`Look` with all that the other figures, the page and the
numbers need.
"""

import argparse
from typing import List, Tuple

import numpy as np
from torch import nn

from ..utils.errors import fail
from .draw import light_colors, token_colors
from .panels import Frames, Panel, Row, corners_of
from .recording import Look, Stage, picture_stages, record
from .sources import Source, chosen_stages, chosen_tokens, truth_frames
from .truths import Truths, name_of, token_detections

GREY = (0.62,) * 3


def detection_row(
    model: nn.Module, source: Source, truths: Truths, args: argparse.Namespace
) -> Tuple[Row, Look]:
    """Boxes, then one panel per sampling stage."""
    from mmdet.apis import inference_detector

    with record(model) as recording:
        sample = inference_detector(model, source.inputs())
    (outputs,) = recording.head_outputs
    found = token_detections(model.bbox_head, outputs, args.score_thr)
    names = [name_of(truths.classes, label) for label in found.labels]
    texts = [f'{name} {score:.2f}' for name, score in zip(names, found.scores)]
    # By rank, not by token: the first few of these colours differ the most.
    colors = light_colors(len(found.tokens))
    image, true_boxes = source.image, source.boxes(truths)
    boxes = [Frames(found.boxes, colors, labels=texts), truth_frames(true_boxes)]
    panels = [Panel('detections', image, boxes)]
    stages = chosen_stages(picture_stages(recording.calls, sample.img_shape), args)
    for stage in stages:
        others = np.setdiff1d(np.arange(len(stage.rois)), found.tokens)
        rois = corners_of(stage.rois)
        grey = np.tile(GREY, (len(others), 1))
        frames = [
            Frames(rois[others], grey, width=1, alpha=0.5, halo=False),
            Frames(rois[found.tokens], colors),
        ]
        points = stage.points[found.tokens]
        panels.append(Panel(stage.name, image, frames, points, colors))
    summary = ', '.join(
        f'{text} (token {token})' for text, token in zip(texts, found.tokens)
    )
    summary = summary or f'nothing with a score of {args.score_thr:g}'
    logits = outputs[0][-1, 0]
    if not model.bbox_head.loss_cls.use_sigmoid:
        # The last is no object: a token that says so speaks for no class.
        logits = logits.log_softmax(-1)[:, :-1]
    known = (int(logits.max(0).values.argmax()), 'best detection')
    total = len(stages[-1].rois)
    tokens, answer = chosen_tokens(logits, total, known, truths.classes, args)
    undisturbed = None
    if source.same_places:
        undisturbed = _again(model, source, inference_detector, args)
    title = ', '.join(texts) or summary
    return Row(panels, [], summary), Look(
        source.path.name,
        image,
        stages,
        title,
        true_boxes,
        source.area,
        tokens,
        answer,
        undisturbed,
    )


def _again(model: nn.Module, source: Source, inference, args) -> List[Stage]:
    """Stages of the undisturbed picture."""
    with record(model) as recording:
        sample = inference(model, np.ascontiguousarray(source.original[..., ::-1]))
    return chosen_stages(picture_stages(recording.calls, sample.img_shape), args)


# --------------------------------------------------------------- segmentation


def painted(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of classes over an image; labels without one stay bare."""
    result = image.copy()
    known = (labels >= 0) & (labels < len(palette))
    mixed = 0.35 * image[known] + 0.65 * palette[labels[known]]
    result[known] = mixed.round().astype(np.uint8)
    return result


def segmentation_row(
    model: nn.Module, source: Source, truths: Truths, args: argparse.Namespace
) -> Tuple[Row, Look]:
    """Picture, truth if known, prediction, RoIs of the last sampling stage."""
    from mmseg.apis import inference_model

    if args.top_k_class is not None:
        fail(
            '--top-k-class: a segmentation head classifies pixels, no tokens; choose '
            'them by --tokens'
        )
    image = source.image
    with record(model) as recording:
        sample = inference_model(model, source.inputs())
    prediction = sample.pred_sem_seg.data[0].cpu().numpy()
    palette = np.array(truths.palette or [], dtype=np.uint8).reshape(-1, 3)
    if not len(palette):
        palette = (token_colors(model.decode_head.num_classes) * 255).astype(np.uint8)
    truth = truths.mask(source.path)
    if truth is not None and source.disturbed is not None:
        truth = source.disturbed.mask(truth)
    masks = dict(truth=truth, prediction=prediction)
    masks = {title: mask for title, mask in masks.items() if mask is not None}
    panels = [Panel('image', image)]
    panels += [
        Panel(title, painted(image, mask, palette)) for title, mask in masks.items()
    ]
    stages = chosen_stages(picture_stages(recording.calls, sample.img_shape), args)
    last, total = stages[-1], len(stages[-1].rois)
    tokens, _ = chosen_tokens(None, total, (0, ''), None, args)
    drawn = np.arange(total) if tokens is None else tokens
    colors = light_colors(total)[drawn]
    frames = Frames(corners_of(last.rois[drawn]), colors, width=1, halo=False)
    panels.append(Panel(f'token RoIs ({last.name})', image, [frames]))
    shown = np.unique(np.concatenate([mask.ravel() for mask in masks.values()]))
    shown = shown[shown < len(palette)]
    legend = [(name_of(truths.classes, i), palette[i] / 255) for i in shown]
    largest = np.bincount(prediction.ravel()).argsort()[::-1]
    shares = [(i, (prediction == i).mean()) for i in largest[:5]]
    summary = ', '.join(
        f'{name_of(truths.classes, i)} {share:.0%}' for i, share in shares if share
    )
    undisturbed = None
    if source.same_places:
        undisturbed = _again(model, source, inference_model, args)
    return Row(panels, legend, summary), Look(
        source.path.name,
        image,
        stages,
        summary,
        area=source.area,
        tokens=tokens,
        undisturbed=undisturbed,
    )
