"""Train a model of mmpretrain, mmdet, mmseg or mmaction2.

The config's ``default_scope`` decides which library is meant.
"""

# ruff: noqa: E402  (torch reads once, when it is imported, how its threads wait)
import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any, Optional, Sequence


def busy_cores(before: str, after: str, cores: Sequence[int]) -> float:
    """How many of the cores worked between two states of /proc/stat."""

    def read(text):
        lines = [line.split() for line in text.splitlines()]
        return {x[0]: list(map(int, x[1:9])) for x in lines if x[0].startswith('cpu')}

    old, new = read(before), read(after)
    busy = 0.0
    for name in (f'cpu{core}' for core in cores):
        spent = [b - a for a, b in zip(old.get(name, ()), new.get(name, ()))]
        # The fourth and fifth are idle, and waiting for a disk.
        busy += 1 - sum(spent[3:5]) / sum(spent) if sum(spent) > 0 else 0
    return busy


def share_cores():
    """Wait without spinning for long where other programs need the same cores.

    A training of a small model beside one other busy process is 1.8 times as fast so,
    and a third slower where it has the machine for itself: hence what it finds in the
    first 50 ms decides. The user's own settings win.
    """
    if {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & set(os.environ):
        return
    try:
        stat = Path('/proc/stat')
        before = stat.read_text()
        time.sleep(0.05)
        cores = os.sched_getaffinity(0)
        busy = busy_cores(before, stat.read_text(), cores)
        threads = int(os.environ.get('OMP_NUM_THREADS', len(cores)))
    # Not Linux, or not as it writes that file.
    except (OSError, AttributeError, ValueError, IndexError):
        return
    if busy + min(threads, len(cores)) > len(cores) + 0.5:
        os.environ['GOMP_SPINCOUNT'] = '1000'


if __name__ == '__main__':
    share_cores()

import torch
from mmengine.config import Config, ConfigDict

from sparseformer_mm.host import type_name
from sparseformer_mm.utils.checkpoints import (
    check_checkpoint,
    check_training,
    find_resumable,
    forbid_reinit,
)
from sparseformer_mm.utils.errors import explain_errors, fail
from sparseformer_mm.utils.launch import (
    add_common_arguments,
    add_hook,
    announce,
    build_runner,
    finish,
    keep_freed_memory,
    prepare_config,
    prepare_kernels,
)
from sparseformer_mm.utils.outputs import check_folder

CPU_AMP = 'sparseformer_mm.BFloat16OptimWrapper'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a path, from the latest '
        'one in the work directory, if there is any',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train with automatic mixed precision'
    )
    parser.add_argument(
        '--amp-dtype',
        choices=['float16', 'bfloat16'],
        help='number format of --amp (float16 on a GPU, bfloat16 on a CPU)',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='no validation during training'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the actual over the base batch size',
    )
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--diff-rank-seed', action='store_true', help='another seed in each process'
    )
    parser.add_argument(
        '--deterministic', action='store_true', help='only deterministic operators'
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def set_amp(cfg: Config, wanted: bool, dtype: Optional[str]) -> None:
    """Choose the optimizer wrapper for mixed precision."""
    wrapper = cfg.optim_wrapper
    kind = type_name(wrapper) or 'OptimWrapper'
    if not (wanted or dtype or kind == 'AmpOptimWrapper'):
        return
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', type_name(dict(type=CPU_AMP))):
        fail(
            f'--amp works with OptimWrapper or AmpOptimWrapper, but the '
            f'config uses {kind}'
        )
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        if dtype is not None:
            wrapper.dtype = dtype
        if wrapper.get('dtype') == 'bfloat16':
            # It has float32's range: gradients need no scaling.
            wrapper.loss_scale = dict(enabled=False)
        return
    if dtype == 'float16':
        fail('--amp-dtype float16 needs a GPU; use bfloat16 on a CPU')
    announce('no GPU found: mixed precision uses bfloat16, no loss scaling')
    wrapper.type = CPU_AMP
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)


def set_resume(cfg: Config, resume: Optional[str]) -> None:
    """Point the runner to the checkpoint to go on from."""
    if resume is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    if resume == 'auto':
        resume, damaged = find_resumable(cfg.work_dir)
        for file, fault in damaged.items():
            announce(f'cannot resume from {file}: {fault}')
        if resume is None:
            # The config's own load_from still counts then.
            cfg.resume = False
            announce(f'nothing to resume in {cfg.work_dir}: starting anew')
    elif resume is not None:
        check_training(resume)
    if resume is not None:
        cfg.resume, cfg.load_from = True, resume
        announce(f'resuming from {resume}')
        return
    check_checkpoint(cfg.get('load_from'))
    if any(Path(cfg.work_dir).glob('*.pth')):
        announce(
            f'{cfg.work_dir} has checkpoints of an earlier training, which this one '
            'may write over; --resume would go on from them, --work-dir names another '
            'folder'
        )


def check_pretrained(part: Any) -> None:
    """Complain about files of weights in a model's config before work begins."""
    if isinstance(part, dict):
        if part.get('type') == 'Pretrained':
            check_checkpoint(part.get('checkpoint'))
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for inner in part:
            check_pretrained(inner)


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the flags which only training has."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    set_amp(cfg, args.amp, args.amp_dtype)
    set_resume(cfg, args.resume)
    check_pretrained(cfg.model)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            fail(
                '--auto-scale-lr needs auto_scale_lr = '
                'dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    randomness = cfg.get('randomness') or ConfigDict()
    if args.seed is not None:
        randomness.seed = args.seed
    if args.deterministic:
        randomness.deterministic = True
    if args.diff_rank_seed:
        randomness.diff_rank_seed = True
    if randomness:
        cfg.randomness = randomness


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    cfg = prepare_config(args)
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            fail(f'{args.config} has no {key}, which training needs')
    check_folder(cfg.work_dir)
    merge_args(cfg, args)
    if not torch.cuda.is_available():
        add_hook(cfg, 'FusedOptimizerHook')
    keep_freed_memory()
    prepare_kernels()
    runner = build_runner(cfg)
    # (FlexibleRunner builds its model later.)
    if cfg.get('resume') and isinstance(runner.model, torch.nn.Module):
        forbid_reinit(runner.model)
    with explain_errors():
        runner.train()
    finish(args)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        announce(
            '\ninterrupted; the same command with --resume goes on from '
            'the latest checkpoint'
        )
        sys.exit(130)
