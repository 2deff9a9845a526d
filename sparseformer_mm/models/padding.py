"""Padded batches: images of different sizes in one tensor.

Libraries pad the images of a batch to the right and below. ``valid_shapes`` says how
much of the input is image, (height, width) in pixels of each; ``extents`` says the
same of the map that tokens sample, (B, D) in its pixels, x first. Where both are None
nothing is padded. The model sees no padding; a dense head needs :func:`inside_images`
and :func:`repeat_edges`. A library's model hands its backbone nothing but the padded
tensor: :func:`note_sizes` leaves the sizes on it, in the data preprocessor of any model
(:class:`NotesSizes`) and in the models of this package (:class:`PaddingAware`).
"""

import operator
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import at_least_float32


def map_extent(sizes: Tuple[int, ...], like: Tensor) -> Tensor:
    """(D,) pixels of a whole map with x first, from its (T,) H, W shape."""
    if torch.jit.is_tracing():  # sizes are tensors, and torch.tensor makes constants
        return torch.stack([torch.as_tensor(size) for size in sizes[::-1]]).to(like)
    return torch.tensor(sizes[::-1], dtype=like.dtype, device=like.device)


def make_map(
    stem: nn.Module,
    inputs: Tensor,
    valid_shapes: Optional[Sequence[Tuple[int, int]]] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Run a stem, on images inside a padded batch as on each alone.

    A stem reads beyond the edge of an image, and its norms may read all of it: each
    image by itself is exact for any stem.

    Args:
        stem: with a ``stride``.
        inputs: (B, C_in, [T,] H, W).
        valid_shapes: (height, width) in pixels of each image in the upper left corner
            of its input, or None.

    Returns:
        tuple: the map (B, [T,] ceil(H/stride), ceil(W/stride), C), float32 or better,
        zero outside the images; (B, D) pixels of it that belong to each image, x
        first, or None if all do.

    Raises:
        ValueError: if ``valid_shapes`` do not fit the input.
    """
    canvas = tuple(inputs.shape[-2:])
    if valid_shapes is None:
        return at_least_float32(stem(inputs)), None
    try:
        shapes = [tuple(map(operator.index, shape[:2])) for shape in valid_shapes]
    except (TypeError, IndexError):  # no sequences of integers
        shapes = []
    if len(shapes) != len(inputs) or not all(
        len(shape) == 2 and 1 <= shape[0] <= canvas[0] and 1 <= shape[1] <= canvas[1]
        for shape in shapes
    ):
        raise ValueError(
            f'valid_shapes={valid_shapes} must give one (height, width) in whole '
            f'pixels per image, at most those of the input {tuple(inputs.shape)}'
        )
    if all(shape == canvas for shape in shapes):
        return at_least_float32(stem(inputs)), None
    maps = [
        at_least_float32(stem(image[..., :height, :width]))
        for image, (height, width) in zip(inputs.split(1), shapes)
    ]
    extents = torch.tensor(
        [m.shape[1:-1][::-1] for m in maps], dtype=maps[0].dtype, device=inputs.device
    )
    height, width = (-(-side // stem.stride) for side in canvas)
    padded = [
        F.pad(m, (0, 0, 0, width - m.shape[-2], 0, height - m.shape[-3])) for m in maps
    ]
    return torch.cat(padded), extents


def inside_images(x: Tensor, extents: Tensor) -> Tensor:
    """Which pixels of maps belong to their images.

    Args:
        x: (B, C, H, W).
        extents: (B, 2), x first, in pixels of the maps.

    Returns:
        Tensor (B, 1, H, W), True inside.
    """
    width, height = extents[:, :, None].unbind(1)
    rows = torch.arange(x.shape[2], device=x.device) < height
    columns = torch.arange(x.shape[3], device=x.device) < width
    return (rows[:, :, None] & columns[:, None])[:, None]


def repeat_edges(x: Tensor, extents: Tensor) -> Tensor:
    """Fill the padding of maps with what is at the images' edges.

    Interpolating to another size then mixes nothing of the padding into an image.

    Args:
        x: (B, C, H, W).
        extents: (B, 2), x first, in pixels of the maps.

    Returns:
        Tensor (B, C, H, W).
    """
    height, width = x.shape[2:]
    filled = []
    for image, (right, bottom) in zip(x.split(1), extents.long().tolist()):
        image = image[:, :, :bottom, :right]
        sides = (0, width - right, 0, height - bottom)
        filled.append(F.pad(image, sides, mode='replicate'))
    return torch.cat(filled)


def valid_shapes_of(data_samples) -> Optional[List[Tuple[int, int]]]:
    """(height, width) of each image inside a padded batch, from its data samples.

    Args:
        data_samples: of mmdet or mmseg, or None.

    Returns:
        list, or None if a sample does not know its ``img_shape``.
    """
    shapes = [sample.metainfo.get('img_shape') for sample in data_samples or ()]
    if not shapes or any(shape is None for shape in shapes):
        return None
    return [tuple(shape[:2]) for shape in shapes]


def note_sizes(inputs: Tensor, data_samples) -> None:
    """Leave the sizes of a batch's images on the tensor that holds them."""
    if isinstance(inputs, Tensor):
        inputs.valid_shapes = valid_shapes_of(data_samples)


def noted_shapes(inputs: Tensor) -> Optional[List[Tuple[int, int]]]:
    """What :func:`note_sizes` left on a batch; None for what was cut out of one."""
    return getattr(inputs, 'valid_shapes', None)


class NotesSizes:
    """Mix-in in front of a data preprocessor: padding does not exist for SparseFormer.

    The libraries' data preprocessors pad the images of a batch to a common size on
    the right and below, and the models give their backbone nothing but the padded
    tensor. This leaves the images' own sizes (``img_shape`` of the data samples) on it,
    where :meth:`.SparseFormer.forward` finds them. (A ``Pad`` step of a pipeline
    overwrites ``img_shape``: what it adds counts as image.)

    Parts of the batch that a model cuts out by itself (sliding windows) are tensors of
    their own, and taken as images of their own.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Same as the library's."""
        data = super().forward(data, training)
        note_sizes(data['inputs'], data.get('data_samples'))
        return data


class PaddingAware:
    """Mix-in in front of a detector or segmentor, with any data preprocessor.

    As :class:`NotesSizes`, for a batch that is given to the model itself.
    """

    def forward(self, inputs, data_samples=None, *args, **kwargs):
        """Same as the library's."""
        note_sizes(inputs, data_samples)
        return super().forward(inputs, data_samples, *args, **kwargs)


def check_backbone(backbone: nn.Module, host: str, host_library: str):
    """Raise unless a model's backbone is a SparseFormer that gives its tokens.

    Args:
        backbone: the module.
        host: name of the model, for the message.
        host_library: where other backbones find a model.

    Raises:
        ValueError: naming the cause and the cure.
    """
    if not hasattr(backbone, 'forward_intermediates'):
        raise ValueError(
            f'{host} needs a sparseformer_mm.SparseFormer backbone, got '
            f'{type(backbone).__name__}; other backbones go with the models of '
            f'{host_library}'
        )
    if backbone.out_type != 'tokens':
        raise ValueError(
            f'the backbone has out_type={backbone.out_type!r}; {host} needs '
            "out_type='tokens'"
        )
