"""Hooks for mmengine's runner."""

from collections.abc import Mapping
from typing import Dict, Optional

import torch
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.arguments import check_count
from ..models.files import check_resumable
from ..models.layouts import MARKERS
from ..models.loading import convert_checkpoint
from ..models.sampling import SparseSampling
from ..registry import HOOKS

# Where the libraries' models keep a linear classifier.
_CLASSIFIERS = ('head.fc', 'cls_head.fc_cls')


def unwrap_model(model):
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@HOOKS.register_module()
class LossScaleHook(Hook):
    """Tell SparseFormer by what the loss is multiplied, before each iteration.

    SparseFormer clamps the gradients of its sampling coordinates to an absolute
    limit; while ``AmpOptimWrapper`` scales the loss (float16 training), the limit has
    to be scaled by the same factor. Without loss scaling the factor is 1.

    The authors' limit holds for the mean loss over the images of one process: the
    same batch on twice as many processes has coordinates with twice the gradients
    under the same limit, and is limited more. With ``limit_batch_size`` it holds for
    a mean over that many images, and gradients do not depend on how a batch is split
    over processes and accumulation steps.

    Args:
        limit_batch_size: images over whose mean loss the limit holds, such as the
            images per process of a recipe that now runs on another number of
            processes. None: as many as a process has.

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.LossScaleHook')]
    """

    priority = 'VERY_HIGH'

    def __init__(self, limit_batch_size: Optional[int] = None):
        if limit_batch_size is not None:
            limit_batch_size = check_count('limit_batch_size', limit_batch_size)
        self.limit_batch_size = limit_batch_size

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Pass the current factor on to every sampling stage of the model.

        Raises:
            ValueError: if optimizer wrappers of one model scale differently, or the
                number of images in the batch is asked for and cannot be found.
        """
        wrapper = runner.optim_wrapper
        wrappers = (
            list(wrapper.values())
            if isinstance(wrapper, OptimWrapperDict)
            else [wrapper]
        )
        factors = {self._factor(wrapper, data_batch) for wrapper in wrappers}
        if len(factors) > 1:
            raise ValueError(
                f'LossScaleHook found different loss scales {sorted(factors, key=str)} '
                'in the optimizer wrappers of one model; give them one scaler, or '
                'bfloat16, which needs none'
            )
        (factor,) = factors
        if factor is None:
            return
        for module in unwrap_model(runner.model).modules():
            if isinstance(module, SparseSampling):
                module.set_loss_scale(factor)

    def _factor(self, optim_wrapper, data_batch) -> Optional[float]:
        """What the limit is multiplied by, None if that is not known."""
        if hasattr(optim_wrapper, 'loss_scaler'):
            factor = optim_wrapper.loss_scaler.get_scale()
        elif type(optim_wrapper).__name__.startswith(('Apex', 'DeepSpeed')):
            return None  # these scale out of sight: leave the model warn
        else:
            factor = 1.0
        if self.limit_batch_size is None:
            return factor
        images = _count_images(data_batch)
        # Accumulating divides the loss by the number of steps.
        steps = 1 / optim_wrapper.scale_loss(torch.ones((), dtype=torch.float64)).item()
        return factor * self.limit_batch_size / (images * steps)


def _count_images(data_batch) -> int:
    """Images (or clips) in what a data loader gives for one iteration."""
    if isinstance(data_batch, Mapping):
        data_batch = data_batch.get('inputs')
    if isinstance(data_batch, Mapping):  # of branches, as in semi-supervised training
        return sum(map(_count_images, data_batch.values()))
    try:
        if isinstance(data_batch[0], (list, tuple)):  # views
            return sum(map(len, data_batch))
        return len(data_batch)
    except (TypeError, IndexError):
        raise ValueError(
            'limit_batch_size of LossScaleHook needs batches with their images under '
            f"'inputs', got {type(data_batch).__name__}; leave it out"
        ) from None


def state_for(model: nn.Module, checkpoint: Mapping) -> Optional[Dict[str, Tensor]]:
    """A file's weights under the names of a whole model.

    Args:
        model: of an OpenMMLab library, with a SparseFormer as its backbone.
        checkpoint: the file's content.

    Returns:
        The state dict; None if the file has these names already, or the model another
        form, for instance that of a teacher and a student.

    Raises:
        CheckpointError: for a file of several models none of which is the average.
    """
    if f'backbone.{MARKERS["mm"]}' not in model.state_dict():
        return None
    names = dict(model.named_modules())
    classifier = next((name for name in _CLASSIFIERS if name in names), None)
    return convert_checkpoint(checkpoint, classifier)


@HOOKS.register_module()
class ConvertCheckpointHook(Hook):
    """Let ``load_from`` and ``tools/test.py`` take files under other names.

    The authors' names (both layouts, wrapped or not, EMA or not) become this
    package's, and their classifier goes to the library's linear head; prefixes that
    Lightning or ``torch.compile`` put before a model's names are taken away; of
    several copies the averaged one is loaded. Other files pass untouched, and so does
    what a training is resumed from. (The backbone's
    ``init_cfg=dict(type='Pretrained')`` needs no hook.)

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.ConvertCheckpointHook')]
    """

    priority = 'VERY_HIGH'  # before the EMA hook reads the weights

    def after_load_checkpoint(self, runner, checkpoint: dict):
        """Replace such a file's content, in place, by what the model expects.

        Raises:
            CheckpointError: if a training is to be resumed from mere weights, or for
                a file of several models none of which is the average.
        """
        if getattr(runner, '_resume', False):
            check_resumable(checkpoint)
            return
        state = state_for(unwrap_model(runner.model), checkpoint)
        if state is not None:
            meta = checkpoint.get('meta') or {}
            checkpoint.clear()
            checkpoint.update(state_dict=state, meta=meta)


@HOOKS.register_module()
class AverageBatchNormHook(Hook):
    """Keep the running statistics of batch norms the same in all processes.

    For processes on CPUs, which have no synchronised batch norm: each normalises by
    the statistics of its own part of a batch, but they are validated and saved with the
    mean of their running ones. The tools add it themselves.
    """

    priority = 'VERY_HIGH'  # before the EMA hook copies them

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Average; costs little beside the gradients, which are averaged too."""
        if get_world_size() == 1:
            return
        buffers = [
            buffer
            for module in unwrap_model(runner.model).modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers()
            if buffer.is_floating_point()
        ]
        if buffers:
            all_reduce_params(buffers, op='mean')
