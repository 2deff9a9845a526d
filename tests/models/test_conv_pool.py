import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers.numerics import assert_exact
from sparseformer_mm.models import conv_pool


@pytest.mark.parametrize('size', [(21, 34), (24, 9), (33, 5), (1, 1)])
@pytest.mark.parametrize('rows', [1, 2, 3, 100])
def test_maps_made_in_strips_are_torchs(size, rows, monkeypatch):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    for conv in (
        nn.Conv2d(3, 6, 7, stride=2, padding=3),
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.Conv2d(3, 6, (5, 1), stride=(3, 2), padding=(4, 0), dilation=(2, 1)),
        nn.Conv2d(3, 6, 5, padding=2, groups=3),
        nn.Conv2d(3, 6, 1, padding=2),  # strips of this may be all padding
    ):
        conv.double()
        columns = conv(image).shape[-1]
        monkeypatch.setattr(conv_pool, '_MAX_BETWEEN', rows * 2 * columns * 6)
        expected = F.max_pool2d(conv(image), 3, 2, 1)
        monkeypatch.setattr(conv_pool, 'fast_cpu', lambda *tensors: True)
        cotangent = torch.randn_like(expected)
        args = [image, *conv.parameters()]
        maps = conv_pool.conv_pool(image, conv)
        assert_exact(maps, expected)
        with torch.no_grad():
            assert_exact(conv_pool.conv_pool(image, conv), expected)
        for ours, theirs in zip(
            torch.autograd.grad((maps * cotangent).sum(), args),
            torch.autograd.grad((expected * cotangent).sum(), args),
        ):
            assert_exact(ours, theirs)


def test_large_images_are_cut_and_small_ones_run_together():
    conv = nn.Conv2d(3, 96, 7, stride=2, padding=3)

    def strips(*shape):
        return list(conv_pool._strips(torch.empty(shape), conv))

    assert [s.out for s in strips(2, 3, 224, 224)] == [slice(0, 56)] * 2
    assert [s.images for s in strips(6, 3, 128, 128)] == [slice(0, 3), slice(3, 6)]
    large = strips(1, 3, 800, 1136)
    assert [s.between for s in large[:2]] == [(26, 568), (28, 568)]
    assert (large[0].rows, large[0].margins) == (slice(0, 54), (3, 0))
    assert large[-1].out.stop == 200 and large[-1].margins == (0, 2)


def test_an_image_smaller_than_a_convolution_is_told():
    with pytest.raises(RuntimeError, match='Kernel size'):
        conv_pool.conv_pool(torch.randn(1, 3, 4, 4), nn.Conv2d(3, 6, 7))
