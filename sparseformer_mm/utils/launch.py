"""What ``tools/train.py`` and ``tools/test.py`` have in common."""

import atexit
import os
import os.path as osp
import pickle
import re
import sys
import zipfile
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from typing import Iterator, Optional

import mmengine
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..models import SparseFormer
from .configs import fail, load_config

__all__ = [
    'add_common_arguments',
    'announce',
    'build_runner',
    'check_checkpoint',
    'explain_errors',
    'finish',
    'forbid_reinit',
    'prepare_config',
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
        action=DictAction,
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
    return cfg


def _loader_defaults(cfg: Config, loader: dict, args: Namespace) -> dict:
    """Settings that a loader needs on this machine and in this library."""
    if cfg.get('default_scope') == 'mmpretrain':
        # mmpretrain's configs count on its own tools to add these.
        loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        loader.setdefault('pin_memory', True)
        loader.setdefault('persistent_workers', True)
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
    cfg.pop('sync_bn', None)  # such batch norms are for GPUs only
    wrapper = cfg.get('model_wrapper_cfg') or ConfigDict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper.device_ids = None
    cfg.model_wrapper_cfg = wrapper


def check_checkpoint(path: Optional[str]) -> None:
    """Complain about a missing or damaged checkpoint before work begins."""
    if path is None or '://' in path:
        return  # mmengine fetches URLs and reports on them
    if not osp.isfile(path):
        fail(f'there is no checkpoint file {path} (seen from {os.getcwd()})')
    with open(path, 'rb') as file:
        magic = file.read(2)
    if magic == b'PK':
        damaged = not zipfile.is_zipfile(path)  # its index is at the end
    else:
        damaged = magic[:1] != pickle.PROTO  # PyTorch's format before 1.6
    if damaged:
        fail(
            f'{path} ({osp.getsize(path)} bytes) is cut off or no PyTorch '
            'checkpoint at all: copy or download it again'
        )


@contextmanager
def explain_errors() -> Iterator[None]:
    """Add the cure to errors of the runner, and clean up after it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if 'weights_only' not in str(error):
            raise
        fail(
            f'mmengine {mmengine.__version__} cannot read checkpoints of its '
            f'own runner with torch {torch.__version__} (2.6 and later load '
            'plain weights only). Use onedl-mmengine, or torch before 2.6, '
            'or, for a file you trust, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'
        )
    except ValueError as error:
        # What mmengine's datasets say when nothing is left to train or test on.
        if 'need at least one array to concatenate' not in str(error):
            raise
        fail(
            'a data set of the config has no picture: check that its ann_file lists '
            'images and, with filter_cfg, that they have boxes of the classes in '
            'metainfo, or (mmseg) that img_path holds files that end in img_suffix'
        )
    except AssertionError as error:
        # mmcv's loaders name the file at the end of a long traceback.
        found = re.search(r'failed to load image: (.*)', str(error))
        if found is None:
            raise
        fail(f'{found[1]} is no image that can be decoded: replace or remove it')
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def forbid_reinit(model: torch.nn.Module) -> None:
    """Make it an error if loading would leave tokens or points untrained."""
    for module in model.modules():
        if isinstance(module, SparseFormer):
            module.allow_reinit = False


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
    """Build the runner that the config names."""
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
