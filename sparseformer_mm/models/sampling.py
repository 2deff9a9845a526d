"""Sparse sampling: where a token looks, and what it reads there.

Two implementations of bilinear (D = 2) and trilinear (D = 3) interpolation with
zeros outside the map: :func:`sample_grid` on torch's ``grid_sample`` is the
reference, and what exporters get; :func:`sample_gather` reads whole rows of a
channels-last map, with the kernel of :mod:`.kernels`, as weighted bags or in plain
operations, and is several times faster on CPU.
"""

import warnings
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..registry import MODELS
from . import kernels, ops
from .arguments import check_choice
from .gradient_limit import limit_gradient
from .ops import (
    at_least_float32,
    fast_cpu,
    is_compiling_inference,
    is_tracing,
    is_transforming,
    make_linear,
    no_autocast,
    project,
)
from .padding import map_extent
from .rois import OFFSET_EPS, init_offsets, points_in_rois


def sample_grid(feature: Tensor, points: Tensor) -> Tensor:
    """Interpolate a channels-last map at points through ``grid_sample``.

    Args:
        feature: (B, H, W, C) or (B, T, H, W, C).
        points: (B, M, D), 0 and 1 are the map's outer edges, x first.

    Returns:
        Tensor (B, M, C); zeros are read outside the map.
    """
    grid = points.to(feature.dtype) * 2 - 1
    grid = grid[(slice(None),) * 2 + (None,) * (points.shape[-1] - 1)]
    # ONNX knows no negative axis here.
    channels_first = feature.movedim(feature.dim() - 1, 1)
    sampled = F.grid_sample(channels_first, grid, mode='bilinear', align_corners=False)
    return sampled.flatten(2).transpose(1, 2)


def _corner_rows(feature: Tensor, points: Tensor):
    """Rows of the flattened map around each point, and their weights.

    Returns:
        tuple: ``rows`` (B * M, 2 ** D) and ``weights`` (B, M, 2 ** D), the latter
        differentiable in ``points`` and zero outside the map.
    """
    batch, num, _ = points.shape
    sizes = feature.shape[1:-1]
    extents = map_extent(sizes, points).flip(0)
    # Axis by axis, slowest first, with the points last in memory: a last axis of two
    # or three numbers makes each operation ten times as slow.
    coordinates = points.movedim(2, 0).flip(0)
    rows = [torch.arange(batch, device=points.device)[:, None]]
    weights = [1.0]
    for size, extent, coordinate in zip(sizes, extents, coordinates):
        # Beyond one pixel outside, every weight is zero: clamping there changes
        # nothing and keeps the integer conversion in range.
        pixel = (coordinate * extent - 0.5).clamp(min=-2.0)
        pixel = torch.minimum(pixel, extent + 1)
        lower = pixel.detach().floor()
        upper_weight = pixel - lower
        top = extent - 1
        corners, pair = [], []
        for corner, weight in ((lower, 1 - upper_weight), (lower + 1, upper_weight)):
            pair.append(weight * ((corner >= 0) & (corner <= top)))
            # A NaN keeps its NaN weights, but needs some row.
            corner = torch.minimum(corner.nan_to_num(0.0).clamp(min=0.0), top)
            corners.append(corner.long())
        rows = [row * size + corner for row in rows for corner in corners]
        weights = [weight * other for weight in weights for other in pair]
    rows = torch.stack(rows, -1).view(batch * num, len(rows))
    return rows, torch.stack(weights, -1)


class _WeightedRows(torch.autograd.Function):
    """Weighted sums of rows: ``out[m] = sum_k weights[m, k] * table[rows[m, k]]``.

    torch's ``embedding_bag`` forward; backward as a bag too, over the sorted rows,
    which takes a fraction of the time of its own backward pass.
    """

    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, mode='sum', per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        table, rows, weights = ctx.saved_tensors
        grad = grad.contiguous()
        flat, bag_size = rows.flatten(), rows.shape[1]
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            order = flat.argsort()
            counts = flat.bincount(minlength=len(table))
            grad_table = F.embedding_bag(
                order.div(bag_size, rounding_mode='floor'),
                grad,
                counts.cumsum(0) - counts,
                mode='sum',
                per_sample_weights=weights.flatten()[order],
            )
        if ctx.needs_input_grad[2]:
            bags = torch.arange(len(rows), device=rows.device)
            grad_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, table, flat, bags * bag_size, bags.repeat_interleave(bag_size), 0
            ).view_as(weights)
        return grad_table, None, grad_weights


def _weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """:class:`_WeightedRows` in plain operations, deterministic on every device."""
    return (table[rows] * weights[..., None]).sum(1)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feature: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(feature, points)
        ctx.ops = kernels.OPS
        return ctx.ops.sample(feature, points)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        saved = ctx.saved_tensors
        return ctx.ops.sample_backward(*saved, grad, *ctx.needs_input_grad)


def sample_gather(feature: Tensor, points: Tensor) -> Tensor:
    """Same as :func:`sample_grid`, in weighted sums of channels-last rows.

    By the kernel of :mod:`.kernels`, or as torch's bags.
    """
    if fast_cpu(feature, points) and kernels.load():
        return _Kernel.apply(feature, points)
    batch, num, _ = points.shape
    channels = feature.shape[-1]
    rows, weights = _corner_rows(feature, points)
    weights = weights.reshape(rows.shape).to(feature.dtype)
    plain = feature.device.type != 'cpu' or is_tracing() or is_transforming()
    bags = not plain and rows.numel() > 0
    gather = _WeightedRows.apply if bags else _weighted_rows
    return gather(feature.reshape(-1, channels), rows, weights).view(
        batch, num, channels
    )


def sample_points(feature: Tensor, points: Tensor) -> Tensor:
    """Interpolate with the implementation that suits the device.

    Rows on CPU, where that is faster, and wherever torch is told to be deterministic,
    which ``grid_sample`` is not on GPUs; else ``grid_sample``. Args and result as
    :func:`sample_grid`.
    """
    return (sample_gather if _reads_rows(feature) else sample_grid)(feature, points)


def _reads_rows(feature: Tensor) -> bool:
    on_cpu = feature.device.type == 'cpu'
    if is_tracing():
        # Compiled for a CPU, the rows make the whole model 1.2 times as fast.
        return ops.TRACE_GATHER or is_compiling_inference(feature)
    if is_transforming():  # grid_sample has no forward-mode derivative
        return True
    return ops.FAST_OPS if on_cpu else torch.are_deterministic_algorithms_enabled()


def lay_out(feature: Tensor) -> Tensor:
    """The same map (B, [T,] H, W, C), in memory as :func:`sample_points` reads it best.

    ``grid_sample`` on a GPU takes 0.6 of the time, 0.4 without gradients, where a
    channel's pixels lie side by side. Compilers lay out maps themselves.
    """
    if is_tracing() or _reads_rows(feature):
        return feature
    return feature.movedim(-1, 1).contiguous().movedim(1, -1)


def sample_image(feature: Tensor, points: Tensor, extents: Optional[Tensor]) -> Tensor:
    """Interpolate at points that are relative to the images of a padded batch.

    Args:
        feature: (B, [T,] H, W, C).
        points: (B, N, P, D) in units of the image, x first.
        extents: (B, D) or (1, D), x first: how many pixels of ``feature`` belong to
            each image, the rest being zero; None if all do.

    Returns:
        Tensor (B, N, P, C).
    """
    batch, num_tokens, num_points, _ = points.shape
    if extents is not None:
        share = extents / map_extent(feature.shape[1:-1], extents)
        points = points * share.to(points)[:, None, None]
    sampled = sample_points(feature, points.flatten(1, 2))
    return sampled.reshape(batch, num_tokens, num_points, feature.shape[-1])


def clamp_to_pixels(
    points: Tensor, feature: Tensor, extents: Optional[Tensor] = None
) -> Tensor:
    """Move points that are beyond the outermost pixels' centers onto these.

    What is read there is what ``grid_sample`` calls border padding, at the border of
    each image in a padded batch.

    Args:
        points: (B, N, P, D) in units of the image, x first.
        feature: (B, [T,] H, W, C).
        extents: as in :meth:`SparseSampling.forward`.
    """
    if extents is None:
        extents = map_extent(feature.shape[1:-1], points)[None]
    half = (0.5 / extents).to(points)[:, None, None]
    return torch.minimum(torch.maximum(points, half), 1 - half)


@MODELS.register_module()
class SparseSampling(BaseModule):
    """Sampling points from a token and its RoI, and the feature there.

    Offsets are ``Linear(LayerNorm(token)) + bias`` (paper, equation 2), standardised
    and placed into the RoI by :func:`~.rois.points_in_rois`. The gradient of each
    coordinate is clamped to +-1/H, H the map's height, times the current loss scale
    (authors' code); :class:`sparseformer_mm.LossScaleHook` keeps the latter.

    Args:
        dims: token width d.
        num_points: P.
        spatial_dims: D, 2 or 3.
        learnable: False fixes the points to the initial grid (Table 3b, 'nil').
        limit_grad: False lets the coordinates' gradients through as they are.
        time_offsets: 'spread' or 'middle', see :func:`~.rois.init_offsets`.
        padding: what is read outside the image: 'zeros', or 'border' for what is at
            its edge.
        offset_eps: added to the offsets' standard deviation.
        norm_eps: of the LayerNorm.

    Shape:
        tokens (B, N, d), rois (B, N, 2D), feature (B, [T,] H, W, C) ->
        sampled (B, N, P, C), points (B, N, P, D).
    """

    def __init__(
        self,
        dims: int,
        num_points: int,
        spatial_dims: int = 2,
        learnable: bool = True,
        limit_grad: bool = True,
        time_offsets: str = 'spread',
        padding: str = 'zeros',
        offset_eps: float = OFFSET_EPS,
        norm_eps: float = 1e-6,
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        check_choice('padding', padding, ('zeros', 'border'))
        self.padding = padding
        self.offset_eps = offset_eps
        self.num_points = num_points
        self.time_offsets = time_offsets
        self.spatial_dims = spatial_dims
        self.learnable = learnable
        self.limit_grad = limit_grad
        self.bias = nn.Parameter(
            torch.empty(num_points * spatial_dims), requires_grad=learnable
        )
        if learnable:
            self.norm = nn.LayerNorm(dims, eps=norm_eps)
            self.proj = make_linear(dims, num_points * spatial_dims, bias=False)
        # A buffer, so that a changing loss scale neither recompiles a compiled
        # model nor leaks into another one; not saved with the weights.
        self.register_buffer('loss_scale', torch.ones(()), persistent=False)
        self._loss_scale = 1.0
        self.knows_loss_scale = False
        self._reset()

    def _reset(self):
        with torch.no_grad():
            offsets = init_offsets(
                self.num_points, self.spatial_dims, self.time_offsets
            )
            self.bias.copy_(offsets.flatten())
        if self.learnable:
            nn.init.ones_(self.norm.weight)
            nn.init.zeros_(self.norm.bias)
            nn.init.zeros_(self.proj.weight)

    def init_weights(self):
        self._reset()
        self._restore_loss_scale()
        super().init_weights()  # an init_cfg of its own wins

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._restore_loss_scale()

    def _restore_loss_scale(self):
        """Give the buffer its value where no file can.

        A model built on the meta device has uninitialised memory in it after
        ``to_empty``, and none at all after ``load_state_dict(..., assign=True)``.
        """
        buffer = self.loss_scale
        # A model in half precision cannot hold every scale.
        scale = min(self._loss_scale, torch.finfo(buffer.dtype).max)
        if buffer.device == self.bias.device:
            buffer.fill_(scale)
        else:
            self.loss_scale = torch.full_like(buffer, scale, device=self.bias.device)

    def set_loss_scale(self, scale: float):
        """Tell the limiter by what the loss is multiplied before ``backward``."""
        self._loss_scale = scale
        self.knows_loss_scale = True
        self._restore_loss_scale()

    def _limits(self, points: Tensor) -> bool:
        if not (self.limit_grad and torch.is_grad_enabled() and points.requires_grad):
            return False
        if not torch.jit.is_tracing():
            return True
        if self.training:
            warnings.warn(
                'torch.jit.trace cannot record the limit on coordinate gradients '
                '(limit_coord_grad): the traced model is for inference; trace '
                'model.eval(), and train the model itself, with torch.compile if you '
                'like',
                stacklevel=2,
            )
        return False

    def locate(self, tokens: Tensor, rois: Tensor) -> Tensor:
        """Where the tokens look.

        Args:
            tokens: (B, N, d), or (1, N, d).
            rois: (B, N, 2D), or (1, N, 2D).

        Returns:
            Tensor (B, N, P, D) in units of the image, x first, float32 or better.
        """
        with no_autocast(tokens):
            offsets = at_least_float32(self.bias)
            if self.learnable:
                tokens = tokens.to(self.norm.weight.dtype)
                moves = project(self.norm(tokens), self.proj)
                offsets = at_least_float32(moves) + offsets
            else:
                offsets = offsets.expand(*rois.shape[:2], -1)
            offsets = offsets.unflatten(-1, (self.num_points, self.spatial_dims))
            return points_in_rois(rois, offsets, self.offset_eps)

    def forward(
        self,
        tokens: Tensor,
        rois: Tensor,
        feature: Tensor,
        extents: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Sample the map.

        Args:
            tokens: (B, N, d), or (1, N, d) if all images share them.
            rois: (B, N, 2D), or (1, N, 2D).
            feature: (B, [T,] H, W, C).
            extents: (B, D), x first: how many pixels of ``feature`` belong to each
                image, the rest being zero; None if all do. RoIs and points are in
                units of the image.

        Returns:
            tuple: sampled (B, N, P, C); points (B, N, P, D), or (1, N, P, D) where
            tokens and RoIs are shared.
        """
        points = self.locate(tokens, rois)
        with no_autocast(tokens):
            # In the first stage all images share their tokens; the limit below is
            # on the gradient of each image's coordinates.
            read_at = points.expand(feature.shape[0], -1, -1, -1)
            if self._limits(points):
                height = feature.shape[-3]
                if extents is not None:
                    height = extents[:, 1, None, None, None]
                limit = self.loss_scale.to(points.dtype) / height
                read_at = limit_gradient(read_at, limit)
            if self.padding == 'border':
                read_at = clamp_to_pixels(read_at, feature, extents)
            return sample_image(feature, read_at, extents), points
