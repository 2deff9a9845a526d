"""The configs of this package, and their runs on made data in a second."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Callable, List, Optional, Union

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

CONFIGS = Path(__file__).parents[2] / 'configs'


@lru_cache(maxsize=None)
def _read(path: Path) -> Config:
    return Config.fromfile(path, import_custom_modules=False)


def load(path: Union[str, Path]) -> Config:
    """A copy of a config of its own, by its path from ``configs/``, with or without
    the suffix."""
    return copy.deepcopy(_read((CONFIGS / path).with_suffix('.py')))


def page(task: str) -> str:
    """The text of a task's README."""
    return (CONFIGS / task / 'README.md').read_text('utf-8')


def row(task: str, name: str) -> str:
    """A config's line in the README's tables (the first of them)."""
    lines = page(task).splitlines()
    return next(line for line in lines if line.startswith(f'| [{name}.py]'))


def loaders(cfg: Config) -> List[dict]:
    return [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]


def shrink(
    cfg: Config,
    folder: Path,
    head: Optional[str] = None,
    width: Optional[str] = None,
    **options,
) -> Config:
    """Make a config's run one iteration of a small model, in place.

    Args:
        cfg: its data sets come to stand in ``folder / 'data'``.
        folder: where it works.
        head: of the model, if it takes tokens.
        width: of this head, what it calls their width.
        **options: more of the backbone.

    Returns:
        Config: the same.
    """
    for loader in loaders(cfg):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(folder / 'data')
    if 'SparseFormer' in cfg.model.backbone.type:
        # Tokens and blocks stay; widths, heads and repeats would take long.
        cfg.model.backbone.update(
            focusing_repeats=1, focusing_dims=64, cortex_dims=64, num_heads=4, **options
        )
        if head is not None:
            cfg.model[head][width] = 64
    length = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    cfg.train_cfg[length] = cfg.train_cfg.val_interval = 1
    cfg.default_hooks.checkpoint.interval = cfg.default_hooks.logger.interval = 1
    cfg.randomness.seed = 0
    cfg.work_dir = str(folder / 'work_dir')
    cfg.experiment_name = f'{cfg.filename}-{folder}'.replace('/', '-')
    return cfg


def scalar(runner: Runner, key: str) -> float:
    """What a run logged last under ``train/...`` or ``val/...``."""
    return runner.message_hub.get_scalar(key).current()


def is_bare(name: str, parameter: nn.Parameter) -> bool:
    """Norms, biases and RoIs."""
    return parameter.ndim == 1 or name.endswith(('bias', 'token_rois'))


def assert_rates(
    model: nn.Module, optimizer, lr: Callable, decay: float, bare: Callable = is_bare
) -> None:
    """Each parameter is trained, with its learning rate and decay.

    Args:
        model: of the optimizer.
        optimizer: with its groups.
        lr: the learning rate by a parameter's name, None if any will do.
        decay: the weight decay of all that are not bare.
        bare: whether a parameter has none, by name and value.
    """
    groups = {
        id(parameter): group
        for group in optimizer.param_groups
        for parameter in group['params']
    }
    for key, value in model.named_parameters():
        group, rate = groups[id(value)], lr(key)
        assert rate is None or group['lr'] == pytest.approx(rate, rel=1e-6), key
        assert group['weight_decay'] == (0 if bare(key, value) else decay), key
