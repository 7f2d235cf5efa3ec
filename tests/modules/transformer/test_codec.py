"""Encoders and decoders with a transformer: lengths, causality, and parts that do not fit."""

import pytest
import torch

from audiocodec.modules import (
    SEANetDecoder,
    SEANetEncoder,
    Transformer,
    TransformerDecoder,
    TransformerEncoder,
)

SEANET = {
    'dimension': 8,
    'n_filters': 2,
    'n_residual_layers': 1,
    'ratios': [3, 2],
    'pad_mode': 'constant',
}
HOP = 12


def transformer():
    return Transformer(8, 1, 2, 16, context=4, layer_scale=0.5)


def make(stride=2, causal=True):
    torch.manual_seed(0)
    seanet = {**SEANET, 'causal': causal}
    encoder = TransformerEncoder(SEANetEncoder(**seanet), transformer(), stride)
    decoder = TransformerDecoder(SEANetDecoder(**seanet), transformer(), stride)
    return encoder.eval(), decoder.eval()


@pytest.mark.parametrize('stride', [1, 2, 3])
@torch.no_grad()
def test_lengths_and_figures(stride):
    encoder, decoder = make(stride)
    hop = 6 * stride
    for length in (1, hop - 1, hop, hop + 1, 97):
        latents = encoder(torch.randn(2, 1, length))
        assert latents.shape == (2, 8, -(-length // hop))
        assert decoder(latents).shape == (2, 1, latents.shape[-1] * hop)
    for part in (encoder, decoder):
        assert (part.channels, part.dimension, part.hop_length, part.causal) == (1, 8, hop, True)


@torch.no_grad()
def test_frames_depend_on_no_later_samples_and_samples_on_no_later_frames():
    encoder, decoder = make()
    wav = torch.randn(1, 1, 20 * HOP)
    latents = encoder(wav)
    changed = wav.clone()
    changed[..., 10 * HOP :] = torch.randn(1, 1, 10 * HOP)
    moved = (encoder(changed) - latents).abs().amax(1)[0]
    assert moved[:10].max() < 1e-6
    assert moved[10] > 1e-4
    wav_hat = decoder(latents)
    changed = latents.clone()
    changed[..., 10:] += 1
    moved = (decoder(changed) - wav_hat).abs()[0, 0]
    assert moved[: 10 * HOP].max() < 1e-6
    assert moved[10 * HOP : 11 * HOP].max() > 1e-4


@torch.no_grad()
def test_receptive_fields():
    """Where the gradient of an output ends is where the parts say that they read."""
    encoder, decoder = make()
    for part, inputs, frame in ((encoder, (1, 1, 30 * HOP), 25), (decoder, (1, 8, 30), 25 * HOP)):
        x = torch.randn(inputs, requires_grad=True)
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(part(x)[..., frame].square().sum(), x)
        used = grad.abs().sum((0, 1)).nonzero()[:, 0]
        assert (used.min(), used.max()) == part.reads(frame, frame)


def test_convolutions_of_the_frame_rate():
    encoder, decoder = make()
    assert [list(p.shape) for p in encoder.downsample.parameters()] == [[8, 8, 4]]
    assert encoder.downsample.pad_mode == 'replicate'
    assert [list(p.shape) for p in decoder.upsample.parameters()] == [[8, 1, 4]]
    full = TransformerDecoder(SEANetDecoder(**SEANET), transformer(), upsample_groups=2)
    assert [list(p.shape) for p in full.upsample.parameters()] == [[8, 4, 4]]
    assert not list(make(stride=1)[0].downsample.parameters())


def test_gradients_reach_every_parameter():
    encoder, decoder = make()
    decoder(encoder(torch.randn(2, 1, 5 * HOP))).square().mean().backward()
    for part in (encoder, decoder):
        assert all(parameter.grad.abs().max() > 0 for parameter in part.parameters())


def test_a_part_that_is_not_causal():
    assert not make(causal=False)[0].causal
    assert not TransformerDecoder(SEANetDecoder(**SEANET), torch.nn.Identity()).causal


@pytest.mark.parametrize(
    ('make_wrong', 'message'),
    [
        (
            lambda: TransformerEncoder(SEANetEncoder(**SEANET), Transformer(16, 1, 2)),
            'got 8 in the encoder, 16 in the transformer',
        ),
        (
            lambda: TransformerDecoder(SEANetDecoder(**SEANET), transformer(), dimension=4),
            'got 8 in the decoder, 4 in the latents',
        ),
        (
            lambda: TransformerEncoder(torch.nn.Linear(1, 1), transformer()),
            'encoder.dimension=None: expected an integer',
        ),
        (
            lambda: TransformerDecoder(SEANetDecoder(**SEANET), transformer(), upsample_groups=3),
            'upsample_groups=3: expected a divisor of dimension=8',
        ),
        (
            lambda: TransformerEncoder(SEANetEncoder(**SEANET), transformer(), stride=0),
            'stride=0: expected an integer >= 1',
        ),
    ],
)
def test_parts_that_do_not_fit(make_wrong, message):
    with pytest.raises(ValueError, match=message):
        make_wrong()
