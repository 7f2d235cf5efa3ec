import json

import pytest
import torch
import transformers

from audiocodec.models import DAC, CompressionModel, InterleaveStereoCompressionModel

SMALL = {
    'encoder_hidden_size': 4,
    'decoder_hidden_size': 64,
    'codebook_size': 16,
    'codebook_dim': 4,
}
# strides as at 44.1 kHz, and as at 16 and 24 kHz, where one is odd
STRIDES = {'even': [2, 4, 8, 8], 'odd': [2, 4, 5, 8]}
LEVELS = 3


@pytest.fixture(scope='module', params=STRIDES)
def pair(request, tmp_path_factory):
    torch.manual_seed(0)
    theirs = transformers.DacModel(
        transformers.DacConfig(
            **SMALL,
            downsampling_ratios=STRIDES[request.param],
            n_codebooks=LEVELS,
            sampling_rate=24000,
        )
    ).eval()
    folder = tmp_path_factory.mktemp('dac') / request.param
    theirs.save_pretrained(folder)
    return theirs, CompressionModel.get_pretrained(str(folder)), folder


def whole_frames(wav, hop_length):
    """Pad a waveform as the feature extractor does."""
    extractor = transformers.DacFeatureExtractor(sampling_rate=24000, hop_length=hop_length)
    return extractor([item[0].numpy() for item in wav], sampling_rate=24000, return_tensors='pt')[
        'input_values'
    ]


@pytest.mark.slow
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    hop = theirs.config.hop_length
    assert isinstance(ours, DAC)
    for length in (1, hop - 1, hop, 5 * hop, 2999):
        wav = 0.3 * torch.randn(3, 1, length)
        completed = whole_frames(wav, hop)
        for n in range(1, LEVELS + 1):
            ours.set_num_codebooks(n)
            codes, scale = ours.encode(wav)
            expected = theirs.encode(completed, n_quantizers=n)
            assert codes.shape == (3, n, -(-length // hop))
            assert torch.equal(codes, expected.audio_codes)
            assert scale is None
            wav_hat = ours.decode(codes)
            assert wav_hat.shape == (3, 1, codes.shape[-1] * hop)
            decoded = theirs.decode(audio_codes=expected.audio_codes).audio_values
            missing = wav_hat.shape[-1] - decoded.shape[-1]
            assert missing == (8 if hop == 320 else 0)
            torch.testing.assert_close(
                wav_hat[:, 0, : decoded.shape[-1]], decoded, rtol=0, atol=1e-4
            )
            assert not wav_hat[..., decoded.shape[-1] :].any()
            torch.testing.assert_close(
                ours.decode_latent(codes), expected.quantized_representation, rtol=0, atol=1e-4
            )
            out = ours(wav)
            assert out.wav.shape == wav.shape
            assert torch.equal(out.codes, codes)
            torch.testing.assert_close(out.wav, wav_hat[..., :length], rtol=0, atol=1e-4)
            assert out.bandwidth.item() == pytest.approx(ours.bandwidth)


@torch.no_grad()
def test_latents_before_the_quantizer_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    wav = 0.3 * torch.randn(3, 1, 2999)
    latents, scale = ours.encode_latent(wav)
    torch.testing.assert_close(latents, theirs.encoder(whole_frames(wav, theirs.config.hop_length)))
    assert torch.equal(
        theirs.quantizer(latents, LEVELS)[1],
        theirs.encode(whole_frames(wav, theirs.config.hop_length)).audio_codes,
    )
    assert scale is None


def test_figures(pair):
    theirs, ours, _ = pair
    ours.set_num_codebooks(2)
    hop = theirs.config.hop_length
    assert (ours.sample_rate, ours.channels, ours.hop_length, ours.cardinality) == (
        24000,
        1,
        hop,
        16,
    )
    assert (ours.num_codebooks, ours.total_codebooks) == (2, LEVELS)
    assert ours.bandwidth == pytest.approx(2 * 4 * 24000 / hop / 1000)


def test_gradients_reach_every_parameter(pair):
    model = CompressionModel.get_pretrained(str(pair[2])).train()
    out = model(0.3 * torch.randn(2, 1, 2999))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ] == []


@torch.no_grad()
def test_stereo(pair):
    model = InterleaveStereoCompressionModel(pair[1])
    model.set_num_codebooks(2 * LEVELS)
    wav = torch.randn(3, 2, 999)
    codes, _ = model.encode(wav)
    assert torch.equal(codes[:, ::2], pair[1].encode(wav[:, :1])[0])
    assert torch.equal(codes[:, 1::2], pair[1].encode(wav[:, 1:])[0])
    assert model(wav).wav.shape == wav.shape


def test_wrong_uses(pair):
    model = pair[1]
    codes = torch.zeros(1, LEVELS, 4, dtype=torch.int64)
    for number in (0, LEVELS + 1):
        with pytest.raises(
            ValueError, match=f'cannot use {number} codebooks: this model can use 1 to {LEVELS}'
        ):
            model.set_num_codebooks(number)
    with pytest.raises(ValueError, match='does not renormalize'):
        model.decode(codes, torch.ones(1, 1))
    with pytest.raises(ValueError, match='from 16 to 16'):
        model.decode(codes + 16)
    with pytest.raises(ValueError, match=r'expected \[B, 1, T\]'):
        model.encode(torch.zeros(1, 2, 640))


def test_folders_that_cannot_be_loaded(pair, tmp_path):
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).write_bytes((pair[2] / name).read_bytes())
    config = json.loads((tmp_path / 'config.json').read_text())
    for changes, message in (
        ({'n_codebooks': 4}, 'missing_keys'),
        ({'codebook_size': 32}, r'3 mismatched_keys .*codebook\.weight'),
        ({'codebook_size': 'x'}, 'transformers cannot build its DacModel'),
    ):
        (tmp_path / 'config.json').write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=message) as error:
            CompressionModel.get_pretrained(str(tmp_path))
        assert str(tmp_path) in str(error.value)
    (tmp_path / 'model.safetensors').write_bytes(
        (pair[2] / 'model.safetensors').read_bytes()[:1000]
    )
    with pytest.raises(ValueError, match=r'model\.safetensors cannot be read as safetensors'):
        CompressionModel.get_pretrained(str(tmp_path))
    (tmp_path / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    with pytest.raises(ValueError, match=r'has no model\.safetensors'):
        CompressionModel.get_pretrained(str(tmp_path))
