"""Frames through a stem a few at a time, so that only their maps are ever held."""

from typing import Iterator, Tuple

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops import autocast_dtype


def run_in_chunks(stem: nn.Module, videos: Tensor, chunk: int) -> Tensor:
    """Run ``stem.forward_images`` on at most ``chunk`` frames at a time.

    Each map is written where it belongs, and the backward pass recomputes a chunk to
    get its gradient: neither keeps what lies between the frames and their maps, and
    no second copy of the maps is made.

    Args:
        stem: whose ``forward_images`` maps (K, C_in, H, W) to (K, H', W', C).
        videos: (B, C_in, T, H, W).
        chunk: at least 1.

    Returns:
        Tensor (B, T, H', W', C).
    """
    if not torch.is_grad_enabled():
        return _fill(stem, videos, chunk)
    return _Chunked.apply(stem, chunk, videos, *stem.parameters())


def _pieces(videos: Tensor, chunk: int) -> Iterator[Tuple[int, slice]]:
    for clip in range(len(videos)):
        for start in range(0, videos.shape[2], chunk):
            yield clip, slice(start, start + chunk)


def _fill(stem: nn.Module, videos: Tensor, chunk: int) -> Tensor:
    maps = None
    for clip, frames in _pieces(videos, chunk):
        part = stem.forward_images(videos[clip, :, frames].transpose(0, 1))
        if maps is None:
            shape = len(videos), videos.shape[2], *part.shape[1:]
            maps = part.new_empty(shape)
        maps[clip, frames] = part
    return maps


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stem: nn.Module, chunk: int, videos: Tensor, *params: Tensor):
        ctx.stem, ctx.chunk = stem, chunk
        ctx.autocast = autocast_dtype(videos.device.type)
        ctx.save_for_backward(videos, *params)
        return _fill(stem, videos, chunk)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        videos, *params = ctx.saved_tensors
        _, _, needs_videos, *needs_params = ctx.needs_input_grad
        grad_videos = torch.zeros_like(videos) if needs_videos else None
        sums = [
            torch.zeros_like(p) if n else None for p, n in zip(params, needs_params)
        ]
        autocast = torch.autocast(
            videos.device.type, ctx.autocast, enabled=ctx.autocast is not None
        )
        for clip, frames in _pieces(videos, ctx.chunk):
            part = videos[clip, :, frames].detach().requires_grad_(needs_videos)
            with torch.enable_grad(), autocast:
                maps = ctx.stem.forward_images(part.transpose(0, 1))
            wanted = [p for p, n in zip(params, needs_params) if n]
            wanted += [part] if needs_videos else []
            grads = list(torch.autograd.grad(maps, wanted, grad[clip, frames]))
            if needs_videos:
                grad_videos[clip, :, frames] = grads.pop()
            for total in sums:
                if total is not None:
                    total += grads.pop(0)
        return (None, None, grad_videos, *sums)
