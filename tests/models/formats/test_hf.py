import json
import math
import subprocess
import sys

import pytest
import torch
import transformers
from huggingface_hub import constants

from audiocodec.models import CompressionModel, EncodecModel
from audiocodec.models.formats import hf

# small versions of the published models: causal at 24 kHz, one bandwidth at 32 kHz, segments at
# 48 kHz
COMMON = {'num_filters': 4, 'hidden_size': 8, 'codebook_size': 16, 'num_lstm_layers': 1}
CONFIGS = {
    'mono': {**COMMON, 'upsampling_ratios': [8, 5, 4, 2], 'num_lstm_layers': 2},
    'music': {
        **COMMON,
        'sampling_rate': 32000,
        'upsampling_ratios': [8, 5, 4, 4],
        'use_causal_conv': False,
        'use_conv_shortcut': False,
        'pad_mode': 'replicate',
        'num_residual_layers': 2,
        'kernel_size': 5,
        'last_kernel_size': 3,
        'residual_kernel_size': 5,
        'dilation_growth_rate': 3,
        'compress': 4,
    },
    'stereo': {
        **COMMON,
        'sampling_rate': 960,
        'upsampling_ratios': [4, 4],
        'audio_channels': 2,
        'normalize': True,
        'chunk_length_s': 1.0,
        'overlap': 0.01,
        'norm_type': 'time_group_norm',
        'use_causal_conv': False,
    },
    'chunks': {
        **COMMON,
        'sampling_rate': 1000,
        'upsampling_ratios': [3, 2],
        'chunk_length_s': 0.301,
        'overlap': 0.4,
        'trim_right_ratio': 0.5,
    },
}
LEVELS = 3


def make_model(name, levels=LEVELS):
    torch.manual_seed(0)
    options = CONFIGS[name]
    rate = math.ceil(options.get('sampling_rate', 24000) / math.prod(options['upsampling_ratios']))
    bits = int(math.log2(options['codebook_size']))
    bandwidths = [
        (n * bits * rate + 0.5) / 1000 for n in range(1, levels + 1)
    ]  # of every number of codebooks
    model = transformers.EncodecModel(
        transformers.EncodecConfig(**options, target_bandwidths=bandwidths)
    ).eval()
    with torch.no_grad():
        size = model.encoder(torch.randn(1, options.get('audio_channels', 1), 500)).std()
        for level, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.normal_(std=size * 0.7**level)
            layer.codebook.cluster_size.uniform_(1, 2)
            layer.codebook.embed_avg.copy_(
                layer.codebook.embed * layer.codebook.cluster_size[:, None]
            )
    return model


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request, tmp_path_factory):
    """A model of transformers, and ours loaded from its folder."""
    theirs = make_model(request.param)
    folder = tmp_path_factory.mktemp('hf') / request.param
    theirs.save_pretrained(folder)
    return theirs, CompressionModel.get_pretrained(str(folder)), folder


def lengths(config):
    """Return lengths: odd, shorter than a frame, and around the borders of segments."""
    if config.chunk_length is None:
        return 1, config.hop_length + 1, 8 * config.hop_length, 2999
    # transformers stacks the chunks, so that the last but one must be whole unless it is the first
    stride, chunk = config.chunk_stride, config.chunk_length
    return 1, stride - 1, stride, stride + 1, chunk, 2 * stride + chunk, 2 * stride + chunk + 1


def flat(encoded):
    """Codes [B, K, T] and scales of the chunks of transformers, concatenated."""
    codes, scales, padding = encoded
    codes = torch.cat(list(codes), dim=-1)
    return codes[..., : codes.shape[-1] - padding], None if scales[0] is None else torch.cat(
        scales, dim=1
    )


@pytest.mark.slow
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_transformers(pair, assert_same_codes):
    theirs, ours, _ = pair
    assert isinstance(ours, EncodecModel)
    assert not ours.training
    config = theirs.config
    for length in lengths(config):
        wav = 0.3 * torch.randn(3, config.audio_channels, length)
        latents, _ = ours._to_latents(wav, ours.segments)
        for n, bandwidth in enumerate(config.target_bandwidths, start=1):
            encoded = theirs.encode(wav, bandwidth=bandwidth, return_dict=False)
            expected, expected_scale = flat(encoded)
            ours.set_num_codebooks(n)
            codes, scale = ours.encode(wav)
            assert codes.shape[1] == n
            assert_same_codes(ours, latents, codes, expected)
            if config.normalize:
                torch.testing.assert_close(scale, expected_scale)
            else:
                assert scale is None
            decoded = theirs.decode(*encoded[:2], last_frame_pad_length=encoded[2]).audio_values
            wav_hat = ours.decode(expected, scale)
            torch.testing.assert_close(wav_hat, decoded, rtol=0, atol=1e-4)
        out = ours(wav)
        assert torch.equal(out.codes, codes)
        torch.testing.assert_close(
            out.wav, ours.decode(codes, scale)[..., :length], rtol=0, atol=1e-5
        )


@torch.no_grad()
def test_codes_are_equal_where_rounding_is_small(pair):
    theirs, ours, folder = pair
    wav = torch.randn(3, ours.channels, lengths(theirs.config)[-1], dtype=torch.float64)
    encoded = (
        make_model(folder.name)
        .double()
        .encode(wav, bandwidth=theirs.config.target_bandwidths[-1], return_dict=False)
    )
    codes, _ = CompressionModel.get_pretrained(str(folder)).double().encode(wav)
    assert torch.equal(codes, flat(encoded)[0])


def test_figures(pair):
    theirs, ours, _ = pair
    config = theirs.config
    ours.set_num_codebooks(LEVELS)
    assert (ours.sample_rate, ours.channels) == (config.sampling_rate, config.audio_channels)
    assert (ours.hop_length, ours.cardinality, ours.total_codebooks) == (
        config.hop_length,
        16,
        LEVELS,
    )
    assert ours.frame_rate == config.sampling_rate / config.hop_length


def test_it_trains_on(pair):
    model = CompressionModel.get_pretrained(str(pair[2])).train()
    before = model.quantizer.codebooks.embed.clone()
    out = model(0.3 * torch.randn(2, model.channels, 2 * model.hop_length * 20))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.abs().max() > 0] == []
    assert not torch.equal(model.quantizer.codebooks.embed, before)
    assert model.quantizer.codebooks.inited.all()


@pytest.fixture
def folder(tmp_path):
    make_model('mono').save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **changes):
    path = folder / 'config.json'
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != 'absent'}))


def test_weights_as_pytorch_archive_of_the_older_layout(folder):
    names = {
        'parametrizations.weight.original0': 'weight_g',
        'parametrizations.weight.original1': 'weight_v',
    }
    state = {}
    for name, value in make_model('mono').state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value
    wav = torch.randn(1, 1, 1000)
    expected = CompressionModel.get_pretrained(str(folder)).encode(wav)[0]
    (folder / 'model.safetensors').unlink()
    torch.save(state, folder / 'pytorch_model.bin')
    assert torch.equal(CompressionModel.get_pretrained(str(folder)).encode(wav)[0], expected)
    assert torch.equal(
        CompressionModel.get_pretrained(str(folder / 'pytorch_model.bin')).encode(wav)[0], expected
    )


def test_configuration_is_translated_key_by_key():
    published = {
        'model_type': 'encodec',
        'audio_channels': 2,
        'chunk_length_s': 1.0,
        'codebook_size': 1024,
        'normalize': True,
        'norm_type': 'time_group_norm',
        'overlap': 0.01,
        'sampling_rate': 48000,
        'target_bandwidths': [3.0, 6.0, 12.0, 24.0],
        'use_causal_conv': False,
    }
    seanet = {
        'channels': 2,
        'dimension': 128,
        'n_filters': 32,
        'n_residual_layers': 1,
        'ratios': [8, 5, 4, 2],
        'activation': 'ELU',
        'activation_params': {'alpha': 1.0},
        'norm': 'time_group_norm',
        'kernel_size': 7,
        'last_kernel_size': 7,
        'residual_kernel_size': 3,
        'dilation_base': 2,
        'causal': False,
        'pad_mode': 'reflect',
        'true_skip': False,
        'compress': 2,
        'lstm': 2,
    }
    assert hf.model_config(published) == {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 48000,
        'channels': 2,
        'renormalize': True,
        'segment_duration': 1.0,
        'overlap': 0.01,
        'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
        'decoder': {
            '_target_': 'audiocodec.modules.SEANetDecoder',
            **seanet,
            'trim_right_ratio': 1.0,
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 128,
            'n_q': 16,
            'bins': 1024,
            'q_dropout': True,
            'kmeans_iters': 50,
        },
    }


@pytest.mark.parametrize(
    ('published', 'levels', 'n_q'),
    [
        ({'sampling_rate': 24000}, None, 32),
        (
            {
                'sampling_rate': 32000,
                'target_bandwidths': [2.2],
                'codebook_size': 2048,
                'upsampling_ratios': [8, 5, 4, 4],
            },
            4,
            4,
        ),
        (
            {'target_bandwidths': [9.0], 'codebook_size': 64},
            12,
            12,
        ),  # from a version that counted 10 bits for every code
        ({'target_bandwidths': [9.0], 'codebook_size': 64}, 20, 20),
        (
            {'target_bandwidths': [9.0], 'codebook_size': 64},
            19,
            20,
        ),  # the error comes with the weights
    ],
)
def test_number_of_codebooks(published, levels, n_q):
    assert hf.model_config(published, levels)['quantizer']['n_q'] == n_q


def test_defaults_are_those_of_transformers():
    config = transformers.EncodecConfig()
    for name, value in hf.DEFAULTS.items():
        theirs = getattr(config, name)
        expected = config.hidden_size if name == 'codebook_dim' else value
        assert (list(theirs) if isinstance(theirs, tuple) else theirs) == expected, name


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'num_filters': 8},
            r'of another shape \(encoder.model.0.conv.conv.bias \[4\] instead of \[8\]',
        ),
        (
            {'codebook_size': 32},
            r'of another shape \(quantizer.codebooks.embed \[3, 16, 8\] instead of',
        ),
        ({'num_residual_layers': 2}, 'missing .* unexpected'),
        ({'codebook_dim': 4}, 'codebook_dim=4 differs from hidden_size=8'),
        ({'chunk_length_s': 1.0}, r'chunk_length_s=1.0 needs an overlap'),
        ({'chunk_length_s': 1e-9, 'overlap': 0.1}, 'a segment of 0 samples'),
        ({'normalize': True}, 'renormalize=True needs the loudness'),
        ({'norm_type': 'layer_norm'}, "norm='layer_norm' is unknown"),
        ({'pad_mode': 'zero'}, "pad_mode='zero' is unknown"),
        ({'upsampling_ratios': 'abc'}, 'damaged configuration'),
        ({'target_bandwidths': []}, 'damaged configuration'),
        ({'sampling_rate': 'fast'}, 'damaged configuration'),
        ({'model_type': 'bert'}, "model_type 'bert': only encodec, dac, mimi, "),
        ({'model_type': 'absent'}, 'model_type None'),
    ],
)
def test_configurations_that_cannot_be_loaded(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        CompressionModel.get_pretrained(str(folder))
    assert str(folder) in str(error.value)


def test_damaged_folders(folder):
    path = folder / 'model.safetensors'
    whole = path.read_bytes()
    for keep in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r'model\.safetensors cannot be read as safetensors'):
            CompressionModel.get_pretrained(str(folder))
    path.unlink()
    with pytest.raises(
        ValueError, match=r'no weights: expected model\.safetensors or pytorch_model\.bin'
    ):
        CompressionModel.get_pretrained(str(folder))
    (folder / 'config.json').write_text('{')
    with pytest.raises(ValueError, match=r'config\.json cannot be read as JSON'):
        CompressionModel.get_pretrained(str(folder))
    (folder / 'config.json').write_text('[]')
    with pytest.raises(ValueError, match=r'config\.json contains a list'):
        CompressionModel.get_pretrained(str(folder))


def test_a_codebook_is_missing(folder):
    state = {
        name: value
        for name, value in make_model('mono').state_dict().items()
        if '.layers.1.codebook' not in name
    }
    (folder / 'model.safetensors').unlink()
    torch.save(state, folder / 'pytorch_model.bin')
    with pytest.raises(
        ValueError, match=r'must be numbered from 0 and have the same shape, got \{0: .*, 2: '
    ):
        CompressionModel.get_pretrained(str(folder))


@pytest.mark.slow
def test_it_needs_no_transformers(folder):
    code = (
        f'import sys; from audiocodec.models import CompressionModel; '
        f'CompressionModel.get_pretrained({str(folder)!r}); '
        f'print({{"transformers", "huggingface_hub", "torchaudio", "dora"}} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == 'set()'


@pytest.mark.parametrize('archive', [False, True])
def test_a_cached_model_needs_no_network(folder, tmp_path_factory, monkeypatch, archive):
    state = make_model('mono').state_dict()
    if archive:
        (folder / 'model.safetensors').unlink()
        torch.save(state, folder / 'pytorch_model.bin')
    cache = tmp_path_factory.mktemp('cache')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(cache))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    revision, repository = 'f' * 40, cache / 'models--facebook--encodec_24khz'
    (repository / 'refs').mkdir(parents=True)
    (repository / 'refs' / 'main').write_text(revision)
    (repository / 'snapshots').mkdir()
    folder.rename(repository / 'snapshots' / revision)
    model = CompressionModel.get_pretrained('facebook/encodec_24khz')
    assert (model.sample_rate, model.total_codebooks) == (24000, LEVELS)
    assert torch.equal(model.encoder.model[0].conv.conv.bias, state['encoder.layers.0.conv.bias'])
