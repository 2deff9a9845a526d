"""Stems: from the input to the map that tokens sample.

A stem is built as ``(in_channels, out_channels)``, maps (B, C_in, [T,] H, W) to a
channels-last map (B, [T,] H', W', out_channels) in float32 or better, and treats
the frames of a video as so many images. It may decide ``out_channels`` by itself, and
says its ``stride``. Images of a padded batch go through it one by one, so it must not
rely on statistics of the whole batch.
Another one is written by registering a class of that form with
:data:`sparseformer_mm.registry.MODELS` and naming it in ``stem=dict(type=...)``.
"""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from ..registry import MODELS
from .arguments import check_count
from .chunks import run_in_chunks
from .conv_pool import channels_last, conv_pool
from .ops import (
    at_least_float32,
    is_tracing,
    is_transforming,
    needs_reference,
    no_autocast,
)

_EPS = 1e-7  # added to the variance (authors' training code)
# Of images at a time at inference: four of 224 x 224.
_MAX_PIXELS = 200_704


def channel_norm(x: Tensor, biased: bool = False, eps: float = _EPS) -> Tensor:
    """Normalise the last axis, without learnable weights.

    ``(x - mean) / sqrt(variance + eps)``. The unbiased variance is had of
    ``layer_norm``, whose is biased, by scaling epsilon and gain by (C - 1) / C.

    Args:
        x: (..., C) with C at least 2.
        biased: whether the variance is.
        eps: added to it.

    Returns:
        Tensor (..., C), float32 or float64.
    """
    channels = int(x.shape[-1])  # a tensor while torch.jit traces
    with no_autocast(x):
        x = at_least_float32(x)
        if biased:
            return F.layer_norm(x, (channels,), eps=eps)
        ratio = (channels - 1) / channels
        gain = x.new_full((channels,), ratio**0.5)
        return F.layer_norm(x, (channels,), gain, eps=eps * ratio)


class _FramewiseStem(BaseModule):
    """Runs ``forward_images`` on images, or on each frame of videos."""

    stride = 1

    def __init__(self, in_channels: int, out_channels: int, init_cfg=None):
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels

    def forward_images(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, H', W', C)."""
        raise NotImplementedError

    def _chunk(self, x: Tensor) -> Optional[int]:
        """How many images or frames to run at a time, None for all."""

    def forward(self, x: Tensor) -> Tensor:
        whole = is_tracing() or is_transforming() or 0 in x.shape
        chunk = None if whole else self._chunk(x)
        if chunk is not None:
            # Images are run like the frames of one video.
            videos = x if x.dim() == 5 else x.transpose(0, 1)[None]
            maps = run_in_chunks(self, videos, chunk)
            return maps if x.dim() == 5 else maps[0]
        if x.dim() == 4:
            return self.forward_images(x)
        frames = x.transpose(1, 2)
        feature = self.forward_images(frames.flatten(0, 1))
        # (torch.jit would trace unflatten with the batch as a constant.)
        return feature.reshape(frames.shape[:2] + feature.shape[1:])


class _ConvStem(_FramewiseStem):
    """A stem with one convolution, ``self.conv``, and :func:`channel_norm`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        frames_per_chunk: Optional[int],
        biased_norm: bool,
        norm_eps: float,
        init_cfg=None,
    ):
        super().__init__(in_channels, out_channels, init_cfg)
        self.biased_norm = biased_norm
        self.norm_eps = norm_eps
        if frames_per_chunk is not None:
            frames_per_chunk = check_count('frames_per_chunk', frames_per_chunk)
        self.frames_per_chunk = frames_per_chunk

    def _norm(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, C)."""
        x = x.permute(0, 2, 3, 1).contiguous()
        return channel_norm(x, self.biased_norm, self.norm_eps)

    def _chunk(self, x: Tensor) -> Optional[int]:
        chunk = self.frames_per_chunk if x.dim() == 5 else None
        if x.device.type != 'cpu' or needs_reference() or torch.is_grad_enabled():
            return chunk
        # Maps are normalised while they are in the cache.
        pixels = x.shape[-2] * x.shape[-1]
        at_most = min(max(1, _MAX_PIXELS // pixels), chunk or _MAX_PIXELS)
        return at_most if at_most * pixels * x.shape[1] < x.numel() else None

    def init_weights(self):
        self._reset()
        super().init_weights()  # an init_cfg of its own wins

    def _reset(self):
        nn.init.kaiming_normal_(self.conv.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.conv.bias)


@MODELS.register_module()
class EarlyConv(_ConvStem):
    """Early convolution (paper, section 3.2): 7x7 / 2, ReLU, 3x3 / 2 max-pool, norm.

    The map is normalised over its channels at each pixel (:func:`channel_norm`).

    Args:
        in_channels: of the image.
        out_channels: C.
        frames_per_chunk: of a video, how many frames run at a time (in training,
            once more in the backward pass); the convolution's output, four times as
            large as the map, then never exists for the whole batch. None: all.
        biased_norm, norm_eps: variance and epsilon of the norm. The authors' training
            code has the unbiased one and 1e-7, their bootstrapped models the biased
            one and 1e-5.

    Shape:
        (B, in_channels, [T,] H, W) -> (B, [T,] ceil(H/4), ceil(W/4), C).
    """

    stride = 4

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 96,
        frames_per_chunk: Optional[int] = None,
        biased_norm: bool = False,
        norm_eps: float = _EPS,
        init_cfg=None,
    ):
        super().__init__(
            in_channels, out_channels, frames_per_chunk, biased_norm, norm_eps, init_cfg
        )
        self.conv = nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3)
        self._reset()

    def forward_images(self, x: Tensor) -> Tensor:
        # The maximum commutes with ReLU, which has a quarter of the work after it.
        return self._norm(F.relu(conv_pool(x, self.conv), inplace=True))


@MODELS.register_module()
class PatchEmbed(_ConvStem):
    """Non-overlapping patches as in ViT, kept as a map (Table 3d, 'ViT/8-embed').

    Args:
        in_channels: of the image.
        out_channels: C.
        patch_size: in pixels. The input is padded with zeros to a multiple of it.
        frames_per_chunk, biased_norm, norm_eps: as in :class:`EarlyConv`.

    Shape:
        (B, in_channels, [T,] H, W) -> (B, [T,] ceil(H/8), ceil(W/8), C).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 96,
        patch_size: int = 8,
        frames_per_chunk: Optional[int] = None,
        biased_norm: bool = False,
        norm_eps: float = _EPS,
        init_cfg=None,
    ):
        super().__init__(
            in_channels, out_channels, frames_per_chunk, biased_norm, norm_eps, init_cfg
        )
        self.stride = patch_size
        self.conv = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size)
        self._reset()

    def forward_images(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        x = self.conv(channels_last(x))
        return self._norm(x)


@MODELS.register_module()
class RawPixels(_FramewiseStem):
    """The input itself as the map (Table 3d, 'RGB', which the paper could not train).

    Shape:
        (B, C, [T,] H, W) -> (B, [T,] H, W, C).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, init_cfg=None):
        super().__init__(in_channels, in_channels, init_cfg)

    def forward_images(self, x: Tensor) -> Tensor:
        return at_least_float32(x.permute(0, 2, 3, 1).contiguous())
