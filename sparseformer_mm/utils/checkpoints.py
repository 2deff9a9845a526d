"""Checkpoints for the command-line tools: complete, or an error with the cure."""

import re
import warnings
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint, load_state_dict
from torch import nn

from ..engine.hooks import state_for
from ..host import host_of
from ..models import SparseFormer
from ..models.files import (
    check_file,
    check_resumable,
    load_checkpoint,
    read_checkpoint,
)
from ..models.finding import CheckpointError
from .errors import explain_errors, fail

__all__ = [
    'check_checkpoint',
    'check_training',
    'does_not_fit',
    'find_resumable',
    'forbid_reinit',
    'load_model',
]


def check_checkpoint(path: Optional[str]) -> None:
    """Complain about a missing or damaged checkpoint before work begins."""
    if path is None or '://' in path:
        return  # mmengine fetches URLs and reports on them
    try:
        check_file(path)
    except (OSError, CheckpointError) as error:
        fail(str(error))


def check_training(path: str) -> None:
    """Complain about a checkpoint that no training can be resumed from."""
    check_checkpoint(path)
    if '://' not in path:
        with explain_errors():
            check_resumable(read_checkpoint(path, 'cpu'), path)


def find_resumable(work_dir: str) -> Tuple[Optional[str], Dict[str, str]]:
    """Find the newest whole checkpoint of a training.

    A process that is killed while it writes leaves half a file, or a whole one which
    'last_checkpoint' does not know yet.

    Returns:
        tuple: the checkpoint's path, None if there is none; newer ones that cannot be
        resumed from, and why.
    """
    damaged = {}
    for file in _newest_first(Path(work_dir)):
        try:
            check_file(file)
            check_resumable(read_checkpoint(file, 'cpu'), str(file))
        except (OSError, CheckpointError) as error:
            damaged[str(file)] = str(error)
        else:
            return str(file), damaged
    return None, damaged


def _newest_first(folder: Path) -> List[Path]:
    """Checkpoints of a training: the one noted as the last, then by their numbers."""

    def age(file: Path) -> Tuple[bool, int]:
        numbers = re.findall(r'\d+', file.stem)
        return file.stem.startswith('best'), -int(numbers[-1] if numbers else 0)

    files = sorted(folder.glob('*.pth'), key=age)
    if (folder / 'last_checkpoint').is_file():
        # It is noted as seen from where the run was started.
        last = folder / Path(find_latest_checkpoint(str(folder)).strip()).name
        if last in files:
            files.remove(last)
            files.insert(0, last)
    return files


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
        checkpoint: path or URL, of the authors and of wrapped models too.
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
            loaded = load_checkpoint(checkpoint)
            state = state_for(model, loaded)
            if state is None:
                state = loaded.get('state_dict', loaded)
            load_state_dict(model, state, strict=True)
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
