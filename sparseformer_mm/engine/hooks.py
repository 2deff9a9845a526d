"""Hooks for mmengine's runner."""

from typing import Dict, Mapping, Optional

from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    """Tell SparseFormer the loss scale of ``AmpOptimWrapper`` before each iteration.

    SparseFormer clamps the gradients of its sampling coordinates to an absolute
    limit; while the loss is scaled (float16 training), the limit has to be scaled by
    the same factor. Without loss scaling the factor is 1. (Accumulating gradients
    over k iterations divides the loss, not the limit: k small batches then have the
    gradients of one large batch.)

    Example:
        >>> custom_hooks = [dict(type='sparseformer_mm.LossScaleHook')]
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Pass the current scale on to every sampling stage of the model.

        Raises:
            ValueError: if optimizer wrappers of one model scale differently.
        """
        scale = self._loss_scale(runner.optim_wrapper)
        if scale is None:
            return
        for module in unwrap_model(runner.model).modules():
            if isinstance(module, SparseSampling):
                module.set_loss_scale(scale)

    @staticmethod
    def _loss_scale(optim_wrapper) -> Optional[float]:
        """The factor on the loss, None if it is not known."""
        if isinstance(optim_wrapper, OptimWrapperDict):
            scales = {
                LossScaleHook._loss_scale(wrapper) for wrapper in optim_wrapper.values()
            }
            if len(scales) > 1:
                raise ValueError(
                    'LossScaleHook found different loss scales '
                    f'{sorted(scales, key=str)} in the optimizer wrappers of one '
                    'model; give them one scaler, or bfloat16, which needs none'
                )
            return scales.pop()
        if hasattr(optim_wrapper, 'loss_scaler'):
            return optim_wrapper.loss_scaler.get_scale()
        # Wrappers of Apex and DeepSpeed scale out of sight: leave the model warn.
        scales_itself = type(optim_wrapper).__name__.startswith(('Apex', 'DeepSpeed'))
        return None if scales_itself else 1.0


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
