"""What tubes add to the image model."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.numerics import assert_near
from helpers.small_model import ARCH
from sparseformer_mm import SparseFormer
from sparseformer_mm.models.layouts import inflate_state
from sparseformer_mm.models.stem import EarlyConv, PatchEmbed

ARCH = dict(ARCH, num_tokens=4, num_points=9)


def randomised(**kwargs):
    """A model whose points and RoIs depend on its tokens, in float64."""
    torch.manual_seed(0)
    model = SparseFormer(ARCH, **kwargs).double().eval()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'proj.weight' in name or 'generate' in name or 'bias' in name:
                param += 0.1 * torch.randn_like(param)
    return model


def video_model(inflation=2, **kwargs):
    return randomised(spatial_dims=3, token_inflation=inflation, **kwargs)


def clip(frames=6, size=(32, 40)):
    torch.manual_seed(1)
    return torch.randn(2, 3, frames, *size, dtype=torch.float64)


@pytest.mark.parametrize('inflation, frames', [(1, 1), (1, 5), (3, 3), (3, 8)])
def test_a_still_video_has_the_answer_of_its_frame(inflation, frames):
    """In the authors' form, with at least as many frames as tubes in a row."""
    image = randomised()
    video = SparseFormer(
        ARCH, spatial_dims=3, token_inflation=inflation, time_offsets='middle'
    ).double()
    video.load_state_dict(image.state_dict())
    picture = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    still = picture[:, :, None].expand(-1, -1, frames, -1, -1)
    (expected,), (pooled,) = image(picture), video.eval()(still)
    torch.testing.assert_close(pooled, expected, atol=1e-10, rtol=0)


def test_a_still_video_and_points_spread_in_time():
    """Only points beyond the middle of the outer frames read something else."""
    image = randomised()
    video = SparseFormer(ARCH, spatial_dims=3, token_inflation=4).double().eval()
    video.load_state_dict(image.state_dict())
    picture = torch.randn(1, 3, 32, 40, dtype=torch.float64)
    still = image.forward_intermediates(picture)
    differences = []
    for frames in (8, 64):
        clip = picture[:, :, None].expand(-1, -1, frames, -1, -1)
        moving = video.forward_intermediates(clip)
        differences.append((moving.pooled - still.pooled).abs().max())
    assert 1e-6 < differences[1] < differences[0]  # the less, the more frames
    first = moving.stages[0].points[0].unflatten(0, (4, 4))  # copies x tokens
    for copy in range(4):
        torch.testing.assert_close(first[copy, ..., :2], still.stages[0].points[0])
        times = first[copy, ..., 2]
        assert times.mean(-1).sub((copy + 0.5) / 4).abs().max() < 1e-6
        assert 0.12 < times.max() - (copy + 0.5) / 4 < 0.15  # half a tube: 0.125


def test_reversed_frames_and_reversed_tubes_commute():
    video, forward = clip(), video_model()
    backward = video_model()
    with torch.no_grad():
        backward.latent.token_rois[:, 2] = 1 - backward.latent.token_rois[:, 2]
        for block in (backward.focusing, backward.cortex[0]):
            block.sampler.bias.view(-1, 3)[:, 2] *= -1
            block.sampler.proj.weight.view(9, 3, -1)[:, 2] *= -1
            block.roi_adjust.proj.weight[2] *= -1  # moves; the length stays
    (expected,), (reversed_,) = forward(video), backward(video.flip(2))
    torch.testing.assert_close(reversed_, expected, atol=1e-12, rtol=0)
    (other,) = forward(video.flip(2))
    assert (other - expected).abs().max() > 1e-3  # the order of frames matters


def gradients(form):
    """Gradient norms of an inflated image model's sampling biases: space, time."""
    video = SparseFormer(ARCH, spatial_dims=3, token_inflation=2, time_offsets=form)
    video.double().load_state_dict(randomised().state_dict())
    video(clip())[0].square().sum().backward()
    norms = []
    for block in (video.focusing, video.cortex[0]):
        for param in (block.sampler.bias, block.sampler.proj.weight):
            grad = param.grad.unflatten(0, (-1, 3))
            norms.append((float(grad[:, :2].norm()), float(grad[:, 2].norm())))
        # The tube's time moves too; its length, unless all points are in the middle.
        moved = block.roi_adjust.proj.weight.grad[[2, 5]].abs().amax(1) > 1e-9
        assert moved.tolist() == [True, form == 'spread']
    assert video.latent.token_rois.grad[:, 2].abs().min() > 1e-9
    return norms


def test_first_gradients_in_time_are_like_those_in_space():
    for space, time in gradients('spread'):
        assert 0.05 < time / space < 5
    # what the authors' form does instead
    assert max(time / space for space, time in gradients('middle')) > 1e4


@pytest.mark.parametrize('form', ['spread', 'middle'])
def test_time_offsets_are_reset(form):
    model = SparseFormer(ARCH, spatial_dims=3, time_offsets=form)
    model.focusing.sampler.bias.data.fill_(7)
    model.init_weights()
    times = model.focusing.sampler.bias.view(9, 3)[:, 2]
    assert (times.std() > 0.2) == (form == 'spread')


def test_inflation_leaves_the_image_state_alone():
    state = randomised().state_dict()
    before = {key: value.clone() for key, value in state.items()}
    inflate_state(state, 3, 'spread')
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize('stem', [EarlyConv, PatchEmbed])
@pytest.mark.parametrize('chunk', [1, 3, 7, 50])
def test_chunks_give_the_same_map_and_gradients(stem, chunk):
    torch.manual_seed(0)
    whole = stem(3, 8).double()
    chunked = stem(3, 8, frames_per_chunk=chunk).double()
    chunked.load_state_dict(whole.state_dict())
    results = []
    for model in (whole, chunked):
        video = clip(7).requires_grad_()
        maps = model(video)
        torch.manual_seed(2)
        (maps * torch.randn_like(maps)).sum().backward()
        results.append([maps, video.grad, *(p.grad for p in model.parameters())])
    for expected, actual in zip(*results):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(chunked(clip(7)), results[0][0].detach())


def test_chunks_with_frozen_parameters():
    stem = EarlyConv(3, 8, frames_per_chunk=2).double()
    stem.conv.bias.requires_grad_(False)
    stem(clip()).sum().backward()
    assert stem.conv.bias.grad is None and stem.conv.weight.grad is not None
    stem.requires_grad_(False)
    assert not stem(clip()).requires_grad


def test_chunks_under_autocast():
    torch.manual_seed(0)
    grads = []
    for chunk in (None, 2):
        torch.manual_seed(0)
        stem = EarlyConv(3, 8, frames_per_chunk=chunk)
        with torch.autocast('cpu', torch.bfloat16):
            maps = stem(clip().float())
        assert maps.dtype == torch.float32
        maps.square().mul(torch.linspace(0, 1, maps.shape[-1])).sum().backward()
        grads.append(stem.conv.weight.grad)
    assert grads[0].norm() > 1
    # Of three chunks, each gradient is rounded to one in 256, and so is their sum.
    assert_near(grads[1:], grads[:1], 0.02)


class _Largest(TorchDispatchMode):
    """Sizes of the tensors that operations made, views left out."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {x.data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            whole = isinstance(tensor, torch.Tensor) and tensor.untyped_storage()
            if whole and whole.data_ptr() not in known:
                self.sizes.append(tensor.numel())
        return out


@pytest.mark.parametrize('training', [True, False])
def test_the_maps_exist_once(training):
    stem = EarlyConv(3, 32, frames_per_chunk=1)
    video = torch.randn(1, 3, 16, 32, 32)
    maps = 16 * 8 * 8 * 32
    with torch.set_grad_enabled(training), _Largest() as seen:
        out = stem(video)
    assert out.numel() == maps
    # one tensor as large as all maps, the others are a frame's
    assert sorted(seen.sizes)[-1] == maps
    assert sorted(seen.sizes)[-2] <= maps / 4
    if training:
        with _Largest() as seen:
            out.sum().backward()
        assert max(seen.sizes) <= maps


def test_bfloat16():
    model = video_model().float()
    video = clip().float()
    (expected,) = model(video)
    with torch.autocast('cpu', torch.bfloat16):
        (pooled,) = model.train()(video)
        pooled.float().square().sum().backward()
    assert_near([pooled], [expected], 0.1)  # some ten layers round to one in 256
    grad = model.focusing.sampler.bias.grad.view(9, 3)
    assert grad.isfinite().all() and grad[:, 2].abs().max() > 0
