"""What a model looks at while its library makes a prediction.

Nothing here draws. RoIs and points come out relative to the picture, whatever its
library resized, padded or cut into windows::

    with record(model) as recording:
        sample = inference_detector(model, 'photo.jpg')
    stages = picture_stages(recording.calls, sample.img_shape)

Outside of ``record`` nothing is kept.
"""

from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..models.tokens import StageRecord


class Call(NamedTuple):
    """One call of a backbone.

    Attributes:
        offset: x, y of its input inside the picture that the library prepared.
        size: width and height in pixels of what its RoIs are relative to.
        stages: the backbone's :class:`StageRecord` of each stage.
    """

    offset: Tuple[int, int]
    size: Tuple[int, int]
    stages: Sequence[StageRecord]


class Recording(NamedTuple):
    """What :func:`record` has seen.

    Attributes:
        calls: of the backbone; several where a segmentor slides a window.
        head_outputs: what a detection head's ``forward`` returned, by call.
        last_tokens: (B, N, d) through the backbone's final norm, by call.
    """

    calls: List[Call]
    head_outputs: list
    last_tokens: List[Tensor]


class Stage(NamedTuple):
    """A sampling stage on one picture, all windows together.

    Attributes:
        name: 'focusing.0', ..., 'cortex.0'.
        rois: (N, 4) center and size relative to the picture.
        points: (N, P, 2) relative to the picture, x first.
    """

    name: str
    rois: np.ndarray
    points: np.ndarray


class Look(NamedTuple):
    """One picture and where a model looked; all positions are relative to ``image``.

    Attributes:
        name: of the picture, for people.
        image: (H, W, 3) RGB uint8.
        stages: of the model, the first sampling stage first.
        title: what the model said.
        boxes: (n, 4) true boxes, x1, y1, x2, y2; n is 0 where none is known.
        area: (H, W) bool, the disturbed pixels; None where none is.
        tokens: indices of the tokens that somebody asked for; None stands for all.
        answer: what these tokens answer to, e.g. 'dog (true)', or ''.
        undisturbed: stages of the undisturbed picture, where its pixels are at the
            same place; None otherwise.
    """

    name: str
    image: np.ndarray
    stages: List[Stage]
    title: str = ''
    boxes: np.ndarray = np.zeros((0, 4))
    area: Optional[np.ndarray] = None
    tokens: Optional[np.ndarray] = None
    answer: str = ''
    undisturbed: Optional[List[Stage]] = None


def _position(window: Tensor) -> Tuple[int, int]:
    """x, y of a window, which is a view of the whole batch of one picture."""
    row, column = window.stride()[-2:]
    offset = window.storage_offset()
    return offset % row // column, offset // row


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Record the sampling stages while a library runs a model."""
    recording = Recording([], [], [])

    backbone = model.backbone
    forward_intermediates = backbone.forward_intermediates

    def recorded(inputs, valid_shapes=None):
        outputs = forward_intermediates(inputs, valid_shapes)
        height, width = inputs.shape[-2:] if valid_shapes is None else valid_shapes[0]
        call = Call(_position(inputs), (width, height), outputs.stages)
        recording.calls.append(call)
        recording.last_tokens.append(outputs.tokens)
        return outputs

    def after_head(module, args, outputs):
        recording.head_outputs.append(outputs)

    hooks = []
    if hasattr(model, 'bbox_head'):
        hooks.append(model.bbox_head.register_forward_hook(after_head))
    # What its forward calls, as long as the instance has an attribute of that name.
    backbone.forward_intermediates = recorded
    try:
        yield recording
    finally:
        del backbone.forward_intermediates
        for hook in hooks:
            hook.remove()


def picture_stages(calls: Sequence[Call], shape: Sequence[int]) -> List[Stage]:
    """Bring what a backbone recorded into units of the picture.

    Args:
        calls: on one picture, a batch of one.
        shape: height and width of the picture inside the network's input
            (``img_shape`` of its sample).
    """
    picture = np.array([shape[1], shape[0]], dtype=np.float64)
    stages = []
    for records in zip(*(call.stages for call in calls)):
        rois, points = [], []
        for call, one in zip(calls, records):
            size, offset = np.array(call.size) / picture, call.offset / picture
            roi = one.rois[0].double().cpu().numpy()
            rois.append(
                np.concatenate([roi[:, :2] * size + offset, roi[:, 2:] * size], axis=1)
            )
            points.append(one.points[0].double().cpu().numpy() * size + offset)
        stages.append(
            Stage(records[0].name, np.concatenate(rois), np.concatenate(points))
        )
    return stages


def token_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """What a classifier says to each token by itself (figure 6 of the paper).

    Args:
        model (nn.Module): A classifier or recogniser with a SparseFormer as
            ``backbone`` and a linear layer after it: ``head.fc`` of mmpretrain's
            LinearClsHead or ``cls_head.fc_cls`` of mmaction2's I3DHead and TSNHead.
        tokens (Tensor): (..., N, d) of the backbone, through its final norm.

    Returns:
        Tensor: Logits, (..., N, K). The mean over tokens is taken before the
        backbone's final norm, so they do not average to the picture's.

    Raises:
        ValueError: where the model has no such layer.
    """
    width = model.backbone.embed_dims
    for head_name, layer in (('head', 'fc'), ('cls_head', 'fc_cls')):
        head = getattr(model, head_name, None)
        classifier = getattr(head, layer, None)
        if getattr(classifier, 'in_features', None) == width:
            return classifier(tokens)
        if head is not None:
            raise ValueError(
                f'the head {type(head).__name__} has no linear layer {layer} that '
                f'takes the {width} channels of a token, so no token can be asked for '
                'its class'
            )
    raise ValueError(
        f'{type(model).__name__} has neither head.fc nor cls_head.fc_cls, so no token '
        'can be asked for its class'
    )


def top_tokens(scores, count: int) -> np.ndarray:
    """The tokens that answer the most, best first; the lower index of equals.

    Args:
        scores (Tensor or np.ndarray): (N,) of one class.
        count (int): K; all tokens if there are no more.

    Returns:
        np.ndarray: (min(K, N),) indices.
    """
    scores = torch.as_tensor(scores).detach().double().cpu().numpy()
    return np.argsort(-scores, kind='stable')[:count]
