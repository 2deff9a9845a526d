import pytest
import torch
import torch.nn.functional as F

from helpers.numerics import assert_exact
from sparseformer_mm.models.stem import EarlyConv, PatchEmbed, RawPixels, channel_norm


def test_channel_norm_uses_the_unbiased_variance():
    x = torch.randn(2, 3, 4, 7, dtype=torch.float64) * 3 + 1
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-7).sqrt()
    torch.testing.assert_close(channel_norm(x), expected, rtol=1e-12, atol=1e-12)
    flat = torch.full((1, 7), 3.0, requires_grad=True)  # no variance at all
    channel_norm(flat).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (1, 1)])
def test_early_conv_is_the_plain_form(size):
    torch.manual_seed(0)
    stem = EarlyConv(3, 8).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    y = F.max_pool2d(F.relu(stem.conv(x)), 3, 2, 1)
    expected = channel_norm(y.permute(0, 2, 3, 1))
    torch.testing.assert_close(stem(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(stem(x), expected.detach())
    assert stem(x).shape[1:3] == (-(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('stem', [EarlyConv, PatchEmbed, RawPixels])
def test_frames_are_treated_as_images(stem):
    torch.manual_seed(0)
    stem = stem(3, 8)
    video = torch.randn(2, 3, 5, 24, 40)
    out = stem(video)
    assert out.shape[:2] == (2, 5)
    for frame in range(5):
        torch.testing.assert_close(out[:, frame], stem(video[:, :, frame]))


def test_patches_do_not_overlap_and_odd_sizes_are_padded():
    torch.manual_seed(0)
    stem = PatchEmbed(3, 8)
    x = torch.randn(1, 3, 20, 17)
    out = stem(x)
    assert out.shape == (1, 3, 3, 8)
    x[..., :8, :8] = 0
    changed = (stem(x) != out).any(-1)
    assert changed.nonzero().tolist() == [[0, 0, 0]]


def test_raw_pixels_are_the_input():
    x = torch.randn(1, 3, 4, 5)
    stem = RawPixels(3)
    assert stem.out_channels == 3
    assert (stem(x).permute(0, 3, 1, 2) == x).all()


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('wanted', ['weights', 'image', 'both'])
def test_backward_image_by_image_is_torchs(bias, wanted, monkeypatch):
    torch.manual_seed(0)
    stem = EarlyConv(3, 6).double()
    if not bias:
        stem.conv.bias = None
    stem.requires_grad_(wanted != 'image')
    image = torch.randn(3, 3, 21, 34, dtype=torch.float64)
    image.requires_grad_(wanted != 'weights')
    args = [t for t in (image, *stem.parameters()) if t.requires_grad]
    cotangent = torch.randn(3, 6, 9, 6, dtype=torch.float64)
    results = []
    for fast in (True, False):
        monkeypatch.setattr(
            'sparseformer_mm.models.conv_pool.fast_cpu',
            lambda *tensors, fast=fast: fast,
        )
        maps = stem.forward_images(image)
        results.append([maps, *torch.autograd.grad((maps * cotangent).sum(), args)])
    for ours, theirs in zip(*results):
        assert_exact(ours, theirs)


def test_a_hook_on_the_convolution_is_called():
    stem, seen = EarlyConv(3, 6), []
    stem.conv.register_forward_hook(lambda *args: seen.append(args[2].shape))
    stem(torch.randn(2, 3, 16, 16))
    assert seen == [(2, 6, 8, 8)]


@torch.no_grad()
@pytest.mark.parametrize('stem', [EarlyConv, PatchEmbed])
@pytest.mark.parametrize('shape', [(5, 3, 9, 12), (2, 3, 5, 9, 12)])
def test_a_few_images_at_a_time_are_all_of_them(stem, shape, monkeypatch):
    torch.manual_seed(0)
    stem, x = stem(3, 6).double(), torch.randn(shape, dtype=torch.float64)
    count, expected = [], stem(x)
    forward = stem.forward_images
    monkeypatch.setattr(
        stem, 'forward_images', lambda x: count.append(len(x)) or forward(x)
    )
    monkeypatch.setattr('sparseformer_mm.models.stem._MAX_PIXELS', 3 * 9 * 12)
    assert_exact(stem(x), expected)
    assert count == ([3, 2] if len(shape) == 4 else [3, 2, 3, 2])
