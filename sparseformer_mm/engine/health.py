"""A look at a training now and then, to tell early that it goes nowhere."""

from collections.abc import Mapping
from typing import Any, Callable, Dict, Iterator, List, Optional, Set

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..host import LIBRARIES, host_of, scope_of
from ..models import SparseFormer
from ..models.arguments import check_count
from ..registry import HOOKS
from .datasets import warn
from .hooks import unwrap_model
from .symptoms import (
    Limits,
    Symptom,
    likeness,
    lost_shares,
    of_gradients,
    of_loss,
    of_loss_curve,
    of_tokens,
)


@HOOKS.register_module()
class HealthHook(Hook):
    """Warn when a training goes nowhere: what shows it, and what to try.

    At every ``interval``-th iteration, in the training's own forward and backward
    pass: RoIs that look at nothing, tokens that are all alike, gradients of zero or
    clipped to almost nothing, a loss that is not finite or does not move; a segmentor
    that predicts one class, a detector that predicts none, gets no boxes or matches
    none. A symptom is told once: a loss that is not finite at the next look; others
    after so many looks in a row since the learning rate has come to half of its height.

    The training stays the same bit by bit. Only the first process looks, at its own
    part of a batch, and talks to no other. With ``compile`` of mmengine, only losses
    and gradients are looked at.

    Args:
        interval: iterations from one look to the next.
        looks: at which a symptom has to be there, in a row.
        long_looks: the same of what healthy trainings show too, at first: segmentors
            that leave classes out, detectors that predict background alone.
        **limits: of :class:`.Limits`, which explains them.

    Raises:
        ValueError, TypeError: for a wrong argument.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.HealthHook', looks=20)]
    """

    def __init__(
        self, interval: int = 20, looks: int = 8, long_looks: int = 30, **limits
    ):
        self.interval = check_count('interval', interval)
        self.looks = check_count('looks', looks)
        long_looks = check_count('long_looks', long_looks)
        self._needed = {'at once': 1, 'some looks': self.looks, 'long': long_looks}
        unknown = sorted(set(limits) - set(Limits._fields))
        if unknown:
            raise TypeError(
                f'HealthHook has no argument {unknown[0]!r}; its limits are '
                f'{", ".join(Limits._fields)}'
            )
        self.limits = Limits(**limits)
        self._told: Set[str] = set()

    def before_train(self, runner) -> None:
        """Begin to count anew."""
        self._looks_at_this = False
        self._taps: Dict[str, _Tap] = {}
        self._held: Dict[str, int] = {}
        self._losses: List[Any] = []
        self._means: List[float] = []
        self._fresh = runner.iter == 0
        self._warm_looks = 0 if self._fresh else 1
        self._watch = None
        self._backbone = None
        if runner.cfg.get('compile'):  # compiled code may leave out new hooks
            return
        model = unwrap_model(runner.model)
        parts = (x for x in model.modules() if isinstance(x, SparseFormer))
        self._backbone = next(parts, None)
        scope = scope_of(runner.cfg) or getattr(
            DefaultScope.get_current_instance(), 'scope_name', None
        )
        if scope in LIBRARIES and host_of(scope).watch is not None:
            self._watch = host_of(scope).watch(model)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Listen in on an iteration that is looked at."""
        self._looks_at_this = is_main_process() and self.every_n_train_iters(
            runner, self.interval
        )
        if not self._looks_at_this:
            return
        self._gradient: Optional[Tensor] = None
        if self._backbone is not None:
            last = self._backbone.cortex[-1]
            self._taps['tokens'] = _Tap(last, self._look_at_tokens)
        if self._watch is not None and self._watch.module is not None:
            watch = self._watch
            self._taps['predictions'] = _Tap(watch.module, watch.figures)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Tell what is wrong for long enough."""
        if not is_main_process():
            return
        outputs = outputs if isinstance(outputs, Mapping) else {}
        if 'loss' in outputs:
            self._losses.append(torch.as_tensor(outputs['loss']).detach())
        if not self._looks_at_this:
            return
        figures = {name: tap.close() for name, tap in self._taps.items()}
        self._warm_looks += bool(self._warm_looks) or _is_warm(runner)
        symptoms = self._symptoms(runner, data_batch, outputs, figures)
        found = {symptom.name: symptom for symptom in symptoms}
        self._held = {
            name: self._held.get(name, 0) + 1
            for name in found
            if self._warm_looks or name == 'loss'
        }
        for name, count in self._held.items():
            symptom = found[name]
            if count >= self._needed[symptom.lasts] and name not in self._told:
                self._told.add(name)
                warn(
                    f'HealthHook at iteration {runner.iter + 1}: {symptom.seen}'
                    + (f', {count} looks in a row' if count > 1 else '')
                    + f'. What to try: {symptom.cure}. More: '
                    'sparseformer_mm/docs/not_learning.md'
                )

    def _symptoms(
        self, runner, batch, outputs: Mapping, figures: Dict[str, Optional[List[float]]]
    ) -> Iterator[Symptom]:
        """Those of this iteration."""
        losses, self._losses = self._losses, []
        if losses:
            self._means.append(torch.stack(losses).float().mean().item())
            yield from of_loss(outputs)
        if figures.get('tokens'):
            alike, *lost = figures['tokens']
            yield from of_tokens(alike, lost, self.limits)
        if figures.get('predictions'):
            seen = figures['predictions'], batch, outputs, self.limits
            yield from self._watch.symptoms(*seen)
        gradient = None if self._gradient is None else self._gradient.item()
        yield from of_gradients(gradient, *_clipping(runner), self.limits)
        # The first looks are those that the later ones are compared with.
        enough = max(self.limits.fall_within // self.interval, 2 * self.looks)
        if self._fresh and min(self._warm_looks, len(self._means)) >= enough:
            yield from of_loss_curve(self._means, self.looks, self.limits)
            self._fresh = False

    def _look_at_tokens(self, output) -> Tensor:
        """Of a block's tokens and RoIs: likeness, shares; and wait for the gradient."""
        tokens, rois = output[:2]
        if tokens.requires_grad:
            self._gradient = tokens.new_zeros(())
            tokens.register_hook(self._keep_gradient)
        tokens, rois = tokens.detach(), rois.detach()
        alike = likeness(tokens[:, -rois.shape[1] :])  # without the class token
        return torch.cat([alike[None], lost_shares(rois, self.limits.roi_size)])

    def _keep_gradient(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach().abs().max()


class _Tap:
    """Keeps what a function makes of the first output of a module.

    Args:
        module: that is called.
        make: gives a few numbers, (n,); runs without recording gradients.
    """

    def __init__(self, module: nn.Module, make: Callable[[Any], Tensor]):
        self._make, self._made = make, None
        self._handle = module.register_forward_hook(self._take)

    @torch.no_grad()
    def _take(self, module, args, output) -> None:
        if self._made is None:  # checkpointed modules run once more
            self._made = self._make(output)

    def close(self) -> Optional[List[float]]:
        """Let the module be; what was made, None if it has not run."""
        self._handle.remove()
        return None if self._made is None else self._made.tolist()


def _plain_wrapper(runner):
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return next(iter(wrapper.values()))
    return wrapper


def _is_warm(runner) -> bool:
    """Whether the learning rate has come to half of what it was set to."""
    group = _plain_wrapper(runner).param_groups[0]
    return group['lr'] >= 0.5 * group.get('initial_lr', group['lr'])


def _clipping(runner):
    """The last norm of the gradient and what it is clipped to; None if unknown."""
    clip = getattr(_plain_wrapper(runner), 'clip_grad_kwargs', None) or {}
    norms = runner.message_hub.log_scalars.get('train/grad_norm')
    return (norms.current() if norms is not None else None), clip.get('max_norm')
