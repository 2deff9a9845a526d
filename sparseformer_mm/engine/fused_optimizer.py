"""torch's Adam and AdamW in their fused form on a CPU."""

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.optim import Optimizer

from ..registry import HOOKS

# SGD's fused form on CPUs fails where a parameter gets its first gradient late.
_KINDS = torch.optim.Adam, torch.optim.AdamW


def _is_supported(kind: type) -> bool:
    """Whether this torch has a fused form of an optimizer for CPUs (2.4 has)."""
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.zeros(1)
    try:
        kind([weight], lr=0.1, fused=True).step()
    except (RuntimeError, TypeError):
        return False
    return True


def _is_plain(x: Tensor) -> bool:
    # The fused form reads memory as it lies, whatever the strides.
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and x.is_contiguous()
    )


def _straighten_gradients(optimizer: Optimizer, *_):
    for group in optimizer.param_groups:
        for x in group['params']:
            if x.grad is not None and not x.grad.is_contiguous():
                x.grad = x.grad.contiguous()


def fuse_on_cpu(optimizer: Optimizer) -> bool:
    """Have torch's Adam or AdamW update each parameter in one pass, on a CPU.

    Unless a parameter is no contiguous float32 or float64 tensor on a CPU, a setting
    asks for a form (``fused``, ``foreach``, ...) or this torch has none (before 2.4).
    Results are the same to rounding.

    Args:
        optimizer: any; one of another class is left as it is.

    Returns:
        bool: whether it was done.
    """
    groups = optimizer.param_groups
    free = type(optimizer) in _KINDS and all(
        group['fused'] is group['foreach'] is None
        and not group['capturable']
        and not group['differentiable']
        for group in groups
    )
    params = [x for group in groups for x in group['params']]
    kept = [x for state in optimizer.state.values() for x in state.values()]
    tensors = params + [x for x in kept if isinstance(x, Tensor)]
    if not (free and all(map(_is_plain, tensors)) and _is_supported(type(optimizer))):
        return False
    for group in groups:
        group['fused'] = True
    optimizer.register_step_pre_hook(_straighten_gradients)
    return True


@HOOKS.register_module()
class FusedOptimizerHook(Hook):
    """Train on a CPU with :func:`fuse_on_cpu`; ``tools/train.py`` adds it there.

    Checkpoints do not say so: they resume with any torch.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.FusedOptimizerHook')]
    """

    def __init__(self):
        self._fused = set()

    def before_train(self, runner):
        wrapper = runner.optim_wrapper
        # An OptimWrapperDict has several.
        wrappers = getattr(wrapper, 'optim_wrappers', {'': wrapper})
        for name, wrapper in wrappers.items():
            if fuse_on_cpu(wrapper.optimizer):
                self._fused.add(name)

    def before_save_checkpoint(self, runner, checkpoint):
        state = checkpoint.get('optimizer') or {}
        states = {'': state} if 'param_groups' in state else state
        for name in self._fused & set(states):
            for group in states[name]['param_groups']:
                group['fused'] = None
