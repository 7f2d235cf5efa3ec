import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules import VocosDecoder
from audiocodec.modules.networks.vocos import (
    MAX_MAGNITUDE,
    AdaLayerNorm,
    ConvNeXtBlock,
    ISTFTHead,
    SelfAttention1d,
)

SMALL = {
    'dimension': 6,
    'hop_length': 10,
    'dim': 8,
    'intermediate_dim': 12,
    'num_layers': 2,
    'num_groups': 4,
}


def make(**options):
    torch.manual_seed(0)
    return VocosDecoder(**{**SMALL, **options})


def test_the_published_size():
    """Of the decoder with 40 tokens per second: 12 blocks of 768 channels, FFT of 2400."""
    with torch.device('meta'):
        decoder = VocosDecoder(hop_length=600, adanorm_num_embeddings=4)
    dim, inner = 768, 2304
    block = 7 * dim + dim + 8 * dim + 2 * dim * inner + inner + dim + dim
    residual = 2 * (3 * dim * dim + dim + 2 * dim)
    attention = 4 * (dim * dim + dim) + 2 * dim
    expected = (7 * 512 * dim + dim) + 4 * residual + attention + 2 * dim  # embed and pos_net
    expected += 8 * dim + 12 * block + 2 * dim + (dim * 2402 + 2402)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert decoder.head.n_fft == 2400
    assert (decoder.channels, decoder.dimension, decoder.hop_length) == (1, 512, 600)
    assert decoder.causal is False


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'padding': 'center'},
        {'attention': False, 'n_fft': 30},
        {'channels': 2, 'adanorm_num_embeddings': 3},
        {'hop_length': 7},
    ],
)
@pytest.mark.parametrize('frames', [1, 2, 3, 17])
def test_length_and_gradient(options, frames):
    decoder = make(**options)
    latents = torch.randn(2, 6, frames, requires_grad=True)
    wav = decoder(latents)
    assert wav.shape == (2, decoder.channels, frames * decoder.hop_length)
    wav.square().mean().backward()
    assert latents.grad.isfinite().all()
    # The bias of the keys shifts all logits of a softmax alike: its gradient is only rounding.
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if frames > 1 and not name.endswith('k.bias'):
            assert parameter.grad.abs().max() > 0, name


def test_head_inverts_the_stft_of_a_signal():
    """Log magnitudes and phases of an STFT, passed through the head, are the signal."""
    head = ISTFTHead(dim=42, n_fft=40, hop_length=10)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(42))
        head.linear.bias.zero_()
    wav = torch.randn(2, 170)
    frames = F.pad(wav, (15, 15)).unfold(-1, 40, 10)
    spectrum = torch.fft.rfft(frames * head.window)
    wav_hat = head(torch.cat([spectrum.abs().log(), spectrum.angle()], dim=-1))[:, 0]
    torch.testing.assert_close(wav_hat[:, 15:-15], wav[:, 15:-15], rtol=0, atol=1e-5)


def test_channels_are_independent_spectra():
    head = ISTFTHead(dim=5, n_fft=40, hop_length=10, channels=2)
    x = torch.randn(3, 4, 5)
    single = ISTFTHead(dim=5, n_fft=40, hop_length=10)
    for channel in range(2):
        rows = slice(42 * channel, 42 * (channel + 1))
        single.linear.weight.data = head.linear.weight.data[rows]
        single.linear.bias.data = head.linear.bias.data[rows]
        torch.testing.assert_close(head(x)[:, channel], single(x)[:, 0])


@pytest.mark.parametrize('value', [200.0, -200.0, 0.0])
def test_extreme_magnitudes_have_finite_gradients(value):
    """exp(200) is infinite in float32."""
    decoder = make()
    with torch.no_grad():
        decoder.head.linear.bias.fill_(value)
    latents = torch.randn(1, 6, 3, requires_grad=True)
    wav = decoder(latents)
    assert wav.abs().max() <= 2 * MAX_MAGNITUDE
    wav.sum().backward()
    assert latents.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_the_waveform_is_float32_under_autocast():
    decoder = make().eval()
    latents = torch.randn(2, 6, 5)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        half = decoder(latents)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, decoder(latents), rtol=0, atol=0.05)


def test_attention_reaches_all_frames_and_convolutions_only_some():
    latents = torch.randn(1, 6, 40)
    changed = latents.clone()
    changed[..., 0] += 1
    for attention in (True, False):
        decoder = make(attention=attention).double().eval()
        with torch.no_grad():
            difference = (decoder(latents.double()) - decoder(changed.double())).abs()
        reached = difference[0, 0].view(40, 10).amax(dim=1) > 1e-12
        # Three kernels of 7 frames reach 9 frames ahead, the window of 4 hops up to 2 more.
        assert reached[:12].all()
        assert reached[12:].any() == attention


def test_attention_is_softmax_of_products():
    layer = SelfAttention1d(8, num_groups=2, eps=1e-6)
    x = torch.randn(2, 8, 5)
    y = layer.norm(x)
    scores = torch.einsum('bct,bcs->bts', layer.q(y), layer.k(y)) / math.sqrt(8)
    mixed = torch.einsum('bts,bcs->bct', scores.softmax(-1), layer.v(y))
    torch.testing.assert_close(layer(x), x + layer.proj_out(mixed))


def test_first_condition_is_used():
    norm, plain = AdaLayerNorm(3, 4), nn.LayerNorm(4, eps=1e-6)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(norm(x), plain(x))
    with torch.no_grad():
        norm.scale.weight[0] = 2.0
        norm.shift.weight[0] = 3.0
        norm.scale.weight[1:] = torch.nan
    torch.testing.assert_close(norm(x), 2 * plain(x) + 3)


def test_layer_scale_starts_at_one_over_the_number_of_layers():
    assert torch.equal(make(num_layers=4).convnext[0].gamma, torch.full((8,), 0.25))
    scaled = make(layer_scale_init_value=0.1)
    assert torch.equal(scaled.convnext[1].gamma, torch.full((8,), 0.1))
    block = ConvNeXtBlock(4, 8, layer_scale=0.0)
    x = torch.randn(1, 4, 6)
    assert torch.equal(block(x), x)


def test_dropout_only_in_training():
    decoder = make(dropout=0.5)
    latents = torch.randn(1, 6, 5)
    assert not torch.equal(decoder(latents), decoder(latents))
    decoder.eval()
    assert torch.equal(decoder(latents), decoder(latents))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'dim': 0}, 'dim=0: expected an integer >= 1'),
        ({'num_groups': 3}, 'num_groups=3: expected a divisor of dim=8 .* try num_groups=2'),
        ({'num_groups': 8}, 'num_groups=8: expected a divisor of dim=8 .* try num_groups=4'),
        ({'num_groups': 1, 'dim': 1}, 'num_groups=1: .* per group: raise dim'),
        ({'dropout': 1.0}, r'dropout=1.0: must be in \[0, 1\)'),
        ({'norm_eps': 0.0}, 'norm_eps=0.0: must be positive'),
        ({'adanorm_num_embeddings': 0}, 'adanorm_num_embeddings=0: expected an integer >= 1'),
        ({'n_fft': 10}, 'n_fft=10: expected an even number of at least 2'),
        ({'padding': 'valid'}, "padding='valid' is unknown"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_groups_are_free_without_attention():
    decoder = make(attention=False, num_groups=3)
    assert not any(isinstance(part, torch.nn.GroupNorm) for part in decoder.modules())
    assert decoder(torch.randn(1, 6, 5)).shape[0] == 1


@torch.no_grad()
def test_exports_for_any_batch_and_length():
    decoder = make(adanorm_num_embeddings=2).eval()
    shape = {0: torch.export.Dim('batch', max=64), 2: torch.export.Dim('frames', min=2, max=999)}
    program = torch.export.export(decoder, (torch.randn(2, 6, 7),), dynamic_shapes=(shape,))
    latents = torch.randn(3, 6, 20)
    torch.testing.assert_close(program.module()(latents), decoder(latents))
