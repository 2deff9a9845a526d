"""The backbone: the authors' numbers, the paper's table, options, robustness."""

import copy
import pickle
import warnings

import pytest
import torch

from helpers.golden import IMAGE_ARCH, VIDEO_ARCH, classify, golden_model
from helpers.numerics import assert_exact, assert_near
from helpers.small_model import small_model
from sparseformer_mm import SparseFormer, SparseFormerOutput
from sparseformer_mm.models import ops
from sparseformer_mm.models.layouts import _rename, to_mm
from sparseformer_mm.models.rois import rois_to_corners
from sparseformer_mm.registry import MODELS


def image_model(image_v1, dtype):
    state = image_v1.part()
    return golden_model(state, IMAGE_ARCH, dtype), to_mm(state, 'v1')


def test_float64_is_the_authors_code(image_v1):
    model, state = image_model(image_v1, torch.float64)
    images = image_v1['input'].double()
    seen = model.forward_intermediates(images)
    assert torch.equal(seen.pooled, model(images)[0])
    assert_exact(classify(seen.pooled, state), image_v1['logits'])
    names = [stage.name for stage in seen.stages]
    assert names == ['focusing.0', 'focusing.1', 'cortex.0']
    for i, stage in enumerate(seen.stages):
        assert_exact(rois_to_corners(stage.rois), image_v1[f'roi_xyxy_{i}'])
        assert_exact(stage.points, image_v1[f'sampling_points_{i}'])
    assert_exact(seen.tokens, image_v1['tokens_normed'])
    assert_exact(rois_to_corners(seen.rois), image_v1['final_roi_xyxy'])
    assert_exact(seen.image_feature, image_v1['image_feature'])


@pytest.mark.parametrize('fast', [True, False])
def test_gradients_are_the_authors(image_v1, fast, monkeypatch):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    model, state = image_model(image_v1, torch.float64)
    images = image_v1['input'].double().requires_grad_()
    (classify(model(images)[0], state) * image_v1['cotangent']).sum().backward()
    grads = {name: param.grad for name, param in model.named_parameters()}
    assert_exact(images.grad, image_v1['grad_input'], 1e-8)
    stored = image_v1.part('grad/')
    assert len(stored) > 20
    for name, grad in stored.items():
        ours = grads[_rename(name, 'v1', 'mm')]
        if name == 'token_roi.weight':  # theirs is with respect to corners
            lower, upper = grad.chunk(2, -1)
            grad = torch.cat([lower + upper, (upper - lower) / 2], -1)
        assert_exact(ours, grad, 1e-8)


def test_float32_is_close_on_both_paths(image_v1, monkeypatch):
    for fast in (True, False):
        monkeypatch.setattr(ops, 'FAST_OPS', fast)
        model, state = image_model(image_v1, torch.float32)
        logits = classify(model(image_v1['input'])[0], state)
        assert_exact(logits, image_v1['logits'].float(), 1e-4)


@pytest.mark.parametrize(
    'prefix, answer', [('state/', 'logits'), ('image_state/', 'inflated_logits')]
)
def test_video_is_the_authors_code(video_v2, prefix, answer):
    state = video_v2.part(prefix)
    tubes = dict(spatial_dims=3, token_inflation=2, time_offsets='middle')
    model = golden_model(state, VIDEO_ARCH, **tubes)
    seen = model.forward_intermediates(video_v2['input'].double())
    assert_exact(classify(seen.pooled, to_mm(state, 'v2')), video_v2[answer])
    if prefix == 'state/':
        assert_exact(seen.tokens, video_v2['tokens_normed'])
        assert_exact(rois_to_corners(seen.rois), video_v2['final_roi_xyzxyz'])


def test_fast_and_reference_paths_agree(monkeypatch):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 40, 56)
    results = []
    for fast in (True, False):
        monkeypatch.setattr(ops, 'FAST_OPS', fast)
        model = small_model()
        seen = model.forward_intermediates(images)
        seen.pooled.sum().backward()
        results.append(
            [seen.pooled]
            + [stage.points for stage in seen.stages]
            + [param.grad for param in model.parameters()]
        )
    # Some ten sums of up to 1000 numbers, one after the other, and back.
    assert_near(*results, 1e-4)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('dims', [2, 3])
def test_featmap_is_the_pooled_output_as_one_pixel(dims):
    model = small_model(spatial_dims=dims)
    inputs = torch.randn(2, 3, *(4, 32, 32)[-dims:])
    (pooled,) = model(inputs)
    model.out_type = 'featmap'
    featmap = model(inputs)
    if dims == 2:  # a bare tensor for videos, as mmaction2's heads want it
        (featmap,) = featmap
    assert featmap.shape == (2, 24, *(1,) * dims)
    torch.testing.assert_close(featmap.flatten(1), pooled)


@pytest.mark.usefixtures('float64')
def test_images_do_not_see_each_other():
    model = small_model().eval()
    images = torch.randn(3, 3, 40, 56)
    (together,) = model(images)
    for i in range(3):
        torch.testing.assert_close(model(images[i : i + 1])[0], together[i : i + 1])


@pytest.mark.usefixtures('float64')
def test_token_order_does_not_matter():
    model = small_model().eval()
    images = torch.randn(1, 3, 40, 40)
    (before,) = model(images)
    order = torch.randperm(5)
    for param in (model.latent.token_rois, model.latent.token_embeddings):
        param.data = param.data[order]
    torch.testing.assert_close(model(images)[0], before)


@pytest.mark.parametrize('size', [(32, 32), (33, 64), (224, 32), (37, 501), (8, 8)])
@pytest.mark.parametrize('batch', [0, 1, 2])
def test_any_size_and_batch(size, batch):
    model = small_model(out_type='tokens')
    out = model(torch.randn(batch, 3, *size))
    assert isinstance(out, SparseFormerOutput)
    assert out.tokens.shape == (batch, 5, 24) and out.rois.shape == (batch, 5, 4)
    assert out.image_feature.shape == (batch, 8, -(-size[0] // 4), -(-size[1] // 4))
    out.tokens.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(stem='patch_embed'),
        dict(stem='pixel'),
        dict(decoding='static'),
        dict(decoding='linear'),
        dict(roi_init='cell'),
        dict(roi_init='whole'),
        dict(roi_init='random'),
        dict(focusing_repeats=0, fixed_rois=True),
        dict(fixed_rois=True),
        dict(num_tokens=1, num_points=1),
        dict(num_tokens=10, num_points=10, drop_path_rate=0.3),
        dict(with_cp=True),
    ],
)
def test_every_option_trains_every_parameter(kwargs):
    model = small_model(**kwargs).train()
    seen = model.forward_intermediates(torch.randn(4, 3, 40, 56))
    (seen.pooled.pow(2).sum() + seen.tokens.pow(2).sum()).backward()
    names = [f'focusing.{i}' for i in range(model.focusing_repeats)]
    assert [stage.name for stage in seen.stages] == [*names, 'cortex.0']
    tokens, points = model.arch['num_tokens'], model.arch['num_points']
    for stage in seen.stages:
        assert stage.rois.shape == (4, tokens, 4)
        assert stage.points.shape == (4, tokens, points, 2)
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert param.grad is not None and param.grad.isfinite().all(), name
            # With one point at the center, offsets have no say.
            if points > 1 or 'sampler' not in name:
                assert param.grad.abs().max() > 0, name


@pytest.mark.usefixtures('float64')
def test_fixed_rois_stay():
    model = small_model(fixed_rois=True, noise=0)
    stages = model.forward_intermediates(torch.randn(2, 3, 40, 40)).stages
    for stage in stages:
        torch.testing.assert_close(stage.rois, stages[0].rois)
        torch.testing.assert_close(stage.points, stages[0].points)
    assert not model.latent.token_rois.requires_grad
    assert not any('roi_adjust' in name for name, _ in model.named_parameters())


@pytest.mark.usefixtures('float64')
def test_checkpointing_changes_nothing():
    images = torch.randn(2, 3, 40, 40)
    results = []
    for with_cp in (False, True):
        model = small_model(with_cp=with_cp, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        (out,) = model(images)
        out.sum().backward()
        results.append([out] + [p.grad for p in model.parameters()])
    for plain, recomputed in zip(*results):
        torch.testing.assert_close(plain, recomputed)


def test_drop_path_rises_linearly_over_the_runs():
    rates = small_model(drop_path_rate=0.3).drop_path_rates
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 4))
    model = small_model(drop_path_rate=0.5)
    images = torch.randn(2, 3, 40, 40)
    assert not torch.equal(model(images)[0], model(images)[0])
    model.eval()
    torch.testing.assert_close(model(images)[0], model(images)[0], atol=0, rtol=0)


@pytest.mark.parametrize(
    'stages, frozen',
    [
        (-1, ()),
        (0, ('stem',)),
        (1, ('stem', 'latent', 'focusing', 'transition')),
        (2, ('stem', 'latent', 'focusing', 'transition', 'cortex.0')),
    ],
)
def test_frozen_stages(stages, frozen):
    model = small_model(frozen_stages=stages).train()
    for name, param in model.named_parameters():
        assert param.requires_grad is not name.startswith(frozen or 'nothing')
    model(torch.randn(2, 3, 40, 40))[0].sum().backward()
    for name, module in model.named_children():
        assert module.training is (name not in frozen)


@MODELS.register_module()
class OwnStem(torch.nn.Module):
    """A stem of a user, with torch's layers and no care for precision."""

    def __init__(self, in_channels, out_channels, norm=torch.nn.Identity):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 4, stride=4)
        self.norm = norm(out_channels)

    def forward(self, x):
        return self.norm(self.conv(x)).permute(0, 2, 3, 1).contiguous()


@MODELS.register_module()
class OwnDecoding(torch.nn.Module):
    def __init__(self, dims, feat_channels, num_points):
        super().__init__()
        self.proj = torch.nn.Linear(feat_channels, dims)

    def forward(self, tokens, sampled):
        return self.proj(sampled.mean(2))


@pytest.mark.parametrize('norm_eval', [True, False])
def test_norm_eval_serves_custom_stems_with_batch_norm(norm_eval):
    stem = dict(type='OwnStem', norm=torch.nn.BatchNorm2d)
    model = small_model(stem=stem, norm_eval=norm_eval).train()
    assert model.stem.norm.training is not norm_eval
    model(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert model.stem.conv.weight.grad.abs().max() > 0


def test_a_decoding_of_the_users_plugs_in():
    model = small_model(decoding=dict(type='OwnDecoding'))
    assert model(torch.randn(2, 3, 32, 32))[0].shape == (2, 24)


@pytest.mark.parametrize(
    'kwargs',
    [dict(), dict(decoding='linear'), dict(decoding='static'), dict(stem='pixel')],
)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_wild_rois_in_the_whole_model(dtype, kwargs):
    """RoIs that explode, shrink or leave the image: finite, forward and backward."""
    if dtype is torch.float16:
        try:
            torch.nn.functional.conv2d(
                torch.ones(1, 1, 1, 1).half(), torch.ones(1, 1, 1, 1).half()
            )
        except RuntimeError as error:
            pytest.skip(f'this torch has no float16 convolution on CPU: {error}')
    for push in (40.0, -40.0):
        model = small_model(**kwargs)
        with torch.no_grad():
            for block in (model.focusing, model.cortex[0]):
                block.roi_adjust.norm.bias.fill_(1.0)
                block.roi_adjust.proj.weight.fill_(push)
        model.to(dtype)
        seen = model.forward_intermediates(torch.randn(2, 3, 40, 40, dtype=dtype))
        assert seen.pooled.isfinite().all() and seen.pooled.dtype == dtype
        assert seen.rois.isfinite().all() and seen.rois.dtype == torch.float32
        assert seen.rois[..., :2].abs().max() > 2  # it did leave
        seen.pooled.float().sum().backward()
        for name, param in model.named_parameters():
            assert param.grad.isfinite().all(), name


def test_autocast_is_close_and_keeps_geometry_in_float32():
    model = small_model()
    images = torch.randn(2, 3, 40, 56)
    (reference,) = model(images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        seen = model.forward_intermediates(images)
    out = seen.pooled
    out.float().sum().backward()
    assert all(s.rois.dtype == s.points.dtype == torch.float32 for s in seen.stages)
    # A tenth for some ten layers, each of which rounds to one in 256.
    assert_near([out], [reference], 0.1)
    assert not torch.equal(out.float(), reference)  # it did run in low precision
    for name, param in model.named_parameters():
        assert param.grad.isfinite().all() and param.grad.abs().max() > 0, name


def run_in_float16(model):
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', '.*autocast.*Disabling')
            context = torch.autocast('cpu', dtype=torch.float16)
        with context:
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.float16
    except (AssertionError, RuntimeError):
        pytest.skip('this torch has no float16 autocast on CPU')
    with context:
        (out,) = model(torch.randn(2, 3, 40, 40))
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_float16_without_a_loss_scale_warns_once():
    model = small_model().train()
    with pytest.warns(UserWarning, match='LossScaleHook.*custom_hooks') as caught:
        run_in_float16(model)
        run_in_float16(model)
    assert len([w for w in caught if 'LossScaleHook' in str(w.message)]) == 1


@pytest.mark.parametrize('how', ['told', 'evaluating'])
def test_float16_does_not_warn_where_all_is_well(how):
    model = small_model().train(how == 'told')
    if how == 'told':
        model.set_loss_scale(8.0)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', '.*LossScaleHook')
        run_in_float16(model)


def test_a_stem_in_low_precision_does_not_degrade_coordinates():
    model = small_model(stem=dict(type='OwnStem'))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        seen = model.forward_intermediates(torch.randn(2, 3, 40, 40))
    assert seen.image_feature.dtype == seen.rois.dtype == torch.float32


@pytest.mark.usefixtures('float64')
def test_deepcopy_and_pickle():
    model = small_model().eval()
    images = torch.randn(1, 3, 40, 40)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(images)[0], model(images)[0])
        twin.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
        assert not torch.equal(twin(images)[0], model(images)[0])


@pytest.mark.parametrize(
    'name, depth',
    [
        ('stem.conv.weight', 0),
        ('latent.token_rois', 0),
        ('focusing.attn.qkv.weight', 1),
        ('transition.0.weight', 1),
        ('cortex.0.ffn.fc1.weight', 2),
        ('cortex.1.ffn.fc1.weight', 3),
        ('norm.weight', 4),
    ],
)
def test_layer_depths_rise(name, depth):
    model = small_model()
    assert name in dict(model.named_parameters())
    assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == (depth, 5)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='huge'), r"arch='huge' is unknown.*tiny.*small.*base.*nano"),
        (dict(arch=dict(depth=3)), r"unknown keys \['depth'\].*cortex_depth"),
        (dict(num_tokens=0), 'num_tokens=0 must be an integer of at least 1'),
        (dict(num_tokens=2.5), 'num_tokens=2.5 must be an integer'),
        (dict(feat_channels=1), 'feat_channels=1 must be an integer of at least 2'),
        (dict(num_points=-1), 'num_points=-1 must be an integer of at least 1'),
        (dict(focusing_repeats=-1), 'focusing_repeats=-1 .* at least 0'),
        (dict(num_heads=5), 'num_heads=5 does not divide focusing_dims=256'),
        (dict(cortex_dims=500), 'num_heads=64 does not divide cortex_dims=500'),
        (dict(stem='vit'), "stem='vit' is unknown.*early_conv"),
        (dict(decoding='mlp'), "decoding='mlp' is unknown.*adaptive"),
        (dict(roi_init='corner'), "roi_init='corner' is unknown.*half"),
        (dict(out_type='cls_token'), "out_type='cls_token' is unknown.*pooled"),
        (dict(spatial_dims=4), 'spatial_dims=4 is unknown'),
        (dict(token_inflation=2), 'token_inflation=2 .* needs spatial_dims=3'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0 must be in \[0, 1\)'),
        (dict(frozen_stages=10), 'frozen_stages=10 must be between -1 and 9'),
        (dict(ffn_ratio=0), 'ffn_ratio=0 must be positive'),
        (
            dict(stem=dict(type='EarlyConv', out_channels=4)),
            'EarlyConv gets out_channels from the backbone',
        ),
        (
            dict(stem=dict(type='EarlyConv', frames_per_chunk=0)),
            'frames_per_chunk=0 must be an integer of at',
        ),
        (dict(time_offsets='late'), "time_offsets='late' is unknown.*spread.*middle"),
        (
            dict(decoding=dict(type='AdaptiveMixing', num_points=4)),
            'AdaptiveMixing gets num_points from',
        ),
    ],
)
def test_wrong_arguments_name_the_cure(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SparseFormer(**kwargs)


def test_unknown_keyword_is_a_type_error():
    with pytest.raises(TypeError, match='num_token'):
        SparseFormer(num_token=3)
    with pytest.raises(TypeError, match='name or a dict, not int'):
        SparseFormer(3)


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 4, 32, 32), (1, 3, 2, 32, 32)])
def test_wrong_input_is_a_clear_error(shape):
    with pytest.raises(ValueError, match=r'expects input \(B, C, H, W\) with C=3, got'):
        small_model()(torch.zeros(shape))
