"""What a host says of a model's input and answers, in records that all tasks share."""

from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor


class Normalisation(NamedTuple):
    """What a data preprocessor does to colours.

    Attributes:
        mean, std: per channel in the model's order, in 0..255; 0 and 1 for none.
        channel_order: 'RGB' or 'BGR' of the model's input; 'as loaded' where there are
            not three channels, whose order nothing changes.
    """

    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    channel_order: str

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, ..., H, W) in 0..255, RGB if C is 3."""
        if self.channel_order == 'BGR':
            images = images.flip(1)
        shape = (-1,) + (1,) * (images.dim() - 2)
        mean, std = (images.new_tensor(x).view(shape) for x in (self.mean, self.std))
        return (images - mean) / std

    def undo(self, images: Tensor) -> np.ndarray:
        """The pictures (B, ..., H, W, 3), RGB uint8, that became (B, C, ..., H, W).

        Of one or two channels the first as grey, of more than three those of colour.
        """
        shape = (-1,) + (1,) * (images.dim() - 2)
        mean, std = (images.new_tensor(x).view(shape) for x in (self.mean, self.std))
        images = images * std + mean
        channels = images.shape[1]
        if channels < 3:
            images = images[:, [0, 0, 0]]
        elif self.channel_order == 'BGR' or channels > 3:  # loaded as BGR and alpha
            images = images[:, [2, 1, 0]]
        pixels = images.movedim(1, -1).round().clamp(0, 255)
        return pixels.to(torch.uint8).cpu().numpy()


class Instances(NamedTuple):
    """What a detector found in a picture, best first.

    Attributes:
        boxes: (n, 4) x1, y1, x2, y2 relative to the picture.
        scores: (n,).
        labels: (n,).
        masks: (n, H, W) bool; None if it gives none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Optional[np.ndarray] = None


class Prediction(NamedTuple):
    """What a model says about one picture or clip, each task in its own fields.

    Attributes:
        shape: height and width of the picture inside the network's input.
        frames: (T, H, W, 3) RGB uint8, what the network sees where that is not the
            picture itself, which its RoIs are relative to; T is 1 for a picture.
        scores: (K,) probability of each class, of a classifier.
        threshold: of a class that is there, where there may be several; else None.
        token_logits: (N, K) class by class what each token says, of a detector whose
            boxes are those of tokens.
        token_scores: (N, K) the same as probabilities.
        token_boxes: (N, 4) x1, y1, x2, y2 relative to the picture, of such a detector.
        instances: of other detectors.
        mask: (H, W) class of each pixel, of a segmentor.
    """

    shape: Tuple[int, int]
    frames: Optional[np.ndarray] = None
    scores: Optional[np.ndarray] = None
    threshold: Optional[float] = None
    token_logits: Optional[Tensor] = None
    token_scores: Optional[Tensor] = None
    token_boxes: Optional[np.ndarray] = None
    instances: Optional[Instances] = None
    mask: Optional[np.ndarray] = None


class Drawing(NamedTuple):
    """How a library draws predictions while it tests.

    Attributes:
        hook: its type.
        switch: the hook's argument that switches it on.
        visualizer: type of the visualizer.
        folder: the hook's argument for a folder; None if the visualizer takes it.
        views: whether it can draw when test-time augmentation makes several views.
    """

    hook: str
    switch: str
    visualizer: str
    folder: Optional[str]
    views: bool
