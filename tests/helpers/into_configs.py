"""SparseFormer into a config that a library ships, as the page on that says."""

import copy
import logging

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from helpers.pages import DOCS, snippet
from sparseformer_mm.utils.configs import find_config

PAGE = DOCS / 'into_your_config.md'

# Sizes that heads have for a GPU and many objects; not one of them meets the backbone.
SMALL = dict(
    fc_out_channels=32,
    num_queries=10,
    num_proposals=10,
    nms_pre=30,
    max_per_img=10,
    num_points=64,
    feedforward_channels=64,
    num_convs=1,
    num_layers=2,
)


def shrink(cfg, sizes=SMALL):
    """Smaller numbers under these keys, wherever they are."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in sizes and isinstance(value, int):
                cfg[key] = min(value, sizes[key])
            elif key in ('size', 'crop_size', 'random_size_range'):
                cfg[key] = (64, 64)
            elif key == 'num' and cfg.get('type') == 'RandomSampler':
                cfg[key] = 16
            else:
                shrink(value, sizes)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            shrink(value, sizes)


def load(name: str, backbone: dict, **model) -> Config:
    """A shipped config, its backbone replaced as the page on configs says.

    Args:
        name: LIBRARY:CONFIG.
        backbone: arguments of SparseFormer.
        **model: other settings of the model, merged.
    """
    library, _, stem = name.partition(':')
    assert f'| `{stem}` |' in PAGE.read_text('utf-8')
    cfg = Config.fromfile(find_config(name))
    replaced = dict(_delete_=True, type='sparseformer_mm.SparseFormer', **backbone)
    cfg.merge_from_dict(dict(model=dict(model, backbone=replaced)))
    make_small(cfg)
    return cfg


def load_snippet(library: str, name: str) -> Config:
    """The config of the page for a library, which starts from ``name``."""
    settings = {}
    exec(snippet(PAGE, f"'{library}::"), settings)
    path = settings.pop('_base_')
    assert path.startswith(f'{library}::') and path.endswith(f'/{name}.py'), path
    cfg = Config.fromfile(find_config(f'{library}:{name}'))
    settings = {k: v for k, v in settings.items() if not k.startswith('__')}
    cfg.merge_from_dict(settings)
    cfg.model.backbone.pop('init_cfg', None)
    make_small(cfg)
    return cfg


def make_small(cfg: Config):
    """A backbone that takes no time. Pooled, it has the width that heads were given."""
    arch = 'nano' if cfg.model.backbone.out_type == 'maps' else 'tiny'
    cfg.model.backbone.update(arch=arch, num_tokens=9, cortex_depth=1)


def build(cfg: Config):
    """The model, on one CPU."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    logging.disable(logging.INFO)
    try:
        model = MODELS.build(cfg.model)
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    return revert_sync_batchnorm(model)


def train(cfg: Config, model, data, iterations: int = 2) -> list:
    """Train with the config's own optimizer.

    Returns:
        list: the loss of each iteration.

    Raises:
        AssertionError: unless every parameter got a gradient, as distributed training
            wants, and the backbone's changed.
    """
    optim_wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    before = {k: p.detach().clone() for k, p in model.backbone.named_parameters()}
    model.train()
    losses = [
        float(model.train_step(copy.deepcopy(data), optim_wrapper)['loss'])
        for _ in range(iterations)
    ]
    assert torch.tensor(losses).isfinite().all(), losses
    moments = optim_wrapper.optimizer.state
    unused = [k for k, p in model.named_parameters() if p not in moments]
    assert not unused
    for key, param in model.backbone.named_parameters():
        assert param.isfinite().all(), key
        # Weights of the first steps may be too small to change a number.
        assert moments[param] and (param != before[key]).any() or param.dim() < 2, key
    return losses
