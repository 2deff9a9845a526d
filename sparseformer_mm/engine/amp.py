"""Mixed precision without a GPU."""

import warnings
from contextlib import contextmanager
from functools import lru_cache
from time import perf_counter
from typing import Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from sparseformer_mm.registry import OPTIM_WRAPPERS

__all__ = ['BFloat16OptimWrapper', 'bfloat16_cost']


@lru_cache(maxsize=None)
def bfloat16_cost() -> float:
    """Time of a matrix product in bfloat16 on this CPU, over that in float32.

    Measured once, in less than half a second: whether a processor has units for
    bfloat16, and whether this torch uses them, is not told by its name.
    """

    def seconds(dtype: torch.dtype) -> float:
        x, y = (torch.ones(size, dtype=dtype) for size in ((196, 384), (384, 384)))
        times = []
        for _ in range(6):  # the first ones make what the others reuse
            start = perf_counter()
            x @ y
            times.append(perf_counter() - start)
        return min(times)

    with torch.no_grad():
        try:
            return seconds(torch.bfloat16) / seconds(torch.float32)
        except RuntimeError:  # instructions that oneDNN was told not to use
            return float('inf')


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """bfloat16 autocast on any device, without loss scaling.

    mmengine's ``AmpOptimWrapper`` refuses to run on a CPU. bfloat16 has the
    exponents of float32, so small gradients survive and nothing needs to be
    scaled; parameters and their updates stay in float32. A warning says what it
    costs on a CPU that computes in bfloat16 slower than in float32, as those without
    units for it do.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if torch.cuda.is_available():
            return
        cost = bfloat16_cost()
        if cost > 1.1:
            warnings.warn(
                f'mixed precision is slower here: this CPU takes {cost:.1f} times as '
                'long for a matrix product in bfloat16 as in float32. Train without '
                '--amp (or with OptimWrapper), unless it is to save memory',
                stacklevel=2,
            )

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
