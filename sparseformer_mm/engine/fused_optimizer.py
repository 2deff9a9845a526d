"""torch's optimizers in their fused form on a CPU."""

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.optim import Optimizer

from ..registry import HOOKS


def _is_supported(kind: type) -> bool:
    """Whether this torch has a fused form of an optimizer for CPUs (2.4 has some)."""
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.zeros(1)
    try:
        kind([weight], lr=0.1, fused=True).step()
    except (RuntimeError, TypeError):
        return False
    return True


def fuse_on_cpu(optimizer: Optimizer) -> bool:
    """Have an optimizer of torch update each parameter in one pass, on a CPU.

    Unless it has other parameters than float tensors on a CPU, its settings ask for a
    form (``foreach``, ``fused``, ...) or this torch has none. Returns whether it was
    done; results are the same to rounding.
    """
    groups = optimizer.param_groups
    plain = all(
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == 'cpu'
        and x.is_floating_point()
        for group in groups
        for x in group['params']
    )
    free = all(
        'fused' in group
        and group['fused'] is group.get('foreach') is None
        and not any(map(group.get, ('capturable', 'differentiable')))
        for group in groups
    )
    # A class of somebody else's may do without it what its base does with it.
    is_theirs = type(optimizer).__module__.startswith('torch.optim.')
    if not (plain and free and is_theirs and _is_supported(type(optimizer))):
        return False
    for group in groups:
        group['fused'] = True
    return True


@HOOKS.register_module()
class FusedOptimizerHook(Hook):
    """Train on a CPU with :func:`fuse_on_cpu`; ``tools/train.py`` adds it there.

    Checkpoints do not say so: they resume with any torch.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.FusedOptimizerHook')]
    """

    fused = False

    def before_train(self, runner):
        wrapper = runner.optim_wrapper
        # An OptimWrapperDict has several.
        wrappers = getattr(wrapper, 'optim_wrappers', {'': wrapper}).values()
        done = [fuse_on_cpu(wrapper.optimizer) for wrapper in wrappers]
        self.fused = any(done)

    def before_save_checkpoint(self, runner, checkpoint):
        state = checkpoint.get('optimizer')
        if not self.fused or state is None:
            return
        states = [state] if 'param_groups' in state else state.values()
        for group in (group for state in states for group in state['param_groups']):
            group['fused'] = None
