import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiocodec.models import EncodecModel
from audiocodec.models.formats import snac as snac_format
from audiocodec.models.formats.common.keys import make_model
from audiocodec.modules.networks.snac import NoiseBlock
from audiocodec.utils import config

# Models of snac 1.2.1 with random weights, rounded to half precision, and what they compute.
FIXTURES = Path(__file__).parents[2] / 'fixtures' / 'snac'
SMALL = {
    'sampling_rate': 24000,
    'encoder_dim': 8,
    'encoder_rates': [2, 3],
    'decoder_dim': 32,
    'decoder_rates': [3, 2],
    'attn_window_size': None,
    'codebook_size': 16,
    'codebook_dim': 4,
    'vq_strides': [4, 2, 1],
    'noise': False,
    'depthwise': True,
}
ATTENTION = {'encoder_dim': 16, 'decoder_dim': 128, 'attn_window_size': 8}


@pytest.fixture
def package():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it uses torch.jit, which is deprecated
        return pytest.importorskip('snac')


def load(folder):
    return make_model(*snac_format.read(folder))


def node_of(**options):
    return snac_format.model_config({**SMALL, **options})


def make_ours(**options):
    """Build a model in the package's configuration, with random weights."""
    torch.manual_seed(0)
    node = node_of(**options)
    model = make_model(node, random_state(node))
    model.built_from = node
    return model


def random_state(node):
    model = config.build(node)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.state_dict()


@torch.no_grad()
def spread_codebooks(theirs, wav):
    """Set the entries of a package's model to projected latents, so that many are in use."""
    residual = theirs.encoder(theirs.preprocess(wav))
    for level in theirs.quantizer.quantizers:
        mean = residual.unflatten(-1, (-1, level.stride)).mean(-1)
        projected = level.in_proj(mean).transpose(1, 2).flatten(0, 1)
        chosen = torch.randperm(len(projected))[: level.codebook_size]
        level.codebook.weight[: len(chosen)] = projected[chosen]
        residual = residual - level(residual)[0]


@torch.no_grad()
def make_theirs(package, folder, **options):
    """Build a model of the package with random weights, and write its folder."""
    torch.manual_seed(0)
    theirs = package.SNAC(**{**SMALL, **options}).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    spread_codebooks(theirs, torch.randn(4, 1, 500))
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps({**SMALL, **options}))
    torch.save(theirs.state_dict(), folder / 'pytorch_model.bin')
    return theirs


def use_our_noise(package, ours, monkeypatch):
    """Replace the noise of the package, blocks in order, by that of our model."""
    tables = [part.table for part in ours.modules() if isinstance(part, NoiseBlock)]
    calls = []

    def draw(shape, device, dtype):
        table = tables[len(calls) % len(tables)]
        calls.append(shape)
        return table[: shape[-1]].to(dtype).expand(shape)

    assert tables
    monkeypatch.setattr(package.layers.torch, 'randn', draw)


# Without the package


@pytest.mark.parametrize('name', ['attention', 'plain'])
@torch.no_grad()
def test_codes_and_waveform_of_the_fixture_are_those_of_the_package(name):
    expected = load_file(FIXTURES / name / 'io.safetensors')
    model = load(FIXTURES / name)
    codes, scale = model.encode(expected['wav'])
    assert scale is None
    ragged = model.quantizer.to_ragged(codes)
    assert len(ragged) == model.total_codebooks
    for level, part in enumerate(ragged):
        assert torch.equal(part, expected[f'codes.{level}'])
        assert len(part.unique()) > 4
    torch.testing.assert_close(model.decode(codes), expected['decoded'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['attention', 'plain'])
def test_written_folders_have_the_same_content(name, tmp_path):
    model = load(FIXTURES / name)
    model.built_from = snac_format.read(FIXTURES / name)[0]
    assert snac_format.save(model, tmp_path / 'out') == []
    expected = json.loads((FIXTURES / name / 'config.json').read_text())
    dimension = expected['encoder_dim'] * 2 ** len(expected['encoder_rates'])
    written = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert written == {**expected, 'latent_dim': dimension}
    weights = load_file(FIXTURES / name / 'model.safetensors')
    found = torch.load(tmp_path / 'out' / 'pytorch_model.bin', weights_only=True)
    assert found.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.equal(found[key], value.float()), key


@pytest.mark.parametrize('options', [{'noise': True}, {**ATTENTION, 'depthwise': False}])
@torch.no_grad()
def test_models_for_inference_are_written_too(options, tmp_path):
    model = make_ours(**options)
    notes = snac_format.save(model.for_inference(), tmp_path)
    assert [('new noise' in note) for note in notes] == ([True] if options.get('noise') else [])
    wav = torch.randn(1, 1, 100)
    found = load(tmp_path)
    assert torch.equal(found.encode(wav)[0], model.encode(wav)[0])
    torch.testing.assert_close(found(wav).wav, model(wav).wav, rtol=0, atol=1e-6)


def test_the_configuration_of_the_24khz_model():
    """The one of the released model, with its published rate of 0.98 kbps."""
    node = snac_format.model_config(
        {
            'sampling_rate': 24000,
            'encoder_dim': 48,
            'encoder_rates': [2, 4, 8, 8],
            'decoder_dim': 1024,
            'decoder_rates': [8, 8, 4, 2],
            'attn_window_size': None,
            'codebook_size': 4096,
            'codebook_dim': 8,
            'vq_strides': [4, 2, 1],
            'noise': True,
            'depthwise': True,
        }
    )
    model = config.build(node)
    assert isinstance(model, EncodecModel)
    assert (model.hop_length, model.total_codebooks, model.cardinality) == (512, 3, 4096)
    assert model.encoder.frame_multiple == 4
    assert model.bandwidth == pytest.approx(0.984, abs=1e-3)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(19.8e6, rel=0.01)


def test_configurations_are_recognized():
    assert snac_format.is_config(SMALL)
    assert not snac_format.is_config({'model_type': 'dac', 'encoder_rates': [2, 4]})


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'window': 3}, 'window in config.json: expected only arguments of the snac package'),
        ({'vq_strides': [1, 2]}, r'vq_strides=\[1, 2\]: the package needs a first stride'),
        ({'encoder_rates': 6}, 'encoder_rates=6: expected a list of positive integers'),
        ({'latent_dim': 64}, 'latent_dim=64: the encoder has 32 channels'),
        ({'decoder_dim': 33}, 'decoder_dim=33: cannot be halved for each of the 2 rates'),
    ],
)
def test_unsupported_configurations_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        node_of(**options)


def test_weights_that_are_not_tensors_are_refused():
    with pytest.raises(ValueError, match='among the weights is not a tensor but int'):
        snac_format.model_state({'encoder.block.0.bias': 3})


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ({'channels': 2}, 'channels=2: only 1 is supported'),
        ({'renormalize': True}, 'model.renormalize=True is not supported'),
        ({'encoder.frame_multiple': 1}, 'encoder.frame_multiple=1: the package has 4'),
        ({'decoder.depthwise': False}, 'decoder.depthwise=False differs from encoder.depthwise'),
        (
            {'encoder._target_': 'audiocodec.modules.SEANetEncoder'},
            'encoder._target_=audiocodec.modules.SEANetEncoder, only SNACEncoder is supported',
        ),
    ],
)
def test_models_that_the_package_cannot_have_are_refused(change, expected):
    model = make_ours()
    for key, value in change.items():
        part, _, name = key.rpartition('.')
        (model.built_from[part] if part else model.built_from)[name] = value
    with pytest.raises(ValueError, match=expected):
        snac_format.foreign_config(model)


# Beside the package


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'depthwise': False},
        {'noise': True},
        ATTENTION,
        {**ATTENTION, 'noise': True, 'depthwise': False, 'vq_strides': [8, 4, 2, 1]},
    ],
)
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_the_package(package, options, tmp_path, monkeypatch):
    theirs = make_theirs(package, tmp_path, **options).double()
    ours = load(tmp_path).double()
    wavs = [torch.randn(2, 1, length, dtype=torch.float64) for length in (1, 48, 331)]
    if options.get('noise'):
        use_our_noise(package, ours, monkeypatch)
    for wav in wavs:
        codes = ours.encode(wav)[0]
        expected = theirs.encode(wav)
        for found, part in zip(ours.quantizer.to_ragged(codes), expected, strict=True):
            assert torch.equal(found, part)
        assert torch.equal(ours.quantizer.from_ragged(expected), codes)
        torch.testing.assert_close(ours.decode(codes), theirs.decode(expected), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(wav).wav, theirs(wav)[0], rtol=0, atol=1e-5)
    assert min(len(part.unique()) for part in expected) > 4


@torch.no_grad()
def test_the_package_reads_a_written_folder(package, tmp_path):
    options = {**ATTENTION, 'noise': True}
    theirs = make_theirs(package, tmp_path / 'theirs', **options)
    ours = load(tmp_path / 'theirs')
    ours.built_from = snac_format.read(tmp_path / 'theirs')[0]
    snac_format.save(ours, tmp_path / 'out')
    found = package.SNAC.from_pretrained(str(tmp_path / 'out')).state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(found[name], value), name
