"""SparseFormer for every OpenMMLab library.

Importing this package needs torch and mmengine only. It registers the backbone
with mmengine, so that both ``type='sparseformer_mm.SparseFormer'`` (no import
line needed) and, after ``custom_imports = dict(imports=['sparseformer_mm'])``,
the bare ``type='SparseFormer'`` build inside mmpretrain, mmdet, mmseg and
mmaction2. Without any of them, :func:`build` gives a classifier in plain PyTorch.
"""

from .version import __version__

try:
    import mmengine  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'sparseformer_mm needs torch and mmengine, and {error.name!r} cannot be '
        'imported. Install torch for your platform first, then '
        '`pip install onedl-mmengine` (maintained) or `pip install mmengine` '
        '(the classic OpenMMLab release).'
    ) from error

from . import models, registry  # noqa: E402
from .api import SparseFormerClassifier, build  # noqa: E402
from .models import SparseFormer, SparseFormerOutput, StageRecord  # noqa: E402
from .models.kernels import build_kernels  # noqa: E402
from .zoo import config_path, list_configs  # noqa: E402

__all__ = [
    '__version__',
    'SparseFormer',
    'SparseFormerClassifier',
    'SparseFormerOutput',
    'StageRecord',
    'build',
    'build_kernels',
    'config_path',
    'list_configs',
    'models',
    'registry',
]
