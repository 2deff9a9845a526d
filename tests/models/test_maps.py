"""Maps from tokens: the formula, sizes, padding, training, checkpoints, arguments."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch.utils.flop_counter import FlopCounterMode

from helpers.numerics import assert_near
from helpers.small_model import small_model
from sparseformer_mm import SparseFormer
from sparseformer_mm.models import ops
from sparseformer_mm.registry import MODELS

STRIDES, CHANNELS = (4, 8, 16), (8, 12, 4)
BLOCKS = dict(type='LocationAwareMaps', num_blocks=(1, 2, 1))


def make_model(**kwargs):
    kwargs = dict(dict(map_strides=STRIDES, map_channels=CHANNELS), **kwargs)
    return small_model(out_type='maps', **kwargs)


def with_blocks():
    """Residual blocks whose batch norms know some statistics, in evaluation mode."""
    model = make_model(map_decoder=BLOCKS)
    for name, value in model.named_buffers():
        if name.endswith(('running_mean', 'running_var')):
            value.copy_(torch.rand_like(value) + 0.5)
    return model.eval()


def make_image(height=30, width=41, seed=1, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator)


def restore(model, outputs):
    """The maps of one image, pixel by pixel."""
    stem, tokens, rois = outputs.image_feature[0], outputs.tokens[0], outputs.rois[0]
    rows, columns = stem.shape[1:]
    maps, fine, stride = [], stem, 4
    for out_stride, level in zip(STRIDES, model.map_decoder.levels):
        size, ratio = out_stride // 4, out_stride // stride
        attention = level.attention
        key, value = attention.key(tokens), attention.value(tokens)
        # Zeros around the finer map; reading starts at its first pixel.
        reach = max(3, 2 * ratio - 1) // 2
        around = F.pad(fine, (reach,) * 4)
        height, width = -(-rows // size), -(-columns // size)
        out = torch.zeros(level.norm.normalized_shape[0], height, width)
        for i in range(height):
            for j in range(width):
                pixels = stem[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
                query = attention.query(pixels.mean((1, 2)))
                scores = key @ query * attention.scale
                # Centers in units of the image, which ends with the stem's map.
                x, y = (j + 0.5) * size / columns, (i + 0.5) * size / rows
                scores = scores - ((x - rois[:, 0]) / rois[:, 2]) ** 2
                scores = scores - ((y - rois[:, 1]) / rois[:, 3]) ** 2
                far = scores.softmax(0) @ value
                window = around[
                    :,
                    i * ratio : i * ratio + 2 * reach + 1,
                    j * ratio : j * ratio + 2 * reach + 1,
                ]
                near = (window * level.local.weight[:, 0]).sum((1, 2))
                near = F.gelu(near + level.local.bias)
                out[:, i, j] = level.norm(far + level.mix(near))
        maps.append(out)
        fine, stride = out, out_stride
    return maps


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('fast', [True, False])
def test_the_formula_and_its_gradients(fast, monkeypatch):
    monkeypatch.setattr(ops, 'FAST_OPS', fast)
    model, image = make_model(), make_image()
    expected = restore(model, model.forward_intermediates(image))
    actual = model(image)
    assert isinstance(actual, tuple)
    for x, y in zip(actual, expected):
        torch.testing.assert_close(x[0], y)
    grads = []
    for maps in (actual, expected):
        model.zero_grad()
        loss = sum((m * (m + i)).sum() for i, m in enumerate(maps))
        loss.backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)
        assert grad.abs().max() > 0, name


@pytest.mark.usefixtures('float64')
def test_residual_blocks():
    """Each adds conv, norm, ReLU, conv, norm to its map, and the next map sees it."""
    model, plain, image = with_blocks(), make_model(), make_image()
    state = {k: v for k, v in model.state_dict().items() if '.blocks.' not in k}
    plain.load_state_dict(state)
    outputs = model.forward_intermediates(image)
    fine, maps = outputs.image_feature, model(image)
    plain_maps = plain.map_decoder(outputs)
    for level, (bare, actual) in enumerate(zip(plain_maps, maps)):
        expected = bare if level == 0 else None
        if level:
            decoder = model.map_decoder
            size = decoder.scales[level]
            own = decoder.levels[level]
            query = F.avg_pool2d(outputs.image_feature, size, ceil_mode=True)
            extent = torch.tensor([[11.0, 8.0]]) / size  # of the stem's map
            far = own.attention(
                query.permute(0, 2, 3, 1), outputs.tokens, outputs.rois, extent
            )
            near = F.gelu(own.local(fine)).permute(0, 2, 3, 1)
            expected = own.norm(far + own.mix(near)).permute(0, 3, 1, 2)
        for block in model.map_decoder.levels[level].blocks:
            hidden = block.norm1(F.conv2d(expected, block.conv1.weight, padding=1))
            hidden = F.conv2d(hidden.clamp(min=0), block.conv2.weight, padding=1)
            expected = expected + block.norm2(hidden)
        torch.testing.assert_close(actual, expected)
        assert (actual - bare).abs().max() > 0.1
        fine = actual


def test_residual_blocks_start_as_nothing():
    torch.manual_seed(0)
    kwargs = dict(arch='nano', out_type='maps', map_channels=8)
    decoder = dict(BLOCKS, num_blocks=1)
    model = SparseFormer(map_decoder=decoder, **kwargs)
    model.init_weights()
    plain = SparseFormer(**kwargs)
    state = {k: v for k, v in model.state_dict().items() if '.blocks.' not in k}
    assert len(state) < len(model.state_dict())
    plain.load_state_dict(state)
    for x, y in zip(model(make_image(batch=2)), plain(make_image(batch=2))):
        assert torch.equal(x, y)


@pytest.mark.parametrize('shape', [(64, 96), (30, 41), (100, 97), (1, 1)])
@pytest.mark.parametrize('strides', [(4, 8, 16, 32), (4, 8, 8), (4, 32), (16,)])
@torch.no_grad()
def test_sizes_are_those_of_a_convolutional_network(shape, strides):
    maps = make_model(map_strides=strides, map_channels=6)(make_image(*shape))
    sizes = [(1, 6, *(-(-side // s) for side in shape)) for s in strides]
    assert [tuple(x.shape) for x in maps] == sizes
    assert all(x.is_contiguous() for x in maps)


def test_sizes_of_other_stems():
    maps = make_model(stem='patch_embed', map_strides=(8, 16), map_channels=6)
    assert [x.shape[2:] for x in maps(make_image(30, 41))] == [(4, 6), (2, 3)]


SHAPES = [(30, 41), (48, 17), (33, 64)]


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('make', [make_model, with_blocks])
def test_padding_does_not_exist(make):
    """Values, and gradients of the parameters, whatever the padding holds."""
    model = make()
    images = [make_image(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    alone = [model(image) for image in images]
    sum(m.square().sum() for maps in alone for m in maps).backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    batch = torch.full((3, 3, 56, 72), float('nan'))
    for slot, image in zip(batch, images):
        slot[:, : image.shape[2], : image.shape[3]] = image[0]
    maps = model(batch, valid_shapes=SHAPES)
    for level, padded in enumerate(maps):
        assert padded.shape[2:] == (-(-56 // STRIDES[level]), -(-72 // STRIDES[level]))
        for index, own in enumerate(alone):
            height, width = own[level].shape[2:]
            inside = padded[index, :, :height, :width]
            torch.testing.assert_close(inside, own[level][0])
            outside = padded[index].clone()
            outside[:, :height, :width] = 0
            assert (outside == 0).all()
    sum(m.square().sum() for m in maps).backward()
    for name, param in model.named_parameters():
        torch.testing.assert_close(param.grad, expected[name], msg=name)


@pytest.mark.usefixtures('float64')
def test_batch_norms_learn_from_images_alone():
    """In training, maps and what batch norms keep are the same on any canvas."""
    results = []
    for height, width in ((48, 64), (90, 100)):
        model = with_blocks().train()
        generator = torch.Generator().manual_seed(3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # the second starts at zero
                module.weight.data.normal_(generator=generator)
        batch = torch.full((3, 3, height, width), 9.0)
        for index, shape in enumerate(SHAPES):
            image = make_image(*shape, seed=index)[0]
            batch[index, :, : shape[0], : shape[1]] = image
        maps = model(batch, valid_shapes=SHAPES)
        sum(m.square().sum() for m in maps).backward()
        inside = [m[:, :, : -(-48 // s), : -(-64 // s)] for m, s in zip(maps, STRIDES)]
        grads = [p.grad for p in model.parameters()]
        results.append([*inside, *model.buffers(), *grads])
    kept = torch.cat([b.flatten() for b in with_blocks().buffers()])
    assert not torch.allclose(kept, torch.cat([b.flatten() for b in model.buffers()]))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('make', [make_model, with_blocks])
def test_every_parameter_learns_from_the_coarsest_map(make):
    """Necks leave out fine maps; distributed training wants every gradient."""
    model = make()
    model(make_image())[-1].square().sum().backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.abs().max() > 0, name


@pytest.mark.usefixtures('float64')
def test_checkpointing_recomputes_the_same():
    grads = []
    for with_cp in (False, True):
        model = make_model(with_cp=with_cp)
        sum(m.square().sum() for m in model(make_image())).backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_checkpointing_shows_batch_norms_a_batch_once():
    kept = []
    for with_cp in (False, True):
        model = make_model(with_cp=with_cp, map_decoder=BLOCKS).train()
        sum(m.square().sum() for m in model(make_image(batch=2))).backward()
        kept.append(dict(model.named_buffers()))
    assert any(name.endswith('running_var') for name in kept[0])
    for name, value in kept[0].items():
        torch.testing.assert_close(value, kept[1][name], msg=name)


def test_checkpointed_blocks_show_their_batch_norms_a_batch_once():
    """Parts of one's own in a block may have some."""
    block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    other = copy.deepcopy(block)
    x = torch.randn(6, 4)
    other(x).square().sum().backward()
    SparseFormer._checkpoint(block, x).pow(2).sum().backward()
    assert block[1].momentum == other[1].momentum
    assert block[1].num_batches_tracked == 1
    for name, value in other.named_buffers():
        torch.testing.assert_close(dict(block.named_buffers())[name], value)
    torch.testing.assert_close(block[0].weight.grad, other[0].weight.grad)


def test_frozen_stages_leave_the_decoder():
    model = make_model(frozen_stages=3).train()
    model(make_image())[-1].square().sum().backward()
    for name, param in model.named_parameters():
        learns = name.startswith(('map_decoder.', 'norm.'))
        assert (param.grad is not None) == learns, name
    assert model.map_decoder.training and not model.stem.training


def test_layers_of_the_decoder_learn_as_fast_as_a_head():
    model = make_model()
    for name in model.state_dict():
        depth, num_layers = model.get_layer_depth(f'backbone.{name}', 'backbone.')
        last = name.startswith(('map_decoder.', 'norm.'))
        assert (depth == num_layers - 1) == last, name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    if dtype == torch.float16 and torch.__version__ < '2.4':
        pytest.skip('this torch has no float16 on a CPU')
    model, image = make_model(), make_image()
    model._warned = True  # of a loss scale, which is 1 here
    expected = model(image)
    with torch.autocast('cpu', dtype):
        maps = model(image)
        sum(m.float().square().mean() for m in maps).backward()
    assert_near(maps, expected, 0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_degenerate_rois():
    model = make_model()
    with torch.no_grad():
        model.latent.token_rois[0] = torch.tensor([0.5, 0.5, 0.0, 0.0])
        model.latent.token_rois[1] = torch.tensor([9e3, -9e3, 1e-6, -1e-6])
        model.latent.token_rois[2] = torch.tensor([0.2, 0.1, 1e4, 1e-6])
    maps = model(make_image())
    sum(m.square().mean() for m in maps).backward()
    assert all(m.isfinite().all() for m in maps)
    for name, param in model.named_parameters():
        assert param.grad.isfinite().all(), name


@pytest.mark.usefixtures('float64')
def test_tracing_keeps_sizes_open():
    model = make_model().eval()
    traced = torch.jit.trace(model, make_image(), check_trace=False)
    for shape in ((30, 41), (52, 37)):
        for x, y in zip(traced(make_image(*shape)), model(make_image(*shape))):
            torch.testing.assert_close(x, y)


def test_multiply_adds():
    def count(model):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(make_image(64, 64))
        return counter.get_total_flops() // 2

    tokens, stem, width = 5, 8, 24
    macs, fine = 0, stem
    for pixels, channels in zip((256, 64, 16), CHANNELS):
        macs += tokens * channels * (width + width + stem + 1)  # keys, values
        macs += pixels * tokens * (stem + channels)  # scores, values
        macs += pixels * fine * (9 + channels)  # the finer map
        fine = channels
    assert count(make_model()) - count(small_model()) == macs


# ------------------------------------------------------------------ checkpoints


def test_an_image_checkpoint_starts_a_dense_model(tmp_path, log):
    image = small_model()
    path = str(tmp_path / 'image.pth')
    torch.save(dict(state_dict=image.state_dict()), path)
    model = make_model(init_cfg=dict(type='Pretrained', checkpoint=path))
    before = copy.deepcopy(model.map_decoder.state_dict())
    model.init_weights()
    for key, value in image.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert before.keys() == model.map_decoder.state_dict().keys()
    assert (
        'no map decoder in the checkpoint; re-initialised: map_decoder.' in log[-1][1]
    )
    # Testing and resuming need all of it.
    model.allow_reinit = False
    with pytest.raises(RuntimeError, match='re-initialising is not allowed here'):
        model.load_state_dict(image.state_dict())


def test_checkpoints_with_maps(log):
    model, other = make_model(noise=0.3), make_model()
    state = model.state_dict()
    other.load_state_dict(state)
    for x, y in zip(model(make_image()), other(make_image())):
        assert torch.equal(x, y)
    plain = small_model()
    plain.load_state_dict(state)
    assert 'map decoder left out: map_decoder.levels.0' in log[-1][1]
    state.pop('map_decoder.levels.1.mix.weight')
    with pytest.raises(RuntimeError, match='missing keys: map_decoder.levels.1.mix'):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match='mismatched keys: map_decoder.levels.0'):
        make_model(map_channels=16).load_state_dict(model.state_dict())


# -------------------------------------------------------------------- arguments


@MODELS.register_module()
class OnlyTheStem(BaseModule):
    def __init__(self, feat_channels, token_dims, in_stride, strides, channels, gain):
        super().__init__()
        self.known = feat_channels, token_dims, in_stride, strides, channels
        self.gain = gain

    def forward(self, outputs):
        return (outputs.image_feature * self.gain,)


def test_a_decoder_of_ones_own():
    model = make_model(map_decoder=dict(type='OnlyTheStem', gain=3))
    assert model.map_decoder.known == (8, 24, 4, list(STRIDES), list(CHANNELS))
    (own,) = model(make_image())
    feature = model.forward_intermediates(make_image()).image_feature
    assert torch.equal(own, feature * 3)


@pytest.mark.parametrize(
    'kwargs, words',
    [
        (dict(map_strides=(2, 4)), r'map_strides=\(2, 4\).*stride, 4.*\(4, 8\)'),
        (dict(map_strides=(8, 4, 16)), r'map_strides=.* multiple .*\(4, 8, 16\)'),
        (dict(map_strides=(4, 8, 12)), 'each next of the one before'),
        (dict(map_strides=()), r'map_strides=\(\) must be a list'),
        (dict(map_strides=8), 'map_strides=8 must be a list'),
        (dict(map_strides=(4, 8.0, 16)), 'map_strides=8.0 must be an integer'),
        (dict(map_channels=(8, 8)), r'map_channels=\(8, 8\) must be one number, or'),
        (dict(map_channels=0), 'map_channels=0 must be an integer'),
        (dict(map_decoder='splat'), "map_decoder='splat' is unknown.*location_aware"),
        (dict(map_decoder=dict(type='LocationAwareMaps', num_heads=3)), 'num_heads=3'),
        (dict(map_decoder=dict(type='LocationAwareMaps', strides=[4])), 'strides'),
        (dict(map_decoder=dict(BLOCKS, num_blocks=-1)), 'num_blocks=-1 must be an'),
        (
            dict(map_decoder=dict(BLOCKS, num_blocks=(1, 1))),
            r'num_blocks=\(1, 1\) must be one number, or one for each of the 3 maps',
        ),
        (dict(pretrained='open-mmlab://r50'), 'pretrained=None beside backbone'),
        (dict(spatial_dims=3), "out_type='maps' is for images.*'tokens'"),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make_model(**kwargs)


def test_arguments_of_maps_without_maps():
    with pytest.raises(ValueError, match="map_channels=96 belongs to out_type='maps'"):
        SparseFormer('nano', map_channels=96)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype):
    model, image = make_model(), make_image(batch=2)
    model.set_loss_scale(1)
    expected = model(image)
    model.cuda()
    with torch.autocast('cuda', dtype, enabled=dtype is not None):
        maps = model(image.cuda())
        sum(m.float().square().mean() for m in maps).backward()
    assert_near(maps, expected, 0.1 if dtype else 1e-2)  # TF32 may be on
    assert all(p.grad.isfinite().all() for p in model.parameters())
