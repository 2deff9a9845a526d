"""What the configs of all tasks have in common: how they inherit, how they run."""

import re
from pathlib import Path
from typing import List, NamedTuple

import pytest

from helpers.shipped_configs import CONFIGS, load, page

FILES = sorted(CONFIGS.glob('**/*.py'))
# Of the tasks; those of the ablations are compared with their parent.
RUNS = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')


def bases(path: Path) -> List[Path]:
    """The files in ``_base_``."""
    found = re.search(r"^_base_ = (\[.*?\]|'.*?')$", path.read_text(), re.S | re.M)
    return (
        [path.parent / name for name in re.findall(r"'(.*?)'", found[1])]
        if found
        else []
    )


def depth(path: Path) -> int:
    """The longest chain of bases below a config."""
    return max((1 + depth(base) for base in bases(path)), default=0)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_inheritance_is_at_most_two_deep(path):
    assert all(base.is_file() for base in bases(path))
    assert depth(path) <= 2
    assert bool(bases(path)) == ('_base_ =' in path.read_text())


def test_every_base_is_used():
    used = {base.resolve() for path in FILES for base in bases(path)}
    assert {path for path in FILES if '_base_' in path.parts} <= used


class Task(NamedTuple):
    """What a config must say: library, the number that counts, who draws."""

    scope: str
    best: str
    visualizer: str


TASKS = dict(
    classification=Task('mmpretrain', 'accuracy/top1', 'UniversalVisualizer'),
    detection=Task('mmdet', 'coco/bbox_mAP', 'DetLocalVisualizer'),
    segmentation=Task('mmseg', 'mIoU', 'SegLocalVisualizer'),
    video=Task('mmaction', 'acc/top1', 'ActionVisualizer'),
)
every_run = pytest.mark.parametrize('path', RUNS, ids=lambda path: path.stem)


def test_every_task_is_known():
    assert {path.parent.name for path in RUNS} == TASKS.keys()


@every_run
def test_every_config_is_listed_in_the_readme(path):
    assert f'({path.name})' in page(path.parent.name)


@every_run
def test_runtime(path):
    task, cfg = TASKS[path.parent.name], load(path)
    assert cfg.default_scope == task.scope
    # Types of this package carry its prefix and need no import; mmaction2 does.
    compat = dict(imports=['sparseformer_mm.video.compat'], allow_failed_imports=False)
    assert cfg.get('custom_imports') == (compat if task.scope == 'mmaction' else None)
    hooks = {hook.type: hook for hook in cfg.default_hooks.values()}
    assert 'sparseformer_mm.LossScaleHook' in hooks
    assert 'sparseformer_mm.ConvertCheckpointHook' in hooks
    assert 'sparseformer_mm.CheckDatasetHook' in hooks
    assert 'sparseformer_mm.HealthHook' in hooks
    checkpoint, loop = hooks['CheckpointHook'], cfg.train_cfg
    assert (checkpoint.save_best, checkpoint.rule) == (task.best, 'greater')
    assert checkpoint.max_keep_ckpts <= 3
    assert cfg.visualizer.type == task.visualizer
    # The last epoch or iteration is validated and saved.
    by_epoch = 'max_epochs' in loop
    length = loop.max_epochs if by_epoch else loop.max_iters
    assert length % loop.val_interval == 0 == length % checkpoint.interval
    for part in (checkpoint, cfg.get('log_processor', {})):
        assert part.get('by_epoch', True) == by_epoch


@every_run
def test_batch_and_learning_rate_are_those_of_the_name(path):
    cfg = load(path)
    gpus, batch = map(int, re.search(r'_(\d+)xb(\d+)', path.stem).groups())
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == gpus * batch
