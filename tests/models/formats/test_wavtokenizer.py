import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocodec.models.formats import wavtokenizer
from audiocodec.models.formats.common.keys import make_model
from audiocodec.utils.config import build

GOLDEN = Path(__file__).parents[2] / 'fixtures' / 'wavtokenizer'
# a small version of the published model, and one in which every option differs
COMMON = {
    'num_filters': 2,
    'hidden_size': 8,
    'codebook_size': 16,
    'codebook_dim': 8,
    'decoder_hidden_size': 8,
    'decoder_intermediate_size': 12,
    'decoder_num_layers': 2,
    'decoder_attention_num_groups': 4,
}
CONFIGS = {
    'published': {**COMMON, 'upsampling_ratios': [6, 5, 4], 'num_lstm_layers': 2},
    'other': {
        **COMMON,
        'sampling_rate': 16000,
        'upsampling_ratios': [3, 4],
        'num_residual_layers': 2,
        'dilation_growth_rate': 3,
        'compress': 1,
        'use_conv_shortcut': False,
        'use_causal_conv': True,
        'pad_mode': 'constant',
        'kernel_size': 5,
        'last_kernel_size': 3,
        'residual_kernel_size': 5,
        'num_lstm_layers': 1,
        'adanorm_num_embeddings': 2,
        'decoder_num_layers': 1,
        'decoder_attention_num_groups': 2,
        'norm_eps': 1e-4,
    },
    'group norm': {
        **COMMON,
        'upsampling_ratios': [4, 2],
        'norm_type': 'time_group_norm',
        'pad_mode': 'replicate',
    },
    'odd hop': {**COMMON, 'upsampling_ratios': [5, 3], 'num_lstm_layers': 1},
}


@pytest.fixture(scope='session')
def transformers():
    package = pytest.importorskip('transformers')
    if not hasattr(package, 'WavTokenizerModel'):
        pytest.skip(f'transformers {package.__version__} has no WavTokenizer')
    return package


@torch.no_grad()
def make_theirs(transformers, name):
    torch.manual_seed(0)
    model = transformers.WavTokenizerModel(transformers.WavTokenizerConfig(**CONFIGS[name])).eval()
    for parameter_name, parameter in model.named_parameters():
        if 'norm' in parameter_name and 'parametrizations' not in parameter_name:
            parameter.add_(0.2 * torch.randn_like(parameter))  # all norms start alike
    book = model.encoder_model.quantizer.codebook
    latents = model.encoder_model.encoder(0.3 * torch.randn(1, 1, 4000))
    book.embed.copy_(latents.mean(2) + latents.std() * torch.randn_like(book.embed))
    book.cluster_size.uniform_(1, 2)
    book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
    return model


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request, transformers, tmp_path_factory):
    """A model of transformers, its folder, and ours read from it."""
    theirs = make_theirs(transformers, request.param)
    folder = tmp_path_factory.mktemp('wavtokenizer')
    theirs.save_pretrained(folder)
    return theirs, folder, make_model(*wavtokenizer.read(folder))


@torch.no_grad()
def test_codes_and_waveforms_are_those_of_transformers(pair, assert_same_codes):
    theirs, _, ours = pair
    hop = ours.hop_length
    for length in (1, hop - 1, hop, hop + 1, 2999):
        wav = 0.3 * torch.randn(3, 1, length)
        codes, scale = ours.encode(wav)
        expected = theirs.encode(wav).audio_codes
        assert scale is None
        assert_same_codes(ours, ours.encode_latent(wav)[0], codes, expected)
        decoded, reference = ours.decode(expected), theirs.decode(expected).audio_values
        frames = -(-length // hop)
        assert decoded.shape == (3, 1, frames * hop)
        # With an odd hop, transformers returns one sample more.
        assert reference.shape[-1] == frames * hop + hop % 2
        torch.testing.assert_close(decoded, reference[..., : frames * hop], rtol=0, atol=1e-4)


def test_rates_are_those_of_the_configuration(pair):
    theirs, _, ours = pair
    assert (ours.sample_rate, ours.hop_length) == (
        theirs.config.sampling_rate,
        theirs.config.hop_length,
    )
    assert (ours.num_codebooks, ours.cardinality) == (1, 16)


def test_a_folder_is_written_back_unchanged(pair, tmp_path):
    theirs, folder, ours = pair
    notes = wavtokenizer.save(ours, tmp_path / 'out', 'From a test.')
    assert len(notes) == ours.hop_length % 2
    for name in ('config.json', 'out/config.json'):
        path = (tmp_path / name) if name.startswith('out') else folder / name
        config = json.loads(path.read_text())
        assert {key: config[key] for key in CONFIGS['published']} == {
            key: getattr(theirs.config, key) for key in CONFIGS['published']
        }
    written = load_file(tmp_path / 'out' / 'model.safetensors')
    original = load_file(folder / 'model.safetensors')
    assert written.keys() == original.keys()
    for name, value in original.items():
        torch.testing.assert_close(written[name], value, rtol=0, atol=0, msg=name)
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'From a test.' in card
    assert f'{ours.hop_length:g}' in (tmp_path / 'out' / 'preprocessor_config.json').read_text()


def small_node(encoder=None, decoder=None, quantizer=None, **model):
    """Return the node of one of our own models that transformers supports."""
    return {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 8000,
        'channels': 1,
        'encoder': {
            '_target_': 'audiocodec.modules.SEANetEncoder',
            'dimension': 6,
            'n_filters': 2,
            'n_residual_layers': 1,
            'ratios': [4, 2],
            'lstm': 1,
            **(encoder or {}),
        },
        'decoder': {
            '_target_': 'audiocodec.modules.VocosDecoder',
            'dimension': 6,
            'hop_length': 8,
            'dim': 8,
            'intermediate_dim': 12,
            'num_layers': 2,
            'num_groups': 4,
            **(decoder or {}),
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 6,
            'n_q': 1,
            'bins': 8,
            **(quantizer or {}),
        },
        **model,
    }


@torch.no_grad()
def make_ours(**options):
    torch.manual_seed(0)
    model = build(small_node(**options)).eval()
    for name, parameter in model.decoder.named_parameters():
        if 'norm' in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    latents = model.encoder(0.3 * torch.randn(1, 1, 999))
    book = model.quantizer.codebooks.embed
    book.copy_(latents.mean(2) + latents.std() * torch.randn_like(book))
    return model


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'encoder': {'norm': 'weight_norm', 'true_skip': False}},
        {'encoder': {'norm': 'spectral_norm', 'disable_norm_outer_blocks': 1}},
        {'encoder': {'norm': 'time_group_norm'}, 'decoder': {'adanorm_num_embeddings': 3}},
        {'encoder': {'causal': True, 'pad_mode': 'constant'}, 'decoder': {'n_fft': 32}},
    ],
)
@torch.no_grad()
def test_transformers_computes_the_same_as_ours(transformers, options, tmp_path):
    model = make_ours(**options)
    assert wavtokenizer.save(model, tmp_path) == []
    loaded = wavtokenizer.Loaded(tmp_path)
    back = make_model(*wavtokenizer.read(tmp_path))
    wav = 0.3 * torch.randn(2, 1, 405)
    codes, _ = model.encode(wav)
    assert torch.equal(loaded.encode(wav)[0], codes)
    assert torch.equal(back.encode(wav)[0], codes)
    expected = model.decode(codes)
    for other in (loaded.decode(codes, None), back.decode(codes)):
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'quantizer': {'n_q': 2}}, 'quantizer.n_q=2: only 1 is supported'),
        ({'encoder': {'lstm': 0}}, 'encoder.lstm=0: at least one layer is needed'),
        ({'encoder': {'activation': 'SiLU'}}, "encoder.activation='SiLU': only 'ELU'"),
        ({'encoder': {'pad_mode': 'circular'}}, "encoder.pad_mode='circular': only 'constant'"),
        ({'decoder': {'attention': False}}, 'decoder.attention=False: only True'),
        ({'decoder': {'padding': 'center'}}, "decoder.padding='center': only 'same'"),
        ({'decoder': {'n_fft': 30}}, 'decoder.n_fft=30: only None or 32 is supported'),
        ({'renormalize': True}, 'renormalize=True: only False'),
        (
            {'encoder': {'norm': 'time_group_norm', 'disable_norm_outer_blocks': 1}},
            'encoder.disable_norm_outer_blocks=1 with time_group_norm',
        ),
    ],
)
def test_options_without_a_counterpart_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match="the format 'hf' does not support this model") as error:
        wavtokenizer.save(make_ours(**options), tmp_path)
    assert message in str(error.value)


def test_other_models_are_refused(make_codec, tmp_path):
    with pytest.raises(ValueError, match='it needs an EncodecModel of SEANetEncoder'):
        wavtokenizer.save(make_codec(), tmp_path)


def test_a_projected_codebook_is_refused():
    with pytest.raises(ValueError, match='codebook_dim=4 differs from hidden_size=8'):
        wavtokenizer.model_config({**COMMON, 'codebook_dim': 4})


def test_defaults_are_those_of_transformers(transformers):
    config = transformers.WavTokenizerConfig().to_dict()
    assert {key: config[key] for key in wavtokenizer.DEFAULTS} == wavtokenizer.DEFAULTS


def test_published_size():
    """The model with 40 codes per second, by the defaults of `transformers`."""
    node = wavtokenizer.model_config({})
    with torch.device('meta'):
        model = build(node)
    assert (model.frame_rate, model.hop_length, model.cardinality) == (40, 600, 4096)
    assert model.bandwidth_of(1) == pytest.approx(0.48)
    assert model.decoder.head.n_fft == 2400


@torch.no_grad()
def test_golden(assert_same_codes):
    """Codes and waveform that transformers computed, without transformers."""
    model = make_model(*wavtokenizer.read(GOLDEN))
    expected = load_file(GOLDEN / 'io.safetensors')
    codes, _ = model.encode(expected['wav'])
    assert_same_codes(model, model.encode_latent(expected['wav'])[0], codes, expected['codes'])
    decoded = model.decode(expected['codes'])
    torch.testing.assert_close(decoded, expected['decoded'], rtol=0, atol=1e-4)


@torch.no_grad()
def write_golden():
    """Write the fixture: `PYTHONPATH=. python tests/models/formats/test_wavtokenizer.py`."""
    import transformers

    model = make_theirs(transformers, 'published')
    model.save_pretrained(GOLDEN)
    wav = 0.3 * torch.randn(2, 1, 2999)
    codes = model.encode(wav).audio_codes
    decoded = model.decode(codes).audio_values
    save_file({'wav': wav, 'codes': codes, 'decoded': decoded}, GOLDEN / 'io.safetensors')


if __name__ == '__main__':
    write_golden()
