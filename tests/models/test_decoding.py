import pytest
import torch
import torch.nn.functional as F

from sparseformer_mm.models.decoding import AdaptiveMixing, LinearDecoding, StaticMixing


def test_adaptive_mixing_against_a_loop():
    torch.manual_seed(0)
    dims, channels, num_points = 12, 7, 5  # all different on purpose
    decoder = AdaptiveMixing(dims, channels, num_points).double()
    for param in decoder.parameters():
        torch.nn.init.normal_(param)
    tokens = torch.randn(2, 3, dims, dtype=torch.float64)
    sampled = torch.randn(2, 3, num_points, channels, dtype=torch.float64)
    out = decoder(tokens, sampled)
    for b in range(2):
        for n in range(3):
            t = decoder.norm(tokens[b, n])
            hidden = decoder.squeeze.weight @ t + decoder.squeeze.bias
            weights = decoder.generate.weight @ hidden + decoder.generate.bias
            channel = weights[: channels**2].view(channels, channels)
            point = weights[channels**2 :].view(num_points, num_points)
            x = F.gelu(sampled[b, n] @ channel + decoder.channel_bias)
            x = F.gelu(point @ x + decoder.point_bias[:, None])
            expected = decoder.proj.weight @ x.flatten() + decoder.proj.bias
            torch.testing.assert_close(out[b, n], expected)


def test_adaptive_mixing_starts_unconditional():
    torch.manual_seed(0)
    decoder = AdaptiveMixing(16, 6, 4)
    assert (decoder.generate.weight == 0).all()
    torch.testing.assert_close(decoder.norm.weight, torch.full((16,), 16**-0.5))
    sampled = torch.randn(1, 1, 4, 6)
    out = [decoder(torch.randn(1, 1, 16), sampled) for _ in range(2)]
    torch.testing.assert_close(*out)
    # Xavier-uniform bounds of a C x C and a P x P matrix.
    channel, point = decoder.generate.bias.split([36, 16])
    assert 0.8 < channel.abs().max() / (6 / 12) ** 0.5 <= 1
    assert 0.7 < point.abs().max() / (6 / 8) ** 0.5 <= 1


@pytest.mark.usefixtures('float64')
@pytest.mark.parametrize('decoding', [AdaptiveMixing, StaticMixing, LinearDecoding])
def test_shared_tokens_decode_as_repeated_ones(decoding):
    torch.manual_seed(0)
    decoder = decoding(8, 6, 4)
    for param in decoder.parameters():
        torch.nn.init.normal_(param)
    tokens, sampled = torch.randn(1, 3, 8), torch.randn(5, 3, 4, 6)
    torch.testing.assert_close(
        decoder(tokens, sampled), decoder(tokens.expand(5, -1, -1), sampled)
    )


@pytest.mark.parametrize('decoding', [AdaptiveMixing, StaticMixing])
def test_static_mixing_ignores_the_token_and_adaptive_does_not(decoding):
    torch.manual_seed(0)
    sampled = torch.randn(1, 1, 4, 6)
    decoder = decoding(8, 6, 4)
    for param in decoder.parameters():
        torch.nn.init.normal_(param)
    a, b = (decoder(torch.randn(1, 1, 8), sampled) for _ in range(2))
    assert torch.allclose(a, b) is (decoding is StaticMixing)


@pytest.mark.usefixtures('float64')
def test_static_mixing_is_adaptive_mixing_with_constant_weights():
    torch.manual_seed(0)
    adaptive, static = AdaptiveMixing(8, 6, 4), StaticMixing(8, 6, 4)
    channel, point = adaptive.generate.bias.detach().split([36, 16])
    static.channel_mixing.data.copy_(channel.view(6, 6))
    static.point_mixing.data.copy_(point.view(4, 4))
    static.proj.load_state_dict(adaptive.proj.state_dict())
    tokens, sampled = torch.randn(2, 3, 8), torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(static(tokens, sampled), adaptive(tokens, sampled))
