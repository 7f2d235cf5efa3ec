import pytest
import torch
import transformers

from audiocodec.models import CompressionModel, InterleaveStereoCompressionModel, Mimi

SMALL = {
    'hidden_size': 16,
    'num_filters': 2,
    'codebook_size': 16,
    'codebook_dim': 8,
    'num_quantizers': 4,
    'vector_quantization_hidden_dimension': 8,
    'upsample_groups': 16,
    'num_hidden_layers': 1,
    'intermediate_size': 16,
    'num_attention_heads': 2,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'upsampling_ratios': [4, 3, 2],
}
HOP = 48


@pytest.fixture(scope='module', params=[1, 2], ids=['mono', 'stereo'])
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs = transformers.MimiModel(
        transformers.MimiConfig(**SMALL, audio_channels=request.param)
    ).eval()
    with torch.no_grad():
        for name, buffer in theirs.named_buffers():
            if name.endswith('embed_sum'):
                buffer.normal_()
    folder = tmp_path_factory.mktemp('mimi') / f'{request.param}'
    theirs.save_pretrained(folder)
    return theirs, CompressionModel.get_pretrained(str(folder)), folder


@pytest.mark.slow
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    assert isinstance(ours, Mimi)
    used = set()
    for length in (1, HOP - 1, HOP, 8 * HOP, 2999):
        wav = torch.randn(3, ours.channels, length)
        for n in range(1, 5):
            ours.set_num_codebooks(n)
            codes, scale = ours.encode(wav)
            assert codes.shape == (3, n, -(-length // HOP))
            assert torch.equal(codes, theirs.encode(wav, num_quantizers=n).audio_codes)
            assert scale is None
            wav_hat = ours.decode(codes)
            assert wav_hat.shape == (3, ours.channels, codes.shape[-1] * HOP)
            torch.testing.assert_close(
                wav_hat, theirs.decode(codes).audio_values, rtol=0, atol=1e-4
            )
            out = ours(wav)
            assert torch.equal(out.codes, codes)
            torch.testing.assert_close(out.wav, wav_hat[..., :length], rtol=0, atol=1e-4)
            torch.testing.assert_close(out.latents, ours.decode_latent(codes))
            assert out.latents.shape == (3, 16, codes.shape[-1])
            assert out.bandwidth.item() == pytest.approx(ours.bandwidth)
            used.update(codes.unique().tolist())
    assert len(used) > 4


@torch.no_grad()
def test_latents_before_the_quantizer_give_the_codes_of_transformers(pair):
    theirs, ours, _ = pair
    wav = torch.randn(3, ours.channels, 999)
    latents, scale = ours.encode_latent(wav)
    assert latents.shape == (3, 16, 21)
    assert latents.std() > 0
    assert torch.equal(
        theirs.quantizer.encode(latents, 4).transpose(0, 1), theirs.encode(wav).audio_codes
    )
    assert scale is None


def test_figures(pair):
    ours = pair[1]
    ours.set_num_codebooks(2)
    assert (ours.sample_rate, ours.hop_length, ours.frame_rate, ours.cardinality) == (
        24000,
        HOP,
        500.0,
        16,
    )
    assert (ours.num_codebooks, ours.total_codebooks) == (2, 4)
    assert ours.bandwidth == pytest.approx(2 * 4 * 500 / 1000)


@torch.no_grad()
def test_stereo_from_mono(pair):
    if pair[1].channels == 2:
        with pytest.raises(ValueError, match='has 2 channels'):
            InterleaveStereoCompressionModel(pair[1])
        return
    model = InterleaveStereoCompressionModel(pair[1], per_timestep=True)
    wav = torch.randn(3, 2, 999)
    assert torch.equal(model.encode(wav)[0][..., 1::2], pair[1].encode(wav[:, 1:])[0])
    assert model(wav).wav.shape == wav.shape


def test_wrong_uses(pair):
    model = pair[1]
    codes = torch.zeros(1, 4, 4, dtype=torch.int64)
    for number in (0, 5):
        with pytest.raises(
            ValueError, match=f'cannot use {number} codebooks: this model can use 1 to 4'
        ):
            model.set_num_codebooks(number)
    with pytest.raises(ValueError, match='does not renormalize'):
        model.decode(codes, torch.ones(1, 1))
    with pytest.raises(ValueError, match='from 16 to 16'):
        model.decode_latent(codes + 16)
    with pytest.raises(ValueError, match=r'expected \[B, '):
        model.encode(torch.zeros(1, 3, 640))


def test_the_published_frame_rate():
    config = transformers.MimiConfig()
    assert round(config.sampling_rate / config.frame_rate) == 1920


def test_half_a_model_is_refused():
    theirs = transformers.MimiModel(transformers.MimiConfig(**SMALL))
    theirs.decoder = None
    with pytest.raises(ValueError, match='this Mimi model has no decoder'):
        Mimi(theirs)
