"""What ``tools/train.py`` and ``tools/test.py`` have in common."""

import atexit
import copy
import ctypes
import os
import os.path as osp
import sys
from argparse import ArgumentParser, Namespace

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..host import host_of, type_name
from ..models import kernels
from .configs import CfgOptions, load_config
from .errors import fail

__all__ = [
    'add_common_arguments',
    'add_hook',
    'announce',
    'build_runner',
    'finish',
    'keep_freed_memory',
    'prepare_config',
    'prepare_kernels',
]

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def announce(message: str) -> None:
    """Print once, however many processes there are."""
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(message, flush=True)


def add_common_arguments(parser: ArgumentParser) -> None:
    """The flags which OpenMMLab's train and test tools share."""
    parser.add_argument(
        '--work-dir',
        help='where logs, results and checkpoints go '
        '(./work_dirs/CONFIG_NAME if nothing else is said)',
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='no pinned memory in data loaders'
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='start data loader workers anew every epoch',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of the config, for example '
        'optim_wrapper.optimizer.lr=1e-4; lists as key=a,b or '
        'key="[a,b]" without blanks',
    )
    parser.add_argument(
        '--launcher',
        default='none',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        help='how the processes of a distributed run start',
    )
    # Given by torch.distributed.launch; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def prepare_config(args: Namespace) -> Config:
    """Read the config and apply the flags of :func:`add_common_arguments`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('./work_dirs', stem)
    for name in _LOADERS:
        if cfg.get(name) is not None:
            cfg[name] = _loader_defaults(cfg, cfg[name], args)
    if args.launcher != 'none':
        _prepare_launcher(cfg, args.launcher)
    elif int(os.environ.get('WORLD_SIZE', 1)) > 1 and 'RANK' in os.environ:
        fail(
            f'{os.environ["WORLD_SIZE"]} processes were started (by torchrun?), but '
            'without --launcher pytorch each would do the whole work by itself, all '
            f'in {cfg.work_dir}: add --launcher pytorch, or use tools/dist_train.sh'
        )
    return cfg


def _loader_defaults(cfg: Config, loader: dict, args: Namespace) -> dict:
    """Settings that a loader needs on this machine and in this library."""
    for key, value in host_of(cfg).loader_defaults.items():
        loader.setdefault(key, copy.deepcopy(value))
    if args.no_pin_memory or not torch.cuda.is_available():
        loader['pin_memory'] = False
    if args.no_persistent_workers or not loader.get('num_workers'):
        loader['persistent_workers'] = False  # an error without workers
    return loader


def _prepare_launcher(cfg: Config, launcher: str) -> None:
    """Check the launcher's environment; without GPUs switch to gloo."""
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        fail(
            '--launcher pytorch is for processes started by torchrun: use '
            'tools/dist_train.sh CONFIG NUM_PROCESSES, or leave it out'
        )
    if torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        fail(
            f'--launcher {launcher} found no GPU; on CPUs use '
            'tools/dist_train.sh, which starts processes with torchrun'
        )
    announce('no GPU found: training on CPUs with the gloo backend')
    # mmengine starts process groups on GPUs only, but takes an existing one,
    # and its wrapper gets a GPU's index unless told that there is none.
    torch.distributed.init_process_group('gloo')
    cfg.setdefault('env_cfg', ConfigDict())
    cfg.env_cfg.dist_cfg = ConfigDict(backend='gloo')
    # Synchronised batch norms are for GPUs only.
    cfg.pop('sync_bn', None)
    if _without_sync_bn(cfg.get('model')):
        announce('no GPU found: SyncBN of the model becomes BN')
    add_hook(cfg, 'AverageBatchNormHook')
    wrapper = cfg.get('model_wrapper_cfg') or ConfigDict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.device_ids = None
    cfg.model_wrapper_cfg = wrapper


def add_hook(cfg: Config, name: str) -> None:
    """Add a hook of this package to those of a config."""
    hook = dict(type=f'sparseformer_mm.{name}')
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def _without_sync_bn(cfg) -> int:
    """Turn SyncBN in a model's config, in place, into BN; says how many there were."""
    if isinstance(cfg, (list, tuple)):
        return sum(map(_without_sync_bn, cfg))
    if not isinstance(cfg, dict):
        return 0
    count = sum(map(_without_sync_bn, cfg.values()))
    if type_name(cfg) in ('SyncBN', 'MMSyncBN', 'SyncBatchNorm'):
        cfg['type'] = 'BN'
        count += 1
    return count


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for what comes next, where there is no GPU.

    Else it gives the pages of tensors back to Linux, which hands them out anew, filled
    with zeros, in each iteration (figures: docs/speed.md). For glibc and tensors up to
    32 MiB; the settings of the environment win. Returns whether it was done.
    """
    if torch.cuda.is_available() or any(
        name.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc, or none to be called
        return False
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h. Larger tensors go back to Linux
    # as ever: kept, those of pictures of many sizes leave holes between each other.
    return bool(mallopt(-3, 2**25) and mallopt(-1, 2**31 - 1))


def prepare_kernels() -> None:
    """Compile the kernels for this CPU, once, where there is no GPU."""
    if torch.cuda.is_available() or not kernels.are_wanted():
        return
    try:
        kernels.build_kernels(announce)
    except RuntimeError as error:
        announce(f'warning: {error}. SPARSEFORMER_MM_KERNELS=0 does not try')


def finish(args: Namespace) -> None:
    """Leave a successful run; the last call of a tool.

    Now and then a process of a gloo run aborts while C++ takes its threads down, after
    all work is done, and torchrun then reports a failure. So such a process does what
    Python does at its end and leaves the rest to the system.
    """
    if args.launcher == 'none' or torch.cuda.is_available():
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config names.

    It writes the whole config into its work directory, under its own name: not over
    the very file that was read, which may be the user's only one.
    """
    if cfg.filename and osp.isdir(cfg.work_dir):
        stem, suffix = osp.splitext(osp.basename(cfg.filename))
        if osp.realpath(cfg.filename) == osp.realpath(
            osp.join(cfg.work_dir, stem + suffix)
        ):
            path = osp.join(osp.dirname(cfg.filename), f'{stem}_used{suffix}')
            super(Config, cfg).__setattr__('_filename', path)
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
