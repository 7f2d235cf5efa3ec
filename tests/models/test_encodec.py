import functools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from audiocodec.models import CodecOutput, CompressionModel, EncodecModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import (
    DACQuantizer,
    GroupedQuantizer,
    NoQuantizer,
    ResidualFiniteScalarQuantizer,
    ResidualVectorQuantizer,
    SimVectorQuantizer,
    SplitResidualVectorQuantizer,
    VariationalBottleneck,
)
from audiocodec.utils.eval_mode import eval_mode

HOP = 8


def make_model(
    causal=True, channels=1, renormalize=False, quantizer=None, sample_rate=1000, **options
):
    torch.manual_seed(0)
    seanet = {
        'channels': channels,
        'dimension': 6,
        'n_filters': 4,
        'n_residual_layers': 1,
        'ratios': [4, 2],
        'lstm': 1,
        'norm': 'weight_norm',
        'causal': causal,
        'pad_mode': 'constant',
        **options,
    }
    quantizer = quantizer or ResidualVectorQuantizer(dimension=6, n_q=4, bins=16, kmeans_init=False)
    return EncodecModel(
        SEANetEncoder(**seanet),
        SEANetDecoder(**seanet),
        quantizer,
        sample_rate=sample_rate,
        channels=channels,
        renormalize=renormalize,
    )


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('renormalize', [True, False])
def test_any_length_in_and_the_same_length_out(channels, training, renormalize):
    model = make_model(causal=not renormalize, channels=channels, renormalize=renormalize).train(
        training
    )
    for length in (1, 7, 8, 9, 100, 101):
        frames = math.ceil(length / HOP)
        wav = torch.randn(3, channels, length)
        out = model(wav)
        assert isinstance(out, CodecOutput)
        assert out.wav.shape == wav.shape
        assert (out.codes.shape, out.codes.dtype) == ((3, 4, frames), torch.int64)
        assert out.latents.shape == (3, 6, frames)
        assert out.bandwidth.shape == out.losses['commitment'].shape == ()
        codes, scale = model.encode(wav)
        assert codes.shape == (3, 4, frames)
        assert model.decode(codes, scale).shape == (3, channels, frames * HOP)


@pytest.mark.parametrize('renormalize', [True, False])
def test_forward_is_encode_and_decode_in_one(renormalize):
    model = make_model(causal=False, channels=2, renormalize=renormalize).eval()
    wav = torch.randn(2, 2, 101)
    with torch.no_grad():
        out = model(wav)
        codes, scale = model.encode(wav)
        decoded = model.decode(codes, scale)
        latents = model.decode_latent(codes)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.wav, decoded[..., :101])
    torch.testing.assert_close(out.latents, latents)
    if renormalize:
        assert torch.equal(out.scale, scale)
    else:
        assert out.scale is None
        assert scale is None


def test_scale_is_the_loudness_of_the_mono_mix():
    model = make_model(causal=False, channels=2, renormalize=True).eval()
    wav = torch.stack([torch.full((2, 50), 0.5), torch.stack([torch.ones(50), -torch.ones(50)])])
    codes, scale = model.encode(wav)
    torch.testing.assert_close(scale, torch.tensor([[0.5], [1e-8]]), rtol=1e-5, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            model.decode(codes, scale), model.decode(codes) * scale[:, :, None]
        )


def test_renormalizing_model_does_not_depend_on_the_loudness():
    model = make_model(causal=False, renormalize=True).eval()
    wav = torch.randn(2, 1, 64)
    with torch.no_grad():
        quiet, loud = model(wav * 2**-10), model(wav * 2**3)
    assert torch.equal(quiet.codes, loud.codes)
    torch.testing.assert_close(quiet.wav * 2**13, loud.wav, rtol=1e-3, atol=1e-3)
    silent = model(torch.zeros(1, 1, 64)).wav
    assert silent.abs().max() < 1e-6


def test_figures():
    model = make_model(ratios=[3, 2], sample_rate=1001)
    assert (model.sample_rate, model.channels, model.hop_length) == (1001, 1, 6)
    assert model.frame_rate == 1001 / 6
    assert (model.cardinality, model.num_codebooks, model.total_codebooks) == (16, 4, 4)
    assert model.bandwidth == pytest.approx(4 * 4 * 1001 / 6 / 1000)
    assert model(torch.randn(1, 1, 12)).bandwidth.item() == pytest.approx(model.bandwidth)


def test_fewer_codebooks_are_the_first_ones():
    model = make_model().eval()
    wav = torch.randn(2, 1, 64)
    every, _ = model.encode(wav)
    model.set_num_codebooks(2)
    assert (model.num_codebooks, model.total_codebooks) == (2, 4)
    assert model.bandwidth == pytest.approx(2 * 4 * 125 / 1000)
    codes, _ = model.encode(wav)
    assert torch.equal(codes, every[:, :2])
    with torch.no_grad():
        out = model(wav)
        torch.testing.assert_close(out.wav, model.decode(every[:, :2]))
        assert not torch.allclose(
            out.wav, model.decode(every)
        )  # all may be decoded, whatever the number in use
    assert torch.equal(out.codes, codes)


def test_causal_model_does_not_see_the_future():
    model = make_model().eval()
    wav = torch.randn(2, 1, 96)
    changed = wav.clone()
    changed[..., 43:] *= -100
    with torch.no_grad():
        first, second = model(wav), model(changed)
    assert torch.equal(
        first.wav[..., :40], second.wav[..., :40]
    )  # sample 43 is in the frame that starts at 40
    assert torch.equal(first.codes[..., :5], second.codes[..., :5])
    assert not torch.equal(first.wav[..., 40:48], second.wav[..., 40:48])


def test_model_that_is_not_causal_sees_the_future():
    model = make_model(causal=False, quantizer=NoQuantizer(6)).eval()
    wav = torch.randn(1, 1, 96)
    changed = wav.clone()
    changed[..., 48:] = 0
    with torch.no_grad():
        assert not torch.equal(model(wav).wav[..., 40:48], model(changed).wav[..., 40:48])


def test_gradients_reach_every_parameter_through_the_quantizer():
    model = make_model().train()
    out = model(torch.randn(2, 1, 64))
    out.wav.square().mean().backward()
    assert [
        name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 0
    ] == []


def test_commitment_reaches_only_the_encoder():
    model = make_model().train()
    model(torch.randn(2, 1, 64)).losses['commitment'].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_encode_keeps_no_graph_and_decode_does():
    model = make_model(causal=False, renormalize=True)
    codes, scale = model.encode(torch.randn(1, 1, 64))
    assert not scale.requires_grad
    assert model.decode(codes, scale).requires_grad


@pytest.mark.parametrize('renormalize', [True, False])
def test_latents_before_the_quantizer(renormalize):
    model = make_model(causal=False, channels=2, renormalize=renormalize).eval()
    wav = torch.randn(2, 2, 101)
    latents, scale = model.encode_latent(wav)
    torch.testing.assert_close(
        latents, model.encoder(wav / scale[:, :, None] if renormalize else wav)
    )
    codes, expected = model.encode(wav)
    assert torch.equal(model.quantizer.encode(latents), codes)
    if renormalize:
        assert torch.equal(scale, expected)
    else:
        assert scale is None
    model.quantizer.set_num_codebooks(1)
    assert torch.equal(model.encode_latent(wav)[0], latents)
    latents.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_continuous_autoencoder():
    model = make_model(quantizer=NoQuantizer(6))
    wav = torch.randn(2, 1, 61)
    out = model(wav)
    assert out.codes.shape == (2, 0, 8)
    torch.testing.assert_close(out.latents, model.encoder(wav))
    assert torch.equal(model.encode_latent(wav)[0], out.latents)
    torch.testing.assert_close(out.wav, model.decoder(out.latents)[..., :61])
    assert (model.cardinality, model.num_codebooks, model.bandwidth, out.bandwidth.item()) == (
        0,
        0,
        0.0,
        0.0,
    )
    with pytest.raises(ValueError, match='continuous autoencoder'):
        model.encode(wav)
    with pytest.raises(ValueError, match='continuous autoencoder'):
        model.decode(torch.zeros(1, 1, 4, dtype=torch.int64))


def test_state_dict_holds_the_whole_model():
    model = make_model().train()
    for _ in range(3):
        model(torch.randn(2, 1, 64))  # moves the codebooks
    other = make_model()
    other.load_state_dict(model.state_dict())
    wav = torch.randn(2, 1, 64)
    assert torch.equal(model.eval()(wav).wav, other.eval()(wav).wav)


def test_mixed_precision():
    model = make_model().eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        out = model(torch.randn(1, 1, 64).bfloat16())
    assert out.wav.isfinite().all()
    assert out.codes.shape == (1, 4, 8)


@pytest.mark.parametrize(
    ('wav', 'message'),
    [
        (torch.zeros(1, 64), r'shape \[1, 64\]: expected \[B, 1, T\]'),
        (torch.zeros(1, 2, 64), r'shape \[1, 2, 64\]: expected \[B, 1, T\]'),
        (torch.zeros(1, 1, 0), r'shape \[1, 1, 0\]: expected'),
        (torch.zeros(0, 1, 64), r'shape \[0, 1, 64\]: expected'),
        (torch.zeros(1, 1, 64, dtype=torch.int16), 'type torch.int16: expected floats'),
        (
            torch.zeros(1, 1, 64, dtype=torch.float64),
            r'type torch.float64 but the model has torch.float32: .*\.to\(dtype\)',
        ),
        (torch.zeros(1, 1, 64, device='meta'), 'wav is on meta but the model is on cpu'),
    ],
)
def test_wrong_waveforms(wav, message):
    model = make_model()
    for method in (model, model.encode):
        with pytest.raises(ValueError, match=message):
            method(wav)


@pytest.mark.parametrize(
    ('codes', 'message'),
    [
        (torch.zeros(4, 8, dtype=torch.int64), r'shape \[4, 8\]: expected \[B, K, T\]'),
        (torch.zeros(1, 5, 8, dtype=torch.int64), r'shape \[1, 5, 8\]: .* K from 1 to 4'),
        (torch.zeros(1, 0, 8, dtype=torch.int64), r'shape \[1, 0, 8\]: .* K from 1 to 4'),
        (torch.zeros(1, 4, 0, dtype=torch.int64), r'shape \[1, 4, 0\]: .* none of them 0'),
        (torch.zeros(0, 4, 8, dtype=torch.int64), r'shape \[0, 4, 8\]: .* none of them 0'),
        (torch.zeros(1, 4, 8), 'type torch.float32: expected integers'),
        (torch.zeros(1, 4, 8, dtype=torch.bool), 'type torch.bool: expected integers'),
        (torch.full((1, 4, 8), 16), 'from 16 to 16: expected 0 to 15'),
        (torch.tensor([[[3, -1]]]), 'from -1 to 3: expected 0 to 15'),
        (torch.zeros(1, 4, 8, dtype=torch.int64, device='meta'), 'codes are on meta'),
    ],
)
def test_wrong_codes(codes, message):
    model = make_model()
    for method in (model.decode, model.decode_latent):
        with pytest.raises(ValueError, match=message):
            method(codes)


def test_wrong_scales():
    codes = torch.zeros(2, 4, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match='does not renormalize, but got a scale'):
        make_model().decode(codes, torch.ones(2, 1))
    with pytest.raises(ValueError, match=r'scale has shape \[1, 1\]: expected \[2, 1\]'):
        make_model(causal=False, renormalize=True).decode(codes, torch.ones(1, 1))


@pytest.mark.parametrize('number', [0, 5, -1])
def test_wrong_number_of_codebooks(number):
    model = make_model()
    with pytest.raises(ValueError, match=str(number)):
        model.set_num_codebooks(number)
    assert model.num_codebooks == 4


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'decoder': SEANetDecoder(ratios=[4, 2], dimension=8)},
            'dimension .* 8 in the quantizer, 6 in the encoder, 8 in',
        ),
        (
            {'decoder': SEANetDecoder(ratios=[4, 4], dimension=6)},
            'hop_length .* 8 in the encoder, 16 in the decoder',
        ),
        (
            {'quantizer': NoQuantizer(5)},
            'dimension .* 5 in the quantizer, 6 in the encoder, 6 in the decoder',
        ),
        ({'channels': 2}, 'channels .* 2 in the model, 1 in the encoder, 1 in the decoder'),
        ({'channels': 0}, 'channels=0'),
        ({'sample_rate': 0}, 'sample_rate=0: expected an integer >= 1'),
        ({'sample_rate': 44.1}, 'sample_rate=44.1'),
        ({'encoder': nn.Identity()}, 'encoder.channels=None: expected an integer'),
        ({'renormalize': True}, 'renormalize=True needs the loudness of the whole item'),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    seanet = {'ratios': [4, 2], 'dimension': 6, 'causal': True}
    parts = {
        'encoder': SEANetEncoder(**seanet),
        'decoder': SEANetDecoder(**seanet),
        'quantizer': NoQuantizer(6),
        'sample_rate': 1000,
        'channels': 1,
        **changes,
    }
    if 'dimension .* 8' in message:
        parts['quantizer'] = NoQuantizer(8)
    with pytest.raises(ValueError, match=message):
        EncodecModel(**parts)


def test_compression_model_is_abstract():
    with pytest.raises(TypeError, match='abstract'):
        CompressionModel()


@pytest.mark.slow
def test_models_import_nothing_heavy():
    heavy = {
        'torchaudio',
        'soundfile',
        'julius',
        'hydra',
        'omegaconf',
        'dora',
        'flashy',
        'tensorboard',
        'wandb',
        'torch._dynamo',  # takes as long as torch itself
    }
    code = f'import sys, audiocodec.models; print(sorted({heavy} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == '[]'


def two_strides(quantizer=None):
    return EncodecModel(
        SEANetEncoder(dimension=8, n_filters=4, ratios=(4, 2)),
        SEANetDecoder(dimension=8, n_filters=4, ratios=(4, 2)),
        quantizer or ResidualVectorQuantizer(dimension=8, n_q=2, bins=16),
        sample_rate=16000,
        channels=1,
    ).eval()


@pytest.mark.parametrize('samples', [1, 2, 31, 32, 33, 321])
def test_a_higher_output_rate_decodes_the_same_codes_at_that_rate(samples):
    plain = two_strides()
    doubled = EncodecModel(
        plain.encoder,
        SEANetDecoder(dimension=8, n_filters=2, ratios=(4, 2, 2)),
        plain.quantizer,
        sample_rate=16000,
        channels=1,
        output_sample_rate=32000,
    ).eval()
    assert (doubled.sample_rate, doubled.output_sample_rate) == (16000, 32000)
    assert (doubled.frame_rate, doubled.bandwidth) == (plain.frame_rate, plain.bandwidth)
    wav = torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(samples))
    out = doubled(wav)
    assert out.wav.shape == wav.shape
    low = doubled.at_input_rate(wav)
    assert low.shape[-1] == -(-samples // 2)
    codes, _ = plain.encode(low)
    assert torch.equal(out.codes, codes)
    assert doubled.decode(codes).shape[-1] == codes.shape[-1] * 16
    torch.testing.assert_close(doubled.decode(codes)[..., :samples], out.wav)


def test_the_ratios_of_another_output_rate_are_named():
    plain = two_strides()
    parts = (plain.encoder, plain.decoder, plain.quantizer)
    with pytest.raises(ValueError, match='needs 16 in the decoder, got 8'):
        EncodecModel(*parts, sample_rate=16000, channels=1, output_sample_rate=32000)
    with pytest.raises(ValueError, match='8000 Hz is below sample_rate, 16000 Hz'):
        EncodecModel(*parts, sample_rate=16000, channels=1, output_sample_rate=8000)


def test_frozen_parts_get_no_gradient_and_stay_the_same_bit_by_bit():
    model = two_strides().train()
    model.train_only(['decoder'])
    before = {name: value.clone() for name, value in model.frozen_state().items()}
    assert {name.partition('.')[0] for name in before} == {'encoder', 'quantizer'}
    model.train()
    out = model(torch.randn(2, 1, 64))
    out.wav.square().mean().backward()
    assert all(each.grad is None for each in model.encoder.parameters())
    assert all(each.grad is not None for each in model.decoder.parameters())
    assert not model.quantizer.training
    assert model.decoder.training
    assert all(torch.equal(value, before[name]) for name, value in model.frozen_state().items())


DRAWING = {
    'rvq': lambda: ResidualVectorQuantizer(8, n_q=6, bins=4, q_dropout=True),
    'split_rvq': lambda: SplitResidualVectorQuantizer(8, 7, bins=4, q_dropout=True),
    'simvq': lambda: SimVectorQuantizer(8, n_q=6, bins=4, q_dropout=True),
    'rfsq': lambda: ResidualFiniteScalarQuantizer(8, 6, [3, 3], q_dropout=True, dither=0.5),
    'dac': lambda: DACQuantizer(8, n_q=6, bins=4, q_dropout=1.0),
    'grouped': lambda: GroupedQuantizer(
        8, 2, functools.partial(SimVectorQuantizer, n_q=6, bins=4, q_dropout=True)
    ),
    'vae': lambda: VariationalBottleneck(8, 3),
}


@pytest.mark.parametrize('kind', DRAWING)
def test_frozen_quantizers_draw_as_in_training_and_go_on_after_a_resume(kind):
    wav = torch.randn(2, 1, 64)
    model, other = two_strides(DRAWING[kind]()).train(), two_strides(DRAWING[kind]()).train()
    if kind == 'rvq':
        model(wav)  # initializes the codebooks
    model.train_only(['decoder'])
    other.train_only(['decoder'])
    frozen = {name: value.clone() for name, value in model.frozen_state().items()}
    outputs = [model(wav) for _ in range(4)]
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    outputs += [model(wav) for _ in range(4)]
    # each update has its own draws, and a resumed run those of the uninterrupted one
    assert len({out.latents.sum().item() for out in outputs}) > 2
    if kind not in ('dac', 'vae'):
        assert len({out.codes.shape[1] for out in outputs}) > 2
    other.load_state_dict(saved)
    for expected in outputs[4:]:
        assert torch.equal(other(wav).wav, expected.wav)
    assert all(torch.equal(value, frozen[name]) for name, value in model.frozen_state().items())
    # validation draws nothing, inside a stage of training, too
    with eval_mode(model):
        assert torch.equal(model(wav).latents, model(wav).latents)
        assert model(wav).codes.shape[1] == model.total_codebooks
    again = [model(wav).latents for _ in range(4)]
    assert not all(torch.equal(again[0], one) for one in again)


@pytest.mark.parametrize('kind', ['discrete', 'none', 'vae'])
def test_latents_are_decoded_like_what_they_come_from(kind):
    model = two_strides()
    if kind != 'discrete':
        bottleneck = NoQuantizer(8) if kind == 'none' else VariationalBottleneck(8, 3)
        model = EncodecModel(model.encoder, model.decoder, bottleneck, 16000, 1).eval()
    wav = torch.randn(2, 1, 64)
    out = model(wav)
    if kind == 'discrete':
        latents = model.decode_latent(out.codes)
    else:
        latents, _ = model.encode_latent(wav)
        assert latents.shape == (2, 3 if kind == 'vae' else 8, 8)
        assert out.codes.shape == (2, 0, 8)
        with pytest.raises(ValueError, match='latents but no codes'):
            model.encode(wav)
    torch.testing.assert_close(model.synthesize(latents), out.wav)
    for wrong in (latents[0], latents[:, :1], out.codes):
        with pytest.raises(ValueError, match='latents'):
            model.synthesize(wrong)
