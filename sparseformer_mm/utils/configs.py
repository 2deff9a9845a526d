"""Finding configs, libraries and models for the command-line tools.

One pair of tools serves mmpretrain, mmdet, mmseg and mmaction2: a config's
``default_scope`` says which of them it needs. Everything here ends in one
clear line instead of a deep traceback when a file or a library is missing.
"""

import importlib
import importlib.util
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, NoReturn, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..api import SparseFormerClassifier

__all__ = [
    'LIBRARIES',
    'build_model',
    'fail',
    'find_config',
    'load_config',
    'require_library',
]

# default_scope -> what pip calls it in (the onedl, the openmmlab) stack
LIBRARIES: Dict[str, Tuple[str, str]] = {
    'mmpretrain': ('onedl-mmpretrain==1.3.6', 'mmpretrain==1.2.0'),
    'mmdet': ('onedl-mmdetection==3.5.1', 'mmdet==3.3.0'),
    'mmseg': ('onedl-mmsegmentation==1.4.2', 'mmsegmentation==1.2.2'),
    'mmaction': ('mmaction2==1.2.0', 'mmaction2==1.2.0'),
}

# Short names of the models that SparseFormer is usually compared with.
_ALIASES = {
    'mmpretrain:swin-tiny': 'swin-tiny_16xb64_in1k',
    'mmpretrain:swin-small': 'swin-small_16xb64_in1k',
    'mmpretrain:swin-base': 'swin-base_16xb64_in1k',
    'mmpretrain:resnet18': 'resnet18_8xb32_in1k',
    'mmpretrain:resnet50': 'resnet50_8xb32_in1k',
    'mmpretrain:resnet101': 'resnet101_8xb32_in1k',
    'mmpretrain:deit-tiny': 'deit-tiny_4xb256_in1k',
    'mmpretrain:deit-small': 'deit-small_4xb256_in1k',
    'mmpretrain:deit-base': 'deit-base_16xb64_in1k',
}

_DROP_PATH_RATES = {'tiny': 0.2, 'small': 0.3, 'base': 0.4}


def fail(message: str) -> NoReturn:
    """End a command-line tool with one line on stderr and status 1."""
    raise SystemExit(f'error: {message}')


def require_library(scope: str) -> None:
    """Import the library behind a ``default_scope`` or say how to get it."""
    if scope in ('mmengine', 'sparseformer_mm'):
        return
    if scope not in LIBRARIES:
        fail(f"default_scope '{scope}' is none of {', '.join(LIBRARIES)}")
    onedl, openmmlab = LIBRARIES[scope]
    if importlib.util.find_spec(scope) is None:
        fail(
            f"the config's default_scope is '{scope}', which is not "
            f'installed: pip install "{onedl}" (onedl stack) or '
            f'pip install "{openmmlab}" (openmmlab stack)'
        )
    try:
        if scope == 'mmaction':
            importlib.import_module('sparseformer_mm.video.compat')
        importlib.import_module(f'{scope}.models')
    except Exception as error:  # version asserts and broken binaries alike
        reason = str(error).strip().splitlines()
        fail(
            f"'{scope}' is installed but cannot be imported "
            f'({type(error).__name__}: {reason[0] if reason else ""}); '
            'tools/check_env.py names the cure'
        )


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config, merge ``--cfg-options`` and enter its scope."""
    if not os.path.isfile(path):
        fail(f'there is no config file {path} (seen from {os.getcwd()})')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        fail(f'cannot read config {path}: {type(error).__name__}: {error}')
    if options:
        cfg.merge_from_dict(options)
    require_library(cfg.get('default_scope') or 'mmengine')
    return cfg


def find_config(name: str) -> str:
    """The path of ``LIBRARY:CONFIG``, a config that a library ships.

    ``mmpretrain:swin-tiny`` and a few others are short names.
    """
    scope, _, stem = name.partition(':')
    if scope not in LIBRARIES:
        fail(
            f"'{name}' is neither a config file nor LIBRARY:CONFIG with one "
            f'of {", ".join(LIBRARIES)} in front'
        )
    require_library(scope)
    stem = _ALIASES.get(name, stem)
    root = Path(importlib.import_module(scope).__file__).parent
    for folder in (root / '.mim' / 'configs', root.parent / 'configs'):
        found = sorted(folder.glob(f'**/{stem}.py'))
        if found:
            return str(found[0])
    fail(
        f"{scope} ships no config named '{stem}.py'; short names are "
        f'{", ".join(_ALIASES)}'
    )


class _TensorMode(nn.Module):
    """An OpenMMLab model as an ordinary module: tensor in, tensors out."""

    def __init__(self, model: nn.Module, scope: str) -> None:
        super().__init__()
        self.model = model
        self.scope = scope

    def forward(self, x: Tensor):
        kwargs = {}
        if self.scope == 'mmaction':
            if type(self.model).__name__ == 'Recognizer3D':
                x = x[:, None]  # one crop
            kwargs['stage'] = 'head'
        elif self.scope == 'mmdet':
            # Detectors ask the samples how much of the batch is padding.
            kwargs['data_samples'] = _detection_samples(x)
        return self.model(x, mode='tensor', **kwargs)


def _detection_samples(x: Tensor) -> list:
    from mmdet.structures import DetDataSample

    size = tuple(x.shape[-2:])
    meta = dict(
        batch_input_shape=size,
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        scale_factor=(1.0, 1.0),
    )
    return [DetDataSample(metainfo=meta) for _ in x]


def _without_pretrained(cfg):
    """A copy of a model config in which nothing is loaded or downloaded."""
    if isinstance(cfg, dict):
        kept = {
            key: _without_pretrained(value)
            for key, value in cfg.items()
            if key != 'pretrained'
            and not (
                key == 'init_cfg'
                and isinstance(value, dict)
                and value.get('type') == 'Pretrained'
            )
        }
        if 'pretrained2d' in kept:  # mmaction2: what it says of `pretrained`
            kept['pretrained2d'] = False
        return type(cfg)(kept)
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(_without_pretrained(value) for value in cfg)
    return cfg


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ``init_weights`` from listing every parameter."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def build_model(name: str, options: Optional[dict] = None, **kwargs) -> nn.Module:
    """Build a model that takes one tensor and returns what its head returns.

    Args:
        name: ``sparseformer-tiny`` (``-small``, ``-base``) for the plain
            classifier with 1000 classes, a config file of any library, or
            ``LIBRARY:CONFIG`` for a config that a library ships.
        options: Overrides for a config.
        **kwargs: More arguments of a plain SparseFormer.
    """
    family, _, arch = name.partition('-')
    if family == 'sparseformer' and arch in _DROP_PATH_RATES:
        kwargs.setdefault('drop_path_rate', _DROP_PATH_RATES[arch])
        return SparseFormerClassifier(arch, **kwargs)
    path = name if name.endswith('.py') else find_config(name)
    cfg = load_config(path, options)
    if 'model' not in cfg:
        fail(f'config {path} has no model')
    scope = cfg.get('default_scope') or 'mmengine'
    init_default_scope(scope)
    with _quiet():
        model = MODELS.build(_without_pretrained(cfg.model))
        model.init_weights()
    return _TensorMode(model, scope)
