"""A SparseFormer of a few thousand weights."""

import torch

from sparseformer_mm import SparseFormer

ARCH = dict(
    num_tokens=5,
    num_points=7,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=24,
    cortex_depth=2,
    num_heads=4,
    feat_channels=8,
)

BOOTSTRAPPED = dict(
    ARCH, arch='bootstrapped-base', cortex_depth=3, num_heads=None, head_dims=8
)


def small_model(noise: float = 0.1, **kwargs) -> SparseFormer:
    """Always the same model, in which every parameter matters.

    Args:
        noise: added to all parameters but the RoIs; many start at zero.
        **kwargs: of SparseFormer; sizes other than in :data:`ARCH` too.
    """
    return _noisy(noise, dict(arch=dict(ARCH), **kwargs))


def small_bootstrapped(noise: float = 0.1, **kwargs) -> SparseFormer:
    """The same of the second paper's models."""
    return _noisy(noise, dict(BOOTSTRAPPED, **kwargs))


def _noisy(noise: float, arguments: dict) -> SparseFormer:
    torch.manual_seed(0)
    model = SparseFormer(**arguments)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'token_rois' not in name:
                param.add_(torch.randn_like(param) * noise)
    return model
