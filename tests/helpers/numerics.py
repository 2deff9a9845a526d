"""Comparing results of floating-point arithmetic."""

from typing import Sequence

import torch


def assert_exact(actual, expected, atol: float = 1e-9) -> None:
    """For what is computed in float64 by the same formulas."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def assert_near(
    actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float
) -> None:
    """Of each pair, the largest difference is a small share of the largest number.

    For two ways to compute the same in float32 or less, which sum in another order:
    what such a sum loses goes with its summands, not with what is left of them. What is
    the same by algebra is compared in float64 instead (the fixture ``float64``).

    Args:
        actual: of any dtypes.
        expected: as many, of the same shapes.
        tolerance: the share.
    """
    assert len(actual) == len(expected)
    for x, y in zip(actual, expected):
        x, y = x.detach().cpu().double(), y.detach().cpu().double()
        scale = y.abs().max().item() if y.numel() else 0
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * scale + 1e-12)
