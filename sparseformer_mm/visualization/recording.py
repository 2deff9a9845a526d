"""What a model looks at while its library makes a prediction.

Nothing here draws. RoIs and points come out relative to the picture, whatever its
library resized, padded or cut into windows::

    with record(model) as calls:
        sample = inference_detector(model, 'photo.jpg')
    stages = picture_stages(calls, sample.img_shape)

Outside of ``record`` nothing is kept.
"""

from contextlib import contextmanager
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..models import SparseFormerOutput, StageRecord
from ..models.padding import noted_shapes
from ..models.rois import rois_to_corners

#: What a figure can show of a :class:`Look`.
KINDS = ('points', 'rois', 'density')


class Call(NamedTuple):
    """One call of a backbone, as :func:`record` keeps it.

    Attributes:
        offset: x, y of its input inside the picture that the library prepared.
        size: width and height in pixels of what its RoIs are relative to.
        outputs: of the backbone, with ``tokens`` and ``stages``.
    """

    offset: Tuple[int, int]
    size: Tuple[int, int]
    outputs: SparseFormerOutput


class Stage(NamedTuple):
    """A sampling stage on one picture or clip, all windows together.

    Attributes:
        name: 'focusing.0', ..., 'cortex.0', ...
        rois: (N, 2D) center and size relative to the picture, D = 2, or to the clip,
            D = 3 (x, y, t, w, h, l).
        points: (N, P, D) in the same units, x first.
    """

    name: str
    rois: np.ndarray
    points: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """(N, 4) x1, y1, x2, y2 of the RoIs, in a clip at all times."""
        dims = self.points.shape[-1]
        rois = self.rois[:, [0, 1, dims, dims + 1]]
        return rois_to_corners(torch.from_numpy(rois)).numpy()


class Frame(NamedTuple):
    """A picture, or one frame of a clip, to draw on.

    Attributes:
        name: for people.
        image: (H, W, 3) RGB uint8.
        boxes: (n, 4) true boxes there, x1, y1, x2, y2 relative to the image.
        time: of the frame, relative to the clip: frame i of T is at (i + 0.5) / T;
            None for a picture.
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray = np.zeros((0, 4))
    time: Optional[float] = None


class Detections(NamedTuple):
    """Detections of one picture, one per token, best first.

    Attributes:
        tokens: (n,) indices.
        boxes: (n, 4) x1, y1, x2, y2 relative to the picture.
        texts: class and score of each.
    """

    tokens: np.ndarray
    boxes: np.ndarray
    texts: List[str]


class Look(NamedTuple):
    """One picture or clip, and where a model looked.

    All positions are relative to the picture or clip.

    Attributes:
        name: of its file.
        frames: the picture, or frames of the clip.
        stages: of the model, the first sampling stage first.
        title: what the model said.
        summary: the same and more, for a terminal.
        boxes: (n, 4) true boxes of a picture, (T, n, 4) on each frame of a clip; n is 0
            where none is known.
        area: (H, W) bool, the disturbed pixels; None where none is.
        tokens: indices of the tokens that somebody asked for; None stands for all.
        answer: what these tokens answer to, e.g. 'dog (true)', or ''.
        undisturbed: stages of the undisturbed picture, where its pixels are at the
            same place; None otherwise.
        detections: of a detector.
        painted: (H, W, 3) RGB uint8 by name, of a segmentor: truth and prediction.
        legend: names and colours (RGB in 0..1) of the classes painted.
    """

    name: str
    frames: Sequence[Frame]
    stages: Sequence[Stage]
    title: str = ''
    summary: str = ''
    boxes: np.ndarray = np.zeros((0, 4))
    area: Optional[np.ndarray] = None
    tokens: Optional[np.ndarray] = None
    answer: str = ''
    undisturbed: Optional[Sequence[Stage]] = None
    detections: Optional[Detections] = None
    painted: Optional[Dict[str, np.ndarray]] = None
    legend: Sequence[Tuple[str, np.ndarray]] = ()

    @property
    def frame(self) -> Frame:
        """The picture, or the middle one of the clip's."""
        return self.frames[len(self.frames) // 2]

    @property
    def image(self) -> np.ndarray:
        return self.frame.image

    @property
    def num_tokens(self) -> int:
        return len(self.stages[-1].rois)

    @property
    def drawn_tokens(self) -> np.ndarray:
        return np.arange(self.num_tokens) if self.tokens is None else self.tokens


def _position(window: Tensor) -> Tuple[int, int]:
    """x, y of a window, which is a view of the whole batch of one picture."""
    row, column = window.stride()[-2:]
    offset = window.storage_offset()
    return offset % row // column, offset // row


@contextmanager
def record(model: nn.Module) -> Iterator[List[Call]]:
    """Record the calls of a model's backbone while a library runs the model.

    Args:
        model: with a SparseFormer as ``backbone``.

    Yields:
        Calls in order; several where a segmentor slides a window.
    """
    calls: List[Call] = []
    backbone = model.backbone
    forward_intermediates = backbone.forward_intermediates

    def recorded(inputs, valid_shapes=None):
        if valid_shapes is None:
            valid_shapes = noted_shapes(inputs)
        outputs = forward_intermediates(inputs, valid_shapes)
        height, width = inputs.shape[-2:] if valid_shapes is None else valid_shapes[0]
        calls.append(Call(_position(inputs), (width, height), outputs))
        return outputs

    # What its forward calls, as long as the instance has an attribute of that name.
    backbone.forward_intermediates = recorded
    try:
        yield calls
    finally:
        del backbone.forward_intermediates


def stages_of(records: Sequence[StageRecord], index: int = 0) -> List[Stage]:
    """The sampling stages of one picture of a batch.

    Args:
        records: of a backbone's or classifier's outputs, ``outputs.stages``.
        index: of the picture.
    """
    stages = []
    for record in records:
        both = (x[index].detach().double().cpu() for x in (record.rois, record.points))
        stages.append(Stage(record.name, *(x.numpy() for x in both)))
    return stages


def picture_stages(calls: Sequence[Call], shape: Sequence[int]) -> List[Stage]:
    """Bring what a backbone recorded into units of the picture or clip.

    Args:
        calls: on one picture or clip, a batch of one.
        shape: height and width of the picture inside the network's input
            (``img_shape`` of its sample).
    """
    picture = np.array([shape[1], shape[0]], dtype=np.float64)
    result = []
    for same in zip(*(stages_of(call.outputs.stages) for call in calls)):
        rois, points = [], []
        for call, stage in zip(calls, same):
            dims = stage.points.shape[-1]
            scale, shift = np.ones(dims), np.zeros(dims)
            scale[:2], shift[:2] = call.size / picture, call.offset / picture
            center, sides = np.split(stage.rois, 2, axis=1)
            rois.append(np.concatenate([center * scale + shift, sides * scale], axis=1))
            points.append(stage.points * scale + shift)
        result.append(Stage(same[0].name, np.concatenate(rois), np.concatenate(points)))
    return result


def spread(total: int, count: int) -> np.ndarray:
    """Indices in the middle of ``count`` equal parts of ``total``; all if fewer."""
    count = min(total, count)
    return ((np.arange(count) + 0.5) * total / count).astype(int)
