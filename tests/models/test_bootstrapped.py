"""The second paper's models: the authors' numbers, parts, start, files."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.golden import BOOTSTRAPPED_SIZES, classify, golden_model
from helpers.numerics import assert_exact, assert_near
from helpers.small_model import BOOTSTRAPPED, small_bootstrapped, small_model
from sparseformer_mm import SparseFormer
from sparseformer_mm.models import ops
from sparseformer_mm.models.arch import ARCHS
from sparseformer_mm.models.blocks import CornerEncoding, quick_gelu
from sparseformer_mm.models.finding import find_weights
from sparseformer_mm.models.layouts import from_mm, to_mm
from sparseformer_mm.models.rois import init_rois, rois_to_corners
from sparseformer_mm.models.sampling import clamp_to_pixels, sample_grid
from sparseformer_mm.registry import MODELS


# ---------------------------------------------------------------- the authors' numbers
def test_float64_is_the_authors_code(bootstrapped_v2):
    state = bootstrapped_v2.part()
    model = golden_model(state, 'bootstrapped-base', **BOOTSTRAPPED_SIZES)
    images = bootstrapped_v2['input'].double()
    seen = model.forward_intermediates(images)
    logits = classify(seen.pooled, to_mm(state, 'bootstrapped'))
    assert_exact(logits, bootstrapped_v2['logits'])
    tokens = torch.cat([seen.pooled[:, None], seen.tokens], 1)
    assert_exact(tokens, bootstrapped_v2['tokens_normed'])
    assert_exact(rois_to_corners(seen.rois), bootstrapped_v2['final_roi_xyxy'])
    assert torch.equal(seen.pooled, model(images)[0])


def test_float32_is_close_on_both_paths(bootstrapped_v2, monkeypatch):
    state = bootstrapped_v2.part()
    for fast in (True, False):
        monkeypatch.setattr(ops, 'FAST_OPS', fast)
        model = golden_model(
            state, 'bootstrapped-base', torch.float32, **BOOTSTRAPPED_SIZES
        )
        (pooled,) = model(bootstrapped_v2['input'])
        logits = classify(pooled, to_mm(state, 'bootstrapped'))
        assert_near([logits], [bootstrapped_v2['logits']], 1e-5)


# --------------------------------------------------------------------------- the parts
@pytest.mark.usefixtures('float64')
def test_waves_of_the_corners():
    encoding = CornerEncoding(16, max_frequency=128)  # frequencies of each corner: 4
    (waves,) = encoding._waves(torch.tensor([[0.25, 0.5]]))
    rates = [128 ** (i / 3) for i in range(4)]
    expected = [
        wave(math.pi * x * rates[i])
        for x in (0.25, 0.5)
        for wave, i in (
            (math.sin, 0),
            (math.sin, 2),
            (math.cos, 1),
            (math.cos, 3),
        )
    ]
    assert_exact(waves, torch.tensor(expected))


def test_positions_give_rois_no_gradient():
    rois = init_rois(4)[None].requires_grad_()
    encoding = CornerEncoding(16)
    out = encoding(rois)
    assert out.shape == (1, 4, 16)
    assert (out[0, 0] - out[0, 1]).abs().max() > 1e-3  # they do tell RoIs apart
    out.sum().backward()
    assert rois.grad is None and encoding.proj.weight.grad.abs().max() > 0


@pytest.mark.usefixtures('float64')
def test_clamped_points_read_the_border():
    feature, points = torch.randn(2, 5, 7, 3), torch.rand(2, 1, 40, 2) * 2 - 0.5
    ours = sample_grid(feature, clamp_to_pixels(points, feature).flatten(1, 2))
    theirs = F.grid_sample(
        feature.permute(0, 3, 1, 2),
        points * 2 - 1,
        padding_mode='border',
        align_corners=False,
    )
    assert_exact(ours, theirs[:, :, 0].transpose(1, 2), 1e-12)


def test_quick_gelu_is_that_of_cortex_blocks():
    x = torch.linspace(-3, 3, 7)
    assert_exact(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)), 1e-6)
    clip = SparseFormer(**dict(BOOTSTRAPPED, arch='bootstrapped-clip-base'))
    kinds = [clip.focusing.ffn, *(block.ffn for block in clip.cortex[1:])]
    assert [ffn.activation for ffn in kinds] == ['gelu', 'quick_gelu', 'quick_gelu']


def test_square_rois():
    rois = init_rois(48, 'square')
    assert torch.equal(rois[:36], init_rois(36, 'half'))
    assert torch.equal(rois[36:], init_rois(12, 'whole'))
    assert torch.equal(init_rois(49, 'square'), init_rois(49, 'half'))


# --------------------------------------------------------------------------- the model
def test_sizes_of_the_published_models():
    """The ViT's blocks that are inherited, and heads 64 wide."""
    for name, width, blocks, tokens, activation in (
        ('bootstrapped-base', 768, 8, 48, 'gelu'),
        ('bootstrapped-large', 1024, 16, 48, 'gelu'),
        ('bootstrapped-clip-base', 768, 8, 48, 'quick_gelu'),
        ('bootstrapped-clip-large', 1024, 16, 63, 'quick_gelu'),
    ):
        with torch.device('meta'):
            model = SparseFormer(name)
        assert len(model.latent.token_rois) == tokens
        assert model.cortex[0].attn is None and len(model.cortex) == 1 + blocks
        for block in model.cortex[1:]:
            assert block.attn.num_heads == width // 64
            assert block.ffn.activation == activation
            assert block.attn_norm.eps == block.ffn_norm.eps == 1e-5
        assert model.focusing.attn.num_heads == ARCHS[name]['focusing_dims'] // 64
        assert model.focusing.decoder.out_points == 32


def test_every_parameter_learns():
    model = small_bootstrapped(drop_path_rate=0.1).train()
    seen = model.forward_intermediates(torch.randn(4, 3, 40, 56))
    seen.pooled.pow(2).sum().backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
        assert param.grad.abs().max() > 0, name


def test_the_class_token_stands_apart():
    model = small_bootstrapped(out_type='tokens', out_indices=(0, 1, -1)).eval()
    images = torch.randn(2, 3, 40, 56)
    seen = model(images)
    names = [stage.name for stage in seen.stages]
    assert names == ['focusing.0', 'focusing.1', 'cortex.0']
    for tokens in (seen.tokens, *seen.block_tokens):
        assert tokens.shape == (2, 5, 24)
    assert seen.rois.shape == (2, 5, 4)
    torch.testing.assert_close(seen.block_tokens[-1], seen.tokens)
    with torch.no_grad():
        model.class_token.weight.mul_(-1)
    other = model(images)
    assert (other.pooled - seen.pooled).abs().max() > 1e-2
    # It joins behind the first block, and has no RoI to move.
    torch.testing.assert_close(other.block_tokens[0], seen.block_tokens[0])
    torch.testing.assert_close(other.rois, seen.rois)
    model.out_type = 'featmap'
    torch.testing.assert_close(model(images)[0].flatten(1), other.pooled)


def test_maps_from_its_tokens():
    """The class token has no place in them."""
    model = small_bootstrapped(out_type='maps', map_strides=(4, 16), map_channels=6)
    images = torch.randn(2, 3, 40, 56)
    maps = model.eval()(images)
    assert [tuple(m.shape) for m in maps] == [(2, 6, 10, 14), (2, 6, 3, 4)]
    with torch.no_grad():
        model.cortex[-1].ffn.fc2.bias.add_(torch.arange(24.0))
    assert (model(images)[0] - maps[0]).abs().max() > 1e-3
    seen = model.forward_intermediates(images)
    torch.testing.assert_close(model.map_decoder(seen), model(images))


def test_rois_of_a_stage_are_those_it_looked_in():
    """They are adjusted after the look, for the next one."""
    stages = (
        small_bootstrapped()
        .eval()
        .forward_intermediates(torch.randn(1, 3, 40, 40))
        .stages
    )
    torch.testing.assert_close(stages[0].rois[0], init_rois(5, 'square'))
    for stage in stages:
        center, size = stage.rois.chunk(2, -1)
        mean = stage.points.mean(2)
        torch.testing.assert_close(mean, center)
        spread = (stage.points - mean[:, :, None]).std(2)
        torch.testing.assert_close(spread, size / 3, rtol=1e-3, atol=1e-5)
    assert (stages[1].rois - stages[0].rois).abs().max() > 1e-3


EARLY = ('stem', 'latent', 'focusing', 'stage_embeddings', 'transition')


@pytest.mark.parametrize(
    'stages, frozen',
    [
        (1, EARLY),
        (2, (*EARLY, 'cortex.0', 'class_token')),
    ],
)
def test_frozen_stages(stages, frozen):
    model = small_bootstrapped(frozen_stages=stages).train()
    for name, param in model.named_parameters():
        assert param.requires_grad is not name.startswith(frozen), name
    model(torch.randn(1, 3, 32, 32))[0].sum().backward()


def test_layer_depths_rise():
    names = [
        'stage_embeddings.weight',
        'class_token.weight',
        'cortex.0.position.proj.weight',
        'cortex.1.ffn.fc1.weight',
        'norm.weight',
    ]
    model = small_bootstrapped()
    assert set(names) <= dict(model.named_parameters()).keys()
    depths = [model.get_layer_depth(name) for name in names]
    assert depths == [(1, 6), (2, 6), (2, 6), (3, 6), (5, 6)]


def test_parts_combine_with_the_first_papers():
    """What is new, one by one, in a model of the first paper."""
    second = ARCHS['bootstrapped-base']
    for name, value in (
        ('shared_embedding', True),
        ('stage_embeddings', True),
        ('class_token', True),
        ('transition_norm', False),
        ('head_dims', 4),
        ('cortex_activation', 'quick_gelu'),
        ('norm_eps', 1e-3),
        *((name, second[name]) for name in ('stem', 'sampling', 'decoding')),
        ('roi_adjust', second['roi_adjust']),
        ('focusing_steps', second['focusing_steps']),
        ('cortex_steps', second['cortex_steps']),
        ('cortex_looks', 2),
    ):
        images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
        plain, changed = small_model(), small_model(**{name: value})
        (expected,), (actual,) = plain(images), changed(images)
        assert (actual - expected).abs().max() > 1e-5, name
        actual.pow(2).sum().backward()
        for param in changed.parameters():
            assert param.grad is not None and param.grad.isfinite().all()


@MODELS.register_module()
class OwnAdjust(torch.nn.Module):
    def __init__(self, dims, spatial_dims):
        super().__init__()
        self.scale = torch.nn.Linear(dims, 1)

    def forward(self, tokens, rois, drop_path_rate=0.0):
        center, size = rois.chunk(2, -1)
        size = size * self.scale(tokens).sigmoid()
        return torch.cat([center.expand_as(size), size], -1)


@MODELS.register_module()
class OwnPosition(torch.nn.Module):
    def __init__(self, dims, spatial_dims):
        super().__init__()
        self.proj = torch.nn.Linear(2 * spatial_dims, dims)

    def forward(self, rois):
        return self.proj(rois)


def test_parts_of_the_users_plug_in():
    model = small_bootstrapped(
        roi_adjust=dict(type='OwnAdjust'), position=dict(type='OwnPosition')
    )
    seen = model.forward_intermediates(torch.randn(2, 3, 32, 40))
    first, last = seen.stages[0].rois, seen.rois
    torch.testing.assert_close(last[..., :2], first[..., :2])
    assert (last[..., 2:] < first[..., 2:]).all()
    seen.pooled.pow(2).sum().backward()
    assert all(param.grad.abs().max() > 0 for param in model.parameters())


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (
            dict(class_token=True, cortex_depth=1),
            'cortex_depth=1 leaves no block',
        ),
        (dict(head_dims=5), 'head_dims=5 does not divide focusing_dims=256'),
        (dict(head_dims=64, num_heads=4), 'two ways to say one thing'),
        (dict(focusing_steps=['ffn']), "focusing_steps=.*'look' among them"),
        (dict(cortex_steps=['look', 'jump']), 'cortex_steps=.*attention.*position'),
        (dict(cortex_looks=9), 'cortex_looks=9 exceeds 8'),
        (dict(cortex_activation='relu'), "cortex_activation='relu' .*quick_gelu"),
        (
            dict(sampling=dict(type='SparseSampling', padding='edge')),
            "padding='edge' is unknown.*border",
        ),
        (
            dict(decoding=dict(type='AdaptiveMixing', min_out_points=0)),
            'min_out_points=0 must be an integer',
        ),
    ],
)
def test_wrong_arguments_name_the_cure(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SparseFormer(**kwargs)


def test_heads_given_otherwise_replace_those_of_the_arch():
    model = SparseFormer(**dict(BOOTSTRAPPED, head_dims=None, num_heads=2))
    assert model.focusing.attn.num_heads == model.cortex[1].attn.num_heads == 2
    assert SparseFormer(**BOOTSTRAPPED).cortex[1].attn.num_heads == 3


# --------------------------------------------------------------------------- its start
def test_all_weights_start_as_documented():
    model = SparseFormer(**dict(BOOTSTRAPPED, focusing_dims=32, cortex_dims=48))
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(7)
    for module in [model, *model.modules()]:
        if hasattr(module, '_reset') or module is model:
            module.init_weights()
    torch.testing.assert_close(model.latent.token_rois.data, init_rois(5, 'square'))
    embedding = model.latent.token_embeddings
    assert embedding.shape == (1, 32) and 0.6 < embedding.std() < 1.3
    for vectors in (model.stage_embeddings.weight, model.class_token.weight):
        assert 0.013 < vectors.std() < 0.027
    adjust = model.focusing.roi_adjust
    assert (adjust.proj.weight == 0).all() and (adjust.norm.weight == 1).all()
    for block in (model.focusing, model.cortex[0]):
        assert block.decoder.channel_bias is block.decoder.point_bias is None
        assert block.decoder.squeeze.out_features == 128
        assert (block.decoder.generate.weight == 0).all()
        channel, point = block.decoder.generate.bias.split([8 * 8, 32 * 7])
        assert 0.9 < channel.abs().max() / (6 / (8 + 8)) ** 0.5 <= 1
        assert 0.9 < point.abs().max() / (6 / (32 + 7)) ** 0.5 <= 1
    fresh = SparseFormer(**BOOTSTRAPPED)
    for layer in (fresh.focusing.position.proj, fresh.focusing.roi_adjust.hidden):
        assert 0.015 < layer.weight.std() < 0.025 and (layer.bias == 0).all()


# -------------------------------------------------------------------------------- files
def test_layout_round_trip(bootstrapped_v2):
    state = bootstrapped_v2.part()
    assert find_weights(state)[1:4] == ('', 'bootstrapped', '')
    ours = to_mm(state, 'bootstrapped')
    assert find_weights(ours)[1:4] == ('', 'mm', '') and len(ours) == len(state)
    back = from_mm(ours, 'bootstrapped')
    assert back.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(back[key], value, atol=1e-6, rtol=0)
    for other in ('v1', 'v2'):
        with pytest.raises(
            KeyError, match=f"{other} layout .*class_tok.* is 'bootstrapped'"
        ):
            from_mm(ours, other)
    with pytest.raises(KeyError, match="authors' bootstrapped layout .*channel_bias"):
        from_mm(small_model().state_dict(), 'bootstrapped')


@pytest.mark.parametrize('layout', ['mm', 'authors'])
def test_the_other_papers_file_is_named(layout):
    first, second = small_model(), small_bootstrapped()
    files = first.state_dict(), second.state_dict()
    if layout == 'authors':
        files = from_mm(files[0], 'v1'), from_mm(files[1], 'bootstrapped')
    a_first, a_second = 'a SparseFormer of the first paper', 'a bootstrapped SparseForm'
    with pytest.raises(
        RuntimeError, match=f'checkpoint holds {a_first}.*, this model is {a_second}'
    ):
        second.load_state_dict(files[0])
    with pytest.raises(
        RuntimeError, match=f'checkpoint holds {a_second}.*, this model is {a_first}'
    ):
        first.load_state_dict(files[1])


def test_other_numbers_of_tokens_and_points(log):
    source = small_bootstrapped()
    model = SparseFormer(**dict(BOOTSTRAPPED, num_tokens=9))
    model.load_state_dict(source.state_dict())
    assert 're-initialised: latent.token_rois' in log[-1][1]
    # All tokens share one embedding, so that it stays.
    embeddings = model.latent.token_embeddings
    assert torch.equal(embeddings, source.latent.token_embeddings)
    torch.testing.assert_close(model.latent.token_rois.data, init_rois(9, 'square'))
    model = SparseFormer(**dict(BOOTSTRAPPED, num_points=4))
    model.load_state_dict(source.state_dict())
    names = log[-1][1].split('re-initialised: ')[1].split(', ')
    assert {name.split('.', 1)[1].split('0.')[-1] for name in names} == {
        'sampler.bias',
        'sampler.proj.weight',
        'decoder.generate.weight',
        'decoder.generate.bias',
    }
    for block, other in (
        (model.focusing, source.focusing),
        (model.cortex[0], source.cortex[0]),
    ):
        mixing, theirs = block.decoder.generate.weight, other.decoder.generate.weight
        assert torch.equal(mixing[:64], theirs[:64])  # of the channels


# ------------------------------------------------------------------------------- videos
@pytest.mark.usefixtures('float64')
def test_an_image_model_inflates():
    """A still clip gets the image's answer, and time is learned."""
    image = small_bootstrapped().eval()
    video = SparseFormer(**BOOTSTRAPPED, spatial_dims=3, token_inflation=1).eval()
    video.load_state_dict(image.state_dict())
    picture = torch.randn(2, 3, 32, 40)
    still = picture[:, :, None].expand(-1, -1, 4, -1, -1)
    assert_exact(video(still)[0], image(picture)[0], 1e-10)
    tubes = SparseFormer(**BOOTSTRAPPED, spatial_dims=3, token_inflation=2)
    tubes.load_state_dict(image.state_dict())
    assert tubes.latent.token_embeddings.shape == (1, 16)
    tubes(torch.randn(2, 3, 4, 32, 40))[0].pow(2).sum().backward()
    for block in (tubes.focusing, tubes.cortex[0]):
        assert (block.position.time_proj.weight == 0).all()
        assert block.position.time_proj.weight.grad.abs().max() > 0
