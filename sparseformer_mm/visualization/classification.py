"""What a classifier sees in a picture.

mmpretrain's pipelines resize and crop: everything here is in units of the network's
input, and drawn on that.
"""

import argparse
from typing import Sequence, Tuple

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from ..utils.errors import fail
from . import recording as records
from .draw import light_colors
from .panels import Frames, Panel, Row, corners_of
from .recording import Look, picture_stages, record
from .sources import Source, chosen_stages, chosen_tokens, truth_frames
from .truths import Truths, name_of


def _pipeline(cfg) -> Compose:
    """The config's test pipeline for pictures in memory, as mmpretrain's inferencer."""
    from mmpretrain.datasets import remove_transform

    return Compose(
        remove_transform(cfg.test_dataloader.dataset.pipeline, 'LoadImageFromFile')
    )


def _prepared(pipeline: Compose, image: np.ndarray) -> dict:
    shape = image.shape[:2]
    image = np.ascontiguousarray(image[..., ::-1])  # mmpretrain reads BGR
    return pipeline(dict(img=image, img_shape=shape, ori_shape=shape))


def follow(pipeline: Compose, mask: np.ndarray) -> np.ndarray:
    """Where a pipeline brings marked pixels, whatever it resizes and crops.

    Args:
        pipeline: of steps which treat every picture alike.
        mask: (H, W) bool.

    Returns:
        (H', W') share of each pixel of the network's input that is marked, 0..1.
    """
    picture = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    return _prepared(pipeline, picture)['inputs'][0].double().numpy() / 255


def follow_boxes(
    pipeline: Compose, boxes: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
    """Boxes in the network's input; those that are cropped away are left out.

    Args:
        boxes: (n, 4) relative to a picture.
        shape: its height and width.

    Returns:
        (m, 4) relative to the input.
    """
    found = []
    scale = np.array([shape[1], shape[0]] * 2)
    for box in np.rint(boxes * scale).astype(int).clip(0):
        mask = np.zeros(shape[:2], dtype=bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        seen = follow(pipeline, mask)
        ends = []
        for axis in (0, 1):
            # Blurred edges: as wide as the profile's sum, around its middle.
            profile = seen.max(axis)
            if profile.max() < 0.5:
                break
            middle = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
            ends.append(middle + profile.sum() * np.array([-0.5, 0.5]))
            ends[-1] /= len(profile)
        if len(ends) == 2:
            found.append(np.stack(ends, 1).ravel())
    return np.array(found).reshape(-1, 4)


def seen_picture(preprocessor: nn.Module, inputs: Tensor) -> np.ndarray:
    """What a classifier saw: (3, H, W), normalised -> (H, W, 3) RGB uint8."""
    if getattr(preprocessor, '_enable_normalize', False):
        inputs = inputs * preprocessor.std + preprocessor.mean
    if not preprocessor.to_rgb:
        inputs = inputs.flip(0)
    pixels = inputs.permute(1, 2, 0).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()


def classification_row(
    model: nn.Module, source: Source, truths: Truths, args: argparse.Namespace
) -> Tuple[Row, Look]:
    """What the network sees of the picture, then one panel per sampling stage."""
    pipeline = _pipeline(model.cfg)
    classes = truths.classes or model.trained_classes

    @torch.no_grad()
    def run(image):
        batch = pseudo_collate([_prepared(pipeline, image)])
        data = model.data_preprocessor(batch, False)
        with record(model) as recording:
            (sample,) = model(**data, mode='predict')
        found = picture_stages(recording.calls, data['inputs'].shape[-2:])
        return data['inputs'][0], sample, chosen_stages(found, args), recording

    inputs, sample, stages, recording = run(source.image)
    image = seen_picture(model.data_preprocessor, inputs)
    label = int(sample.pred_score.argmax())
    title = f'{name_of(classes, label)} {sample.pred_score[label]:.2f}'
    true = truths.true_class(source.path)
    known = (label, 'predicted')
    if true is not None:
        title += f', true {name_of(classes, true)}'
        known = (true, 'true')
    area, undisturbed = source.area, None
    if area is not None:
        area = follow(pipeline, area) >= 0.5
        undisturbed = run(source.original)[2] if source.same_places else None
    logits = None
    if args.top_k_class is not None and args.tokens is None:
        try:
            with torch.no_grad():
                logits = records.token_logits(model, recording.last_tokens[0])[0]
        except ValueError as error:
            fail(f'{error}; choose tokens by --tokens')
    total = len(stages[-1].rois)
    tokens, answer = chosen_tokens(logits, total, known, classes, args)
    boxes = follow_boxes(pipeline, source.boxes(truths), source.image.shape)
    look = Look(
        source.path.name, image, stages, title, boxes, area, tokens, answer, undisturbed
    )
    drawn = np.arange(total) if tokens is None else tokens
    colors = light_colors(total)[drawn]
    panels = [Panel('image', image, [truth_frames(boxes)])]
    for stage in stages:
        frames = [Frames(corners_of(stage.rois[drawn]), colors, 1, halo=False)]
        frames.append(truth_frames(boxes))
        panels.append(Panel(stage.name, image, frames, stage.points[drawn], colors))
    return Row(panels, [], title, f'{source.path.name}: {title}'), look
