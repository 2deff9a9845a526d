"""Convolution and max-pool, a strip of an image at a time.

What lies between is four times as large as the map: 87 MB for a detector's image, of
which no cache holds more than a part. A strip of it stays there, and the backward pass
needs of it only where the maxima were.
"""

from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .ops import even_slices, fast_cpu, is_plain, is_transforming, needs_grad

# Numbers between convolution and pool at a time; 6 MiB, a bit more than 224 x 224
# pixels make with 96 channels, which strips do not make faster.
_MAX_BETWEEN = 1_572_864


def channels_last(x: Tensor) -> Tensor:
    """``x`` with its channels in rows in memory."""
    if is_transforming():  # vmap has one more axis than this layout
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


def _pool(x: Tensor, **kwargs):
    return F.max_pool2d(x, 3, stride=2, padding=1, **kwargs)


class _Strip(NamedTuple):
    """Rows of the maps of some images, and what they are made of.

    Attributes:
        images: which ones; several where all of each is one strip.
        out: rows of the map.
        extra: 1 if a pooled row comes before these, which is not right: its window
            reaches out of the strip.
        rows: of the image that the convolution reads.
        margins: rows of zeros above and below these.
        between: rows and columns that the convolution gives.
    """

    images: slice
    out: slice
    extra: int
    rows: slice
    margins: Tuple[int, int]
    between: Tuple[int, int]


def _sides(image: Tensor, conv: nn.Conv2d) -> List[int]:
    """Rows and columns that the convolution gives; 0 or less where it would raise."""
    return [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, padding, dilation, kernel, stride in zip(
            image.shape[2:], conv.padding, conv.dilation, conv.kernel_size, conv.stride
        )
    ]


def _strips(x: Tensor, conv: nn.Conv2d) -> Iterator[_Strip]:
    num_images, height = x.shape[0], x.shape[2]
    stride, padding = conv.stride[0], conv.padding[0]
    reach = conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
    rows, columns = _sides(x, conv)
    row = columns * conv.out_channels
    for images in even_slices(num_images, _MAX_BETWEEN // (rows * row)):
        for out in even_slices((rows + 1) // 2, _MAX_BETWEEN // (2 * row)):
            # A window is the row of twice the pooled one's number and both beside it.
            extra = int(out.start > 0)
            first, end = 2 * (out.start - extra), min(2 * out.stop, rows)
            top = first * stride - padding
            bottom = (end - 1) * stride - padding + reach
            read = slice(max(0, top), min(height, bottom))
            margins = read.start - top, bottom - read.stop
            yield _Strip(images, out, extra, read, margins, (end - first, columns))


def _read(x: Tensor, strip: _Strip) -> Tensor:
    part = x[strip.images, :, strip.rows]
    return channels_last(F.pad(part, (0, 0, *strip.margins)))


def _forward(x: Tensor, weight, bias, conv: nn.Conv2d, places: bool) -> List[Tensor]:
    """Maps with channels in rows and, if wanted, the place of each number of them in
    the convolution of its strip."""
    rows, columns = _sides(x, conv)
    shape = len(x), conv.out_channels, (rows + 1) // 2, (columns + 1) // 2
    filled = [
        torch.empty(
            shape, dtype=dtype, device=x.device, memory_format=torch.channels_last
        )
        for dtype in ((x.dtype, torch.int32) if places else (x.dtype,))
    ]
    args = conv.stride, (0, conv.padding[1]), conv.dilation, conv.groups
    for strip in _strips(x, conv):
        full = F.conv2d(_read(x, strip), weight, bias, *args)
        pooled = _pool(full, return_indices=places)
        for whole, part in zip(filled, pooled if places else [pooled]):
            whole[strip.images, :, strip.out] = part[:, :, strip.extra :]
    return filled


class _ConvPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor], conv):
        maps, places = _forward(x, weight, bias, conv, places=True)
        ctx.conv, ctx.has_bias = conv, bias is not None
        ctx.save_for_backward(x, weight, places)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, places = ctx.saved_tensors
        conv, (channels, *_) = ctx.conv, weight.shape
        wanted = [*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2]]
        likes = x, weight, weight[:, 0, 0, 0]
        grads = [torch.zeros_like(t) if w else None for t, w in zip(likes, wanted)]
        for strip in _strips(x, conv):
            some = strip.images, slice(None), strip.out
            part = _read(x, strip)
            above = 0, 0, strip.extra, 0
            full = torch.empty(  # Only its shape and layout are read.
                (len(part), channels, *strip.between),
                dtype=x.dtype,
                device=x.device,
                memory_format=torch.channels_last,
            )
            grad_full = torch.ops.aten.max_pool2d_with_indices_backward(
                channels_last(F.pad(grad[some], above)),
                full,
                [3, 3],
                [2, 2],
                [1, 1],
                [1, 1],
                False,
                channels_last(F.pad(places[some].long(), above)),
            )
            part_x, *parts = torch.ops.aten.convolution_backward(
                grad_full,
                part,
                weight,
                [channels],
                conv.stride,
                (0, conv.padding[1]),
                conv.dilation,
                False,
                [0, 0],
                conv.groups,
                wanted,
            )
            if wanted[0]:
                above, below = strip.margins
                part_x = part_x[:, :, above : part_x.shape[2] - below]
                grads[0][strip.images, :, strip.rows] += part_x
            for whole, part in zip(grads[1:], parts):
                if whole is not None:
                    whole += part
        return (*grads, None)


def conv_pool(x: Tensor, conv: nn.Module) -> Tensor:
    """3 x 3 max-pool with stride 2 of ``conv(x)``.

    Args:
        x: (B, C_in, H, W).
        conv: a convolution, or what somebody put into its place.

    Returns:
        Tensor (B, C, H', W'), usually with its channels in rows.
    """
    in_strips = (
        is_plain(conv, nn.Conv2d)
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and conv.padding[0] < conv.kernel_size[0]  # else a strip may be all padding
        and fast_cpu(x, conv.weight, conv.bias)
        and min(_sides(x, conv)) > 0
    )
    if not in_strips:
        return _pool(conv(channels_last(x)))
    args = x, conv.weight, conv.bias, conv
    if needs_grad(*args[:3]):
        return _ConvPool.apply(*args)
    (maps,) = _forward(*args, places=False)
    return maps
