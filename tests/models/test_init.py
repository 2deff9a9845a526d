"""Initial values after mmengine's init_weights(), from any parent."""

import pytest
import torch
from mmengine.model import BaseModule

from helpers.small_model import ARCH
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.rois import init_offsets, init_rois
from sparseformer_mm.registry import MODELS

ARCH = dict(ARCH, num_tokens=4, num_points=4, focusing_dims=32, cortex_dims=48)
WRECK = dict(
    type='Constant', val=7.0, bias=7.0, layer=['Linear', 'LayerNorm', 'Conv2d']
)


class Parent(BaseModule):
    def __init__(self, backbone_cfg=None, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = MODELS.build(
            dict(type='SparseFormer', arch=ARCH, init_cfg=backbone_cfg)
        )


def assert_special(model):
    """The initial values that the paper and the authors' code single out."""
    torch.testing.assert_close(model.latent.token_rois.data, init_rois(4))
    assert 0.6 < model.latent.token_embeddings.std() < 1.1
    assert model.latent.token_embeddings.abs().max() <= 2
    for block, dims in ((model.focusing, 32), (model.cortex[0], 48)):
        gain = torch.full((dims,), dims**-0.5)
        assert (block.roi_adjust.proj.weight == 0).all()
        torch.testing.assert_close(block.roi_adjust.norm.weight.data, gain)
        assert (block.sampler.proj.weight == 0).all()
        torch.testing.assert_close(block.sampler.bias.data, init_offsets(4).flatten())
        assert (block.sampler.norm.weight == 1).all()
        assert (block.decoder.generate.weight == 0).all()
        assert 0.5 < block.decoder.generate.bias[:64].abs().max() <= (6 / 16) ** 0.5
        torch.testing.assert_close(block.decoder.norm.weight.data, gain)
        assert (block.decoder.channel_bias == 0).all()
        assert (block.decoder.point_bias == 0).all()
    std = (2 / (8 * 49)) ** 0.5  # Kaiming normal, fan out, ReLU
    assert 0.9 < model.stem.conv.weight.std() / std < 1.1


def test_at_construction():
    model = SparseFormer(ARCH)
    assert_special(model)
    for layer in (
        model.focusing.attn.qkv,
        model.cortex[1].ffn.fc1,
        model.transition[0],
    ):
        assert 0.018 < layer.weight.std() < 0.022 and (layer.bias == 0).all()


@pytest.mark.parametrize('parent_cfg', [None, WRECK])
@pytest.mark.parametrize('own_cfg', [None, WRECK])
def test_special_values_survive_any_parent(parent_cfg, own_cfg):
    parent = Parent(own_cfg, parent_cfg)
    parent.init_weights()
    assert_special(parent.backbone)
    wrecked = parent_cfg is not None or own_cfg is not None
    # Ordinary layers do follow the init_cfg.
    assert (parent.backbone.cortex[1].ffn.fc1.weight == 7).all().item() is wrecked


@pytest.mark.parametrize('parent_cfg', [None, WRECK])
@pytest.mark.parametrize('owner', ['parent', 'backbone', 'both'])
def test_special_values_yield_to_pretrained(parent_cfg, owner, tmp_path):
    source = Parent()
    for param in source.parameters():
        torch.nn.init.uniform_(param)
    whole, part = str(tmp_path / 'whole.pth'), str(tmp_path / 'part.pth')
    torch.save(source.state_dict(), whole)
    torch.save(source.backbone.state_dict(), part)
    configs = [parent_cfg] if parent_cfg else []
    if owner != 'backbone':
        configs.append(dict(type='Pretrained', checkpoint=whole))
    own = dict(type='Pretrained', checkpoint=part) if owner != 'parent' else None
    model = Parent(own, configs)
    model.init_weights()
    for (name, value), expected in zip(
        model.state_dict().items(), source.state_dict().values()
    ):
        assert torch.equal(value, expected), name


def test_seed_decides_everything():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = Parent()
        model.init_weights()
        states.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_parts_obey_an_init_cfg_of_their_own(tmp_path):
    file = str(tmp_path / 'stem.pth')
    source = SparseFormer(ARCH).stem
    torch.save(source.state_dict(), file)
    model = SparseFormer(
        ARCH,
        stem=dict(type='EarlyConv', init_cfg=dict(type='Pretrained', checkpoint=file)),
        decoding=dict(
            type='AdaptiveMixing',
            init_cfg=dict(type='Constant', layer='Linear', val=3.0),
        ),
    )
    model.init_weights()
    assert torch.equal(model.stem.conv.weight, source.conv.weight)
    assert (model.focusing.decoder.generate.weight == 3).all()
