"""Padded batches: what the model says of an image depends on the image alone."""

import pytest
import torch

from helpers.small_model import small_model
from sparseformer_mm.models.padding import (
    NotesSizes,
    PaddingAware,
    inside_images,
    note_sizes,
    noted_shapes,
    repeat_edges,
    valid_shapes_of,
)

SHAPES = [(30, 41), (48, 17), (33, 64)]


def make_model(**kwargs):
    kwargs = dict(dict(out_type='tokens', cortex_depth=3), **kwargs)
    return small_model(**kwargs).double()


def make_images():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, 3, *s, generator=generator, dtype=torch.float64) for s in SHAPES
    ]


def pad(images, height, width, value):
    batch = torch.full((len(images), 3, height, width), value, dtype=torch.float64)
    for slot, image in zip(batch, images):
        slot[:, : image.shape[2], : image.shape[3]] = image[0]
    return batch


@pytest.mark.parametrize('stem', ['early_conv', 'patch_embed', 'pixel'])
@pytest.mark.parametrize(
    'canvas, value', [((48, 64), 0.0), ((48, 64), 3.0), ((71, 90), float('nan'))]
)
def test_padding_does_not_exist(stem, canvas, value):
    model, images = make_model(stem=stem), make_images()
    batch = model(pad(images, *canvas, value), valid_shapes=SHAPES)
    stride = model.stem.stride
    for index, image in enumerate(images):
        alone = model(image)
        torch.testing.assert_close(batch.tokens[index], alone.tokens[0])
        torch.testing.assert_close(batch.rois[index], alone.rois[0])
        for stage, own in zip(batch.stages, alone.stages):
            torch.testing.assert_close(stage.points[index], own.points[0])
        width, height = (int(side) for side in batch.map_extents[index])
        feature = batch.image_feature[index].clone()
        torch.testing.assert_close(
            feature[:, :height, :width], alone.image_feature[0], rtol=0, atol=1e-12
        )
        feature[:, :height, :width] = 0
        assert (feature == 0).all()
        assert (height, width) == tuple(-(-side // stride) for side in SHAPES[index])
    assert batch.image_feature.shape[2:] == tuple(-(-side // stride) for side in canvas)


@pytest.mark.parametrize('limit', [True, False])
def test_gradients_are_those_of_the_images_alone(limit):
    model, images = make_model(limit_coord_grad=limit), make_images()
    # The first stage reads the same points in all images, and what it learns is
    # the sum over them: the limit is on each image's own.
    for image in images:
        model(image).tokens.square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    batch = model(pad(images, 50, 66, 9.0), valid_shapes=SHAPES)
    batch.tokens.square().sum().backward()
    for name, param in model.named_parameters():
        torch.testing.assert_close(param.grad, expected[name], msg=name)
        assert param.grad.abs().max() > 0, name


def test_the_limit_of_coordinate_gradients_is_that_of_the_image():
    """The limit binds here: without it, gradients differ."""
    images = make_images()
    grads = []
    for limit in (True, False):
        model = make_model(limit_coord_grad=limit)
        batch = model(pad(images, 50, 66, 9.0), valid_shapes=SHAPES)
        (batch.tokens.square().sum() * 100).backward()
        grads.append(model.latent.token_rois.grad)
    assert (grads[0] - grads[1]).abs().max() > 1e-3


def test_videos():
    torch.manual_seed(0)
    model = make_model(spatial_dims=3, token_inflation=2)
    clip = torch.randn(1, 3, 3, 20, 28, dtype=torch.float64)
    padded = torch.nn.functional.pad(clip, (0, 20, 0, 12), value=5.0)
    alone, batch = model(clip), model(padded, valid_shapes=[(20, 28)])
    torch.testing.assert_close(batch.tokens, alone.tokens)
    assert batch.map_extents.tolist() == [[7, 5, 3]]


def test_nothing_padded_is_the_plain_path():
    model, image = make_model(), make_images()[0]
    plain, named = model(image), model(image, valid_shapes=[SHAPES[0]])
    assert named.map_extents is None
    assert torch.equal(plain.tokens, named.tokens)


def test_checkpointing_recomputes_padded_batches():
    images = make_images()
    grads = []
    for with_cp in (False, True):
        model = make_model(with_cp=with_cp)
        out = model(pad(images, 48, 64, 0.0), valid_shapes=SHAPES)
        out.tokens.square().sum().backward()
        grads.append(model.focusing.sampler.proj.weight.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('shapes', [[(8, 8)], [(8, 8), (20, 8)], [(8, 0), (8, 8)]])
def test_shapes_that_do_not_fit(shapes):
    model = make_model()
    with pytest.raises(ValueError, match='valid_shapes'):
        model(torch.zeros(2, 3, 16, 16).double(), valid_shapes=shapes)


def test_out_indices():
    model, image = make_model(out_indices=(0, -1)), make_images()[0]
    out = model(image)
    assert len(out.block_tokens) == 2
    assert torch.equal(out.block_tokens[1], out.tokens)
    assert not torch.allclose(out.block_tokens[0], out.tokens)
    # The first block's tokens as that stage reports them, through the last norm.
    torch.testing.assert_close(out.block_tokens[0], model.norm(out.stages[-1].tokens))
    with pytest.raises(ValueError, match='out_indices=.*cortex_depth=3'):
        make_model(out_indices=(3,))


def test_maps_of_dense_heads():
    x = torch.arange(12.0).view(1, 1, 3, 4).repeat(2, 1, 1, 1)
    extents = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    inside = inside_images(x, extents)
    assert inside[0].all()
    assert inside[1, 0].nonzero().tolist() == [[0, 0], [0, 1]]
    filled = repeat_edges(x, extents)
    assert torch.equal(filled[0], x[0])
    assert filled[1, 0].tolist() == [[0.0, 1.0, 1.0, 1.0]] * 3


class _Sample:
    def __init__(self, **metainfo):
        self.metainfo = metainfo


class _Host(torch.nn.Module):
    """A library's model: its backbone gets the batch, or a part of it."""

    def forward(self, inputs, data_samples=None, window=None):
        return noted_shapes(inputs[..., :window] if window else inputs)


class _Preprocessor(torch.nn.Module):
    def forward(self, data, training=False):
        return dict(data, inputs=data['inputs'] + (1 if training else 0))


class _Model(PaddingAware, _Host):
    pass


class _Notes(NotesSizes, _Preprocessor):
    pass


@pytest.mark.parametrize('by', ['model', 'preprocessor'])
def test_sizes_are_left_on_the_batch(by):
    inputs = torch.zeros(2, 3, 32, 32)
    samples = [_Sample(img_shape=(20, 32)), _Sample(img_shape=(32, 24, 3))]

    def told(samples, window=None):
        if by == 'model':
            return _Model()(inputs, samples, window)
        data = _Notes()(dict(inputs=inputs, data_samples=samples), True)
        return _Host()(**data, window=window)

    assert told(samples) == [(20, 32), (32, 24)]
    assert told([_Sample(), _Sample(img_shape=(1, 1))]) is None
    assert told(samples, window=16) is None  # an image of its own
    assert told(None) is None  # nothing of the batch before is left
    assert valid_shapes_of(None) is None


def test_the_backbone_finds_the_sizes():
    model, images = make_model(), make_images()
    batch = pad(images, 50, 66, 9.0)
    expected = model(batch, valid_shapes=SHAPES)
    note_sizes(batch, [_Sample(img_shape=shape) for shape in SHAPES])
    outputs = model(batch)
    assert torch.equal(outputs.tokens, expected.tokens)
    assert torch.equal(outputs.map_extents, expected.map_extents)
    # What is said counts more than what was left.
    whole = model(batch, valid_shapes=[(50, 66)] * 3)
    assert whole.map_extents is None
