import pytest
import torch

from audiocodec.models import EncodecModel, InterleaveStereoCompressionModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.utils.config import build


def mono(channels=1, ratios=(4, 2), **options):
    torch.manual_seed(0)
    seanet = {
        'channels': channels,
        'dimension': 6,
        'n_filters': 4,
        'n_residual_layers': 1,
        'ratios': ratios,
    }
    return EncodecModel(
        SEANetEncoder(**seanet),
        SEANetDecoder(**seanet),
        ResidualVectorQuantizer(dimension=6, n_q=3, bins=16, kmeans_init=False),
        sample_rate=1000,
        channels=channels,
        **options,
    ).eval()


@pytest.mark.parametrize(
    'options', [{}, {'renormalize': True}, {'renormalize': True, 'segment_duration': 0.05}]
)
@pytest.mark.parametrize('per_timestep', [False, True])
@torch.no_grad()
def test_each_channel_goes_through_the_mono_model(options, per_timestep):
    inner = mono(**options)
    model = InterleaveStereoCompressionModel(inner, per_timestep)
    wav = torch.randn(3, 2, 101)
    (left, left_scale), (right, right_scale) = inner.encode(wav[:, :1]), inner.encode(wav[:, 1:])
    codes, scale = model.encode(wav)
    if per_timestep:
        assert torch.equal(codes[..., ::2], left)
        assert torch.equal(codes[..., 1::2], right)
    else:
        assert torch.equal(codes[:, ::2], left)
        assert torch.equal(codes[:, 1::2], right)
    if left_scale is None:
        assert scale is None
    else:
        assert torch.equal(scale, torch.cat([left_scale, right_scale], dim=1))
    wav_hat = model.decode(codes, scale)
    torch.testing.assert_close(wav_hat[:, :1], inner.decode(left, left_scale))
    torch.testing.assert_close(wav_hat[:, 1:], inner.decode(right, right_scale))
    latents = model.decode_latent(codes)
    torch.testing.assert_close(
        latents, torch.cat([inner.decode_latent(left), inner.decode_latent(right)], dim=1)
    )
    before, found_scale = model.encode_latent(wav)
    torch.testing.assert_close(
        before, torch.cat([inner.encode_latent(part)[0] for part in wav.split(1, dim=1)], dim=1)
    )
    assert found_scale is scale is None or torch.equal(found_scale, scale)
    out = model(wav)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.wav, wav_hat[..., :101])
    torch.testing.assert_close(out.latents, latents)
    assert (
        out.bandwidth.item() == pytest.approx(model.bandwidth) == pytest.approx(2 * inner.bandwidth)
    )


def test_figures():
    inner = mono()
    model = InterleaveStereoCompressionModel(inner)
    assert (model.channels, model.sample_rate, model.hop_length, model.frame_rate) == (
        2,
        1000,
        8,
        125.0,
    )
    assert (model.num_codebooks, model.total_codebooks, model.cardinality) == (6, 6, 16)
    model.set_num_codebooks(4)
    assert (model.num_codebooks, inner.num_codebooks) == (4, 2)
    assert model.encode(torch.randn(1, 2, 80))[0].shape == (1, 4, 10)
    with pytest.raises(ValueError, match='3 codebooks cannot be divided between two channels'):
        model.set_num_codebooks(3)
    for number in (0, 8):
        with pytest.raises(ValueError, match=str(number // 2)):
            model.set_num_codebooks(number)


def test_figures_per_timestep():
    model = InterleaveStereoCompressionModel(mono(), per_timestep=True)
    assert (model.hop_length, model.frame_rate) == (4, 250.0)
    assert (model.num_codebooks, model.total_codebooks) == (3, 3)
    model.set_num_codebooks(1)
    codes, _ = model.encode(torch.randn(1, 2, 80))
    assert codes.shape == (1, 1, 20)
    assert model.decode(codes).shape == (1, 2, 80)


def test_it_trains_and_is_built_from_a_configuration():
    seanet = {'dimension': 6, 'n_filters': 4, 'ratios': [4, 2]}
    model = build(
        {
            '_target_': 'audiocodec.models.InterleaveStereoCompressionModel',
            'model': {
                '_target_': 'audiocodec.models.EncodecModel',
                'sample_rate': 1000,
                'channels': 1,
                'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
                'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet},
                'quantizer': {
                    '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
                    'dimension': 6,
                    'n_q': 2,
                    'bins': 8,
                },
            },
        }
    ).train()
    out = model(torch.randn(2, 2, 64))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ('codes', 'message'),
    [
        (torch.zeros(1, 3, 4, dtype=torch.int64), 'an even number of codebooks'),
        (torch.zeros(1, 8, 4, dtype=torch.int64), 'K from 1 to 6'),
        (torch.full((1, 2, 4), 16), 'from 16 to 16'),
    ],
)
def test_wrong_codes(codes, message):
    model = InterleaveStereoCompressionModel(mono())
    for method in (model.decode, model.decode_latent):
        with pytest.raises(ValueError, match=message):
            method(codes)


def test_wrong_uses():
    with pytest.raises(ValueError, match='the wrapped model has 2 channels'):
        InterleaveStereoCompressionModel(mono(channels=2))
    with pytest.raises(
        ValueError, match=r'hop length of the wrapped model, which is odd \(9 samples\)'
    ):
        InterleaveStereoCompressionModel(mono(ratios=(3, 3)), per_timestep=True)
    model = InterleaveStereoCompressionModel(mono(), per_timestep=True)
    with pytest.raises(ValueError, match='an even number of frames'):
        model.decode(torch.zeros(1, 2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r'expected \[B, 2, T\]'):
        model.encode(torch.zeros(1, 1, 8))
    model = InterleaveStereoCompressionModel(mono(renormalize=True))
    with pytest.raises(ValueError, match=r'scale has shape \[1, 1\]: expected \[1, 2\]'):
        model.decode(torch.zeros(1, 2, 4, dtype=torch.int64), torch.ones(1, 1))
