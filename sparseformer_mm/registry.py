"""Registries of sparseformer_mm, children of mmengine's root registries.

mmengine imports ``<prefix>.registry`` when it meets a type such as
``sparseformer_mm.SparseFormer``, so no config needs ``custom_imports``. The
``locations`` name the core only: a task sub-package, for instance
``sparseformer_mm.segmentation.SomeHead``, is imported by its dotted path when used, and
its library with it.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='sparseformer_mm',
    locations=['sparseformer_mm.models'],
)

HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='sparseformer_mm',
    locations=['sparseformer_mm.engine'],
)

METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='sparseformer_mm',
    locations=['sparseformer_mm.engine.predictions'],
)

OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='sparseformer_mm',
    locations=['sparseformer_mm.engine.amp'],
)


def build_part(cfg: dict, **kwargs):
    """Build a part of a backbone or head, whatever the default scope of the config is.

    A type without prefix is searched in this package's registry, then in mmengine's.

    Args:
        cfg: with ``type``.
        **kwargs: arguments added to it.

    Returns:
        The module.

    Raises:
        ValueError: if ``cfg`` already has one of them, or nothing has its type's name.
    """
    clash = sorted(set(cfg) & set(kwargs))
    if clash:
        raise ValueError(
            f'{cfg["type"]} gets {", ".join(clash)} from the backbone or head '
            f'that it is part of (as arguments of these): leave them out of {cfg}'
        )
    with MODELS.switch_scope_and_registry('sparseformer_mm') as registry:
        if isinstance(cfg['type'], str) and registry.get(cfg['type']) is None:
            raise ValueError(
                f'type={cfg["type"]!r} of a stem, decoding or other part is not '
                'registered: import the module that does so (custom_imports), or '
                'correct the name'
            )
    return MODELS.build(dict(cfg, **kwargs, _scope_='sparseformer_mm'))
