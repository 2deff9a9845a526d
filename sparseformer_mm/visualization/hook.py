"""Pictures and numbers of where a model looks, while it trains."""

from pathlib import Path
from typing import Dict, List, Sequence, Union

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..engine.datasets import own_randomness
from ..engine.hooks import unwrap_model
from ..registry import HOOKS
from .recording import KINDS, Look
from .report import look_numbers, means
from .samples import Sample, backbone_of, load_samples, look_at_sample
from .statistics import BANDWIDTH

# Keys of StageStatistics that are called otherwise here.
RENAMED = dict(entropy_bits='entropy', in_boxes='focus')


@HOOKS.register_module()
class FocusHook(Hook):
    """Show during training where a SparseFormer looks, always at the same samples.

    Before the training and after every ``interval`` epochs or iterations, the backbone
    runs once on each of a few samples of the validation set, in evaluation mode, and
    ``runner.visualizer`` gets

    - a sheet for each of ``what``, with a row per sample and a panel per stage, as
      ``focus_points``, ``focus_rois`` and ``focus_density``; every backend shows them
      (files in ``vis_data/vis_image``, TensorBoard, ...);
    - the means of :class:`~.statistics.StageStatistics` over these samples as scalars
      ``focus/STAGE/NAME`` and, where boxes are known, as ``focus/gain`` the share of
      sampling points inside true boxes at the last stage minus that at the first. The
      log gets one line with the first and the last stage of each.

    The training is not disturbed: it has the same losses with and without. With
    mmengine's ``EMAHook`` the averaged weights are shown, which are those that get
    validated. In distributed trainings the main process does the work. Models of all
    four libraries go. Of a clip the middle frame is drawn, with the tubes that are
    there at its time and all their points; densities and numbers are those of the whole
    clip (of the first view where there are several). Segmentors look at whole pictures,
    also where they are tested by sliding windows.

    Args:
        interval: epochs (iterations) from one figure to the next.
        num_samples: how many samples, evenly spread over the validation set.
        boxes: a file of boxes, see :mod:`~sparseformer_mm.visualization.truth`. None
            takes the boxes of the data set itself if it has any (detection). False
            stands for no boxes at all. Boxes of videos are not supported.
        what: any of 'points', 'rois' and 'density'; none is fine.
        by_epoch: count epochs; False counts iterations, which is needed for an
            ``IterBasedTrainLoop``.
        bandwidth: of the densities, in units of the picture's shorter side.

    Raises:
        ValueError: for a wrong argument; before the training, where there is no
            SparseFormer, no validation set, no backend of the visualizer, or nothing
            that fits the boxes; it names the cause and the cure.

    Example:
        >>> # A list replaces the one of the base: repeat its hooks here, such as
        >>> # the EMAHook of the schedules for ImageNet.
        >>> custom_hooks = [
        ...     dict(type='sparseformer_mm.visualization.FocusHook', interval=5,
        ...          num_samples=4, boxes='data/digits/val_boxes.json')
        ... ]
        >>> backends = [dict(type=f'{x}VisBackend') for x in ('Local', 'Tensorboard')]
        >>> visualizer = dict(type='UniversalVisualizer', vis_backends=backends)
    """

    priority = 'LOW'  # after EMAHook has seen the iteration

    def __init__(
        self,
        interval: int = 1,
        num_samples: int = 4,
        boxes: Union[str, Path, bool, None] = None,
        what: Sequence[str] = ('points', 'density'),
        by_epoch: bool = True,
        bandwidth: float = BANDWIDTH,
    ):
        self.what = (what,) if isinstance(what, str) else tuple(what)
        unknown = [kind for kind in self.what if kind not in KINDS]
        if unknown:
            raise ValueError(f'what={unknown[0]!r} is unknown; choose any of {KINDS}')
        if interval < 1:
            raise ValueError(f'interval={interval} must be at least 1')
        if not 1 <= num_samples <= 100:  # rows of a sheet
            raise ValueError(f'num_samples={num_samples} must be between 1 and 100')
        if boxes is True:
            raise ValueError('boxes=True says not which: give a file, None or False')
        if not 0 < bandwidth <= 1:
            raise ValueError(f'bandwidth={bandwidth} must be above 0 and at most 1')
        self.interval = interval
        self.num_samples = num_samples
        self.boxes = boxes
        self.by_epoch = by_epoch
        self.bandwidth = bandwidth
        self._samples: List[Sample] = []

    def before_train(self, runner) -> None:
        """Load the samples and show them a first time, so that errors come at once."""
        self._check(runner)
        if is_main_process():
            with own_randomness():
                self._samples = load_samples(
                    runner.val_dataloader, self.num_samples, self.boxes
                )
            self._show(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner) -> None:
        """Show the samples again."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Show the samples again."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._show(runner, runner.iter + 1)

    def _check(self, runner) -> None:
        model = runner.model
        if is_model_wrapper(model) and not isinstance(
            model, (DataParallel, DistributedDataParallel)
        ):
            raise ValueError(
                f'FocusHook runs the model in one process, and {type(model).__name__} '
                'may share its weights out over several: remove the hook, or train '
                'with MMDistributedDataParallel'
            )
        backbone_of(unwrap_model(model))
        if runner.val_loop is None:
            raise ValueError(
                'FocusHook takes its samples from the validation set, and there is '
                'none: give val_dataloader, val_cfg and val_evaluator, or remove the '
                'hook'
            )
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'FocusHook would count epochs, and this training counts iterations: '
                'give by_epoch=False and an interval in iterations'
            )
        if not getattr(runner.visualizer, '_vis_backends', None):
            raise ValueError(
                'FocusHook has nowhere to send its pictures, for the visualizer has no '
                "backend: give it vis_backends=[dict(type='LocalVisBackend')], or "
                'remove the hook'
            )

    def _show(self, runner, step: int) -> None:
        # Here, so that a training without the hook needs no drawing code.
        from .figures import kind_panels
        from .panels import draw_panels, figure_pixels

        if not is_main_process():
            return
        model = _current_model(runner)
        with own_randomness():
            looks = [look_at_sample(model, sample) for sample in self._samples]
            scalars = _scalars(looks, self.bandwidth)
            for kind in self.what:
                figure = draw_panels(
                    [kind_panels(look, kind, self.bandwidth) for look in looks],
                    [look.name for look in looks],
                )
                runner.visualizer.add_image(
                    f'focus_{kind}', figure_pixels(figure), step
                )
        runner.visualizer.add_scalars(scalars, step)
        count = 'epoch' if self.by_epoch else 'iter'
        stages = [stage.name for stage in looks[0].stages]
        runner.logger.info(f'Focus [{count} {step}]  {_summary(scalars, stages)}')


def _current_model(runner) -> nn.Module:
    """The model with the weights that get validated."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            average = hook.ema_model
            if int(average.steps):  # before, it may not even be initialised
                return average.module
    return unwrap_model(runner.model)


def _scalars(looks: Sequence[Look], bandwidth: float) -> Dict[str, float]:
    """Means over the samples, by stage, and the focus gain."""
    mean = means([look_numbers(look, bandwidth) for look in looks])
    scalars = {
        f'focus/{stage["name"]}/{RENAMED.get(key, key)}': value
        for stage in mean['stages']
        for key, value in stage.items()
        if key not in ('name', 'points') and value is not None
    }
    if mean['focus_gain']:
        scalars['focus/gain'] = mean['focus_gain']['gain']
    return scalars


def _summary(scalars: Dict[str, float], stages: Sequence[str]) -> str:
    """Each number at the first and the last stage."""
    first, last = f'focus/{stages[0]}/', f'focus/{stages[-1]}/'
    parts = [
        f'{key[len(first) :]}: {value:.4f} -> {scalars[last + key[len(first) :]]:.4f}'
        for key, value in scalars.items()
        if key.startswith(first) and last + key[len(first) :] in scalars
    ]
    if 'focus/gain' in scalars:
        parts.insert(0, f'gain: {scalars["focus/gain"]:+.4f}')
    return '  '.join(parts)
