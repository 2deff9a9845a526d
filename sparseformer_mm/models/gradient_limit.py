"""The limit on the gradient of coordinates, and the loss scale it has to know."""

import warnings
from typing import List

import torch
from torch import Tensor, nn

from .ops import autocast_dtype, is_tracing, is_transforming


class _LimitGradient(torch.autograd.Function):
    """Identity whose gradient is clamped element-wise to [-limit, limit]."""

    @staticmethod
    def forward(x: Tensor, limit: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        (limit,) = ctx.saved_tensors
        return torch.minimum(torch.maximum(grad, -limit), limit), None


class _LimitGradientTransformed(_LimitGradient):
    """The same with what torch.func needs, and torch.compile does not know."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, tangent: Tensor, _) -> Tensor:
        return tangent.view_as(tangent)


def limit_gradient(x: Tensor, limit: Tensor) -> Tensor:
    """Return ``x``; its gradient will be clamped to [-limit, limit].

    Args:
        x: any tensor.
        limit: positive, of the same dtype and device, broadcast against ``x``.
    """
    kind = _LimitGradientTransformed if is_transforming() else _LimitGradient
    return kind.apply(x, limit)


class TellsLossScale:
    """Mix-in of a model with samplers: tells them by what the loss is multiplied.

    A sampler is a module that ``knows_loss_scale``, or not, such as
    :class:`~.sampling.SparseSampling`.
    """

    _warned = False

    def set_loss_scale(self, scale: float):
        """Tell the gradient limit of sampling coordinates the current loss scale.

        :class:`sparseformer_mm.LossScaleHook` does so before every iteration.
        """
        for sampler in self._samplers():
            sampler.set_loss_scale(scale)

    def _samplers(self) -> List[nn.Module]:
        return [m for m in self.modules() if hasattr(m, 'knows_loss_scale')]

    def _check_loss_scale(self, device_type: str):
        """Warn once of training in float16 with a loss scale that nobody tells."""
        if not self.training or self._warned or is_tracing():
            return
        if autocast_dtype(device_type) is not torch.float16:
            return
        limited = [m for m in self._samplers() if getattr(m, 'limit_grad', True)]
        if not all(sampler.knows_loss_scale for sampler in limited):
            self._warned = True
            warnings.warn(
                'SparseFormer trains under float16 autocast, but nothing tells it the '
                'loss scale: the limit on coordinate gradients would be off by that '
                "factor. Add dict(type='sparseformer_mm.LossScaleHook') to "
                'custom_hooks, or call set_loss_scale() if you scale the loss '
                'yourself. (bfloat16 needs neither.)',
                stacklevel=3,
            )
