"""Pictures and numbers of where a model looks, while it trains."""

from pathlib import Path
from typing import Dict, List, Sequence, Union

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..engine.hooks import unwrap_model
from ..models.tokens import StageRecord
from ..registry import HOOKS
from .density import BANDWIDTH
from .draw import light_colors
from .panels import Frames, Panel, corners_of, density_panels, draw_panels
from .samples import Look, Sample, backbone_of, load_samples, look_at, own_randomness
from .statistics import focus_gain, stage_statistics

KINDS = ('points', 'rois', 'density')


@HOOKS.register_module()
class FocusHook(Hook):
    """Show during training where a SparseFormer looks, always at the same samples.

    Before the training and after every ``interval`` epochs or iterations, the
    backbone runs once on each of a few samples of the validation set, in evaluation
    mode, and

    - ``runner.visualizer`` gets pictures, one sheet for each of ``what`` with a row per
      sample and a panel per sampling stage, as ``focus_points``, ``focus_rois`` and
      ``focus_density``; every backend shows them (files in ``vis_data/vis_image``,
      TensorBoard, ...);
    - ``runner.visualizer`` gets the means of :class:`~.statistics.StageStatistics`
      over these samples as scalars ``focus/STAGE/NAME`` and, where boxes are known, the
      focus gain as ``focus/gain``: the share of sampling points inside true boxes at
      the last stage minus that at the first;
    - the log gets one line with the first and the last stage of each.

    The training is not disturbed: it has the same losses with and without. With
    mmengine's ``EMAHook`` the averaged weights are shown, which are those that get
    validated. In distributed trainings the main process does the work. Models of all
    four libraries go. Of a clip the middle frame is drawn, with the tubes that are
    there at its time and all their points; densities and numbers are those of the whole
    clip (of the first view where there are several). Segmentors look at whole pictures,
    also where they are tested by sliding windows.

    Args:
        interval (int): Epochs (iterations) from one look to the next.
        num_samples (int): How many samples, evenly spread over the validation set.
        boxes (str, Path, bool, optional): A JSON file ``{picture: [[x1, y1, x2, y2,
            ...], ...]}`` in pixels, pictures relative to its folder, as
            ``make_digits.py`` writes it. None takes the boxes of the data set itself if
            it has any (detection). False stands for no boxes at all. Boxes of videos
            are not supported.
        what (Sequence[str]): Any of 'points', 'rois' and 'density'; none is fine.
        by_epoch (bool): Count epochs; False counts iterations, which is needed for
            an ``IterBasedTrainLoop``.
        bandwidth (float): Of the densities, in units of the picture's shorter side.

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
        >>> visualizer = dict(
        ...     type='UniversalVisualizer',
        ...     vis_backends=[
        ...         dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')
        ...     ])
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
        """Load the samples and take a first look, so that errors come at once."""
        self._check(runner)
        if is_main_process():
            with own_randomness():
                self._samples = load_samples(
                    runner.val_dataloader, self.num_samples, self.boxes
                )
            self._show(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner) -> None:
        """Look again."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Look again."""
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
        if not is_main_process():
            return
        model = _current_model(runner)
        with own_randomness():
            looks = [look_at(model, sample) for sample in self._samples]
            scalars = _scalars(looks, self.bandwidth)
            for kind in self.what:
                figure = draw_panels(
                    [_panels(look, kind, self.bandwidth) for look in looks],
                    [look.name for look in looks],
                )
                runner.visualizer.add_image(f'focus_{kind}', _pixels(figure), step)
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


# ---------------------------------------------------------------- numbers, pictures


def _scalars(looks: Sequence[Look], bandwidth: float) -> Dict[str, float]:
    boxes = [look.boxes for look in looks]
    together = []
    for same in zip(*(look.stages for look in looks)):
        _, *parts = zip(*same)
        together.append(StageRecord(same[0].name, *map(torch.cat, parts)))
    statistics = stage_statistics(
        together,
        boxes if any(one is not None for one in boxes) else None,
        [look.image.shape[1::-1] for look in looks],
        bandwidth,
    )
    scalars = {
        f'focus/{one.name}/{key}': value
        for one in statistics
        for key, value in one.means().items()
    }
    if f'focus/{statistics[0].name}/focus' in scalars:
        shares = [one.focus[~one.focus.isnan()] for one in statistics]
        scalars['focus/gain'] = focus_gain(shares).gain
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


def _panels(look: Look, kind: str, bandwidth: float) -> List[Panel]:
    """The picture, then each of its stages."""
    boxes = np.zeros((0, 4)) if look.boxes is None else look.boxes
    true = Frames(boxes, np.ones((len(boxes), 3)), width=1, dashed=True)
    panels = [Panel('image', look.image, [true])]
    stages = [
        (one.name, *(x[0].double().cpu().numpy() for x in (one.rois, one.points)))
        for one in look.stages
    ]
    if kind == 'density':
        dense = [(name, points[..., :2]) for name, _, points in stages]
        return panels + density_panels(look.image, dense, bandwidth, [true])
    for name, rois, points in stages:
        colors = light_colors(len(rois))
        if look.time is not None:
            there = np.abs(rois[:, 2] - look.time) <= rois[:, 5] / 2
            rois, points = rois[there][:, [0, 1, 3, 4]], points[there]
            colors = colors[there]
        if kind == 'points':
            panels.append(Panel(name, look.image, [true], points[..., :2], colors))
        else:
            frames = Frames(corners_of(rois), colors, width=1.5)
            panels.append(Panel(name, look.image, [frames, true]))
    return panels


def _pixels(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
