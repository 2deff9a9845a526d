"""Finding configs, libraries and models for the command-line tools.

One pair of tools serves mmpretrain, mmdet, mmseg and mmaction2: a config's
``default_scope`` says which of them it needs. Everything here ends in one
clear line instead of a deep traceback when a file or a library is missing.
"""

import importlib
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..api import SparseFormerClassifier
from ..host import LIBRARIES, Host, host_of, scope_of, type_name
from ..models.arch import ARCHS
from .errors import fail

__all__ = [
    'CfgOptions',
    'build_model',
    'find_config',
    'load_config',
    'require_library',
]

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

PARTS = ('model', 'backbone', 'features')
_DROP_PATH_RATES = {'tiny': 0.2, 'small': 0.3, 'base': 0.4}


class CfgOptions(DictAction):
    """mmengine's action for ``--cfg-options``; says which word is not KEY=VALUE."""

    def __call__(self, parser, namespace, values, option_string=None):
        for word in values or ():
            try:
                if word.startswith('='):
                    raise ValueError('no key')
                super().__call__(parser, namespace, [word], option_string)
            except (ValueError, AssertionError):  # no '=', or an open bracket
                parser.error(f'argument {option_string}: {word!r} is not KEY=VALUE')


def require_library(scope: Optional[str]) -> None:
    """Import the library behind a ``default_scope`` or say how to get it."""
    try:
        host_of(scope)
    except (ImportError, ValueError) as error:
        fail(str(error))


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config, merge ``--cfg-options`` and enter its scope."""
    if not os.path.isfile(path):
        fail(f'there is no config file {path} (seen from {os.getcwd()})')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        fail(f'cannot read config {path}: {type(error).__name__}: {error}')
    for key, value in cfg.items():
        cfg[key] = _by_name(value)
    if options:
        cfg.merge_from_dict(options)
    require_library(scope_of(cfg))
    if scope_of(cfg) is not None:  # what tools add to a config is found by it
        cfg.default_scope = scope_of(cfg)
    return cfg


def _by_name(value):
    """A setting whose classes and functions are dotted names.

    Those of pure-Python configs are objects, which tools and libraries that look at a
    ``type`` do not expect.
    """
    if isinstance(value, dict):
        return type(value)({key: _by_name(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_by_name(item) for item in value)
    if callable(value) and hasattr(value, '__qualname__'):
        return f'{value.__module__}.{value.__qualname__}'
    return value


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
        paths = sorted(folder.glob(f'**/{stem}.py'))
        if paths:
            return str(paths[0])
    fail(
        f"{scope} ships no config named '{stem}.py'; short names are "
        f'{", ".join(_ALIASES)}'
    )


class _TensorMode(nn.Module):
    """An OpenMMLab model as an ordinary module: tensor in, tensors out."""

    def __init__(self, model: nn.Module, host: Host) -> None:
        super().__init__()
        self.model = model
        self.host = host

    def forward(self, x: Tensor):
        return self.host.forward(self.model, x)


class _Features(nn.Module):
    """What of a model makes its features: the backbone, with or without the neck."""

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = getattr(model, 'neck', None) if part == 'features' else None

    def forward(self, x: Tensor):
        x = self.backbone(x)
        return x if self.neck is None else self.neck(x)


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
                and type_name(value) in ('Pretrained', 'PretrainedInit')
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
        logger = MMLogger.get_current_instance()
        logger.setLevel(logger.level)  # or all of them remember that they were off


def build_model(
    name: str, options: Optional[dict] = None, part: str = 'model', **kwargs
) -> nn.Module:
    """Build a model that takes one tensor and returns what its head returns.

    Args:
        name: ``sparseformer-tiny`` (or another of :data:`~.arch.ARCHS`) for the
            plain classifier with 1000 classes, a config file of any library, or
            ``LIBRARY:CONFIG`` for a config that a library ships.
        options: Overrides for a config.
        part: One of :data:`PARTS`: 'model', 'backbone', or 'features', the backbone
            and the neck.
        **kwargs: More arguments of a plain SparseFormer.
    """
    family, _, arch = name.partition('-')
    if family == 'sparseformer' and arch in ARCHS:
        kwargs.setdefault('drop_path_rate', _DROP_PATH_RATES.get(arch, 0.0))
        model = SparseFormerClassifier(arch, **kwargs)
        return model if part == 'model' else _Features(model, part)
    path = name if name.endswith('.py') else find_config(name)
    cfg = load_config(path, options)
    if 'model' not in cfg:
        fail(f'config {path} has no model')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with _quiet():
        model = MODELS.build(_without_pretrained(cfg.model))
        model.init_weights()
    if part == 'model':
        return _TensorMode(model, host_of(cfg))
    return _Features(model, part)
