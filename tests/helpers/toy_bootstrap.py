"""A vision transformer of a few thousand weights, and a SparseFormer that inherits."""

import copy
from pathlib import Path

import torch
from mmengine.registry import MODELS

VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64),
    img_size=32,
    patch_size=8,
)
TEACHER = dict(
    type='ImageClassifier',
    backbone=VIT,
    head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=32),
)
BACKBONE = dict(
    type='sparseformer_mm.SparseFormer',
    arch='bootstrapped-base',
    num_tokens=4,
    num_points=4,
    focusing_dims=16,
    focusing_repeats=2,
    cortex_dims=32,
    cortex_depth=3,
    head_dims=16,
    ffn_ratio=2,
    feat_channels=8,
)
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=32)


def vit(**changes) -> dict:
    """The config of the teacher with another backbone."""
    return dict(TEACHER, backbone=dict(VIT, **changes))


def build(cfg: dict) -> torch.nn.Module:
    """Build a config, which stays as it is."""
    return MODELS.build(copy.deepcopy(cfg))


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Add noise to all parameters, so that each matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter))
    return model


def save(cfg: dict, path: Path) -> dict:
    """Write a model's checkpoint; return the config of a teacher that loads it."""
    torch.manual_seed(0)
    state = shake(build(cfg)).state_dict()
    torch.save(dict(state_dict=state, meta={}), path)
    return dict(cfg, init_cfg=dict(type='Pretrained', checkpoint=str(path)))


def student(teacher: dict, **changes) -> dict:
    """The config of the model that learns."""
    kind = 'sparseformer_mm.classification.BootstrapSparseFormer'
    return dict(
        dict(type=kind, backbone=BACKBONE, head=HEAD, teacher=teacher), **changes
    )
