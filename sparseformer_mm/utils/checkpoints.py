"""Checkpoints for the command-line tools: complete, or an error with the cure."""

import warnings
from typing import Callable, Optional

from mmengine.config import Config
from mmengine.runner import load_checkpoint
from torch import nn

from ..host import host_of
from ..models import SparseFormer
from ..models.files import check_file
from ..models.layouts import CheckpointError
from .errors import explain_errors, fail

__all__ = ['check_checkpoint', 'does_not_fit', 'forbid_reinit', 'load_model']


def check_checkpoint(path: Optional[str]) -> None:
    """Complain about a missing or damaged checkpoint before work begins."""
    if path is None or '://' in path:
        return  # mmengine fetches URLs and reports on them
    try:
        check_file(path)
    except (OSError, CheckpointError) as error:
        fail(str(error))


def forbid_reinit(model: nn.Module) -> None:
    """Make it an error if loading would leave tokens or points untrained."""
    for module in model.modules():
        if isinstance(module, SparseFormer):
            module.allow_reinit = False


def does_not_fit(error: RuntimeError) -> bool:
    """Whether an error says that weights do not fit, mmengine's or SparseFormer's."""
    marks = ('state_dict', 'state dict', 'do not match exactly', 'tensors loaded')
    return any(mark in str(error) for mark in marks)


def load_model(
    cfg: Config,
    checkpoint: str,
    device: str = 'cpu',
    check: Optional[Callable[[nn.Module], None]] = None,
) -> nn.Module:
    """Build a config's model by its library's own function, weights complete.

    Args:
        cfg: of one of the four libraries.
        checkpoint: path or URL.
        device: where the model goes.
        check: looks at the model before weights are loaded; its ValueError ends the
            tool, for example :meth:`.Host.check_model`.

    Returns:
        In evaluation mode, with ``cfg`` and ``trained_classes``: names of the classes,
        None where the checkpoint does not know them.
    """
    check_checkpoint(checkpoint)
    # Each library's function warns that there are no weights; with weights, it would
    # only warn about those that were not there.
    with warnings.catch_warnings(record=True):
        model = host_of(cfg).init_model(cfg, device)
    if check is not None:
        try:
            check(model)
        except ValueError as error:
            fail(f'{cfg.filename}: {error}')
    forbid_reinit(model)
    try:
        with explain_errors():
            loaded = load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except RuntimeError as error:
        if not does_not_fit(error):
            raise
        fail(
            f'{checkpoint} does not fit the model of {cfg.filename}; use the config '
            f'it was trained with: {str(error)[:600]}'
        )
    meta = (loaded.get('meta') or {}).get('dataset_meta') or {}
    model.trained_classes = meta.get('classes') or meta.get('CLASSES')
    return model
