import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocodec.models.formats import dac
from audiocodec.models.formats.common.keys import make_model
from audiocodec.models.formats.common.weight_norm import parametrized_names
from audiocodec.utils import config

# random weights in both layouts, with codes and waveforms of `descript-audio-codec` 1.0.0 and of
# `transformers` 5.24 (the input is padded to whole frames)
FIXTURE = Path(__file__).parents[2] / 'fixtures' / 'dac' / 'small.safetensors'
KWARGS = {
    'encoder_dim': 4,
    'encoder_rates': [2, 3, 4],
    'latent_dim': None,
    'decoder_dim': 24,
    'decoder_rates': [4, 3, 2],
    'n_codebooks': 3,
    'codebook_size': 16,
    'codebook_dim': 4,
    'quantizer_dropout': 0.5,
    'sample_rate': 8000,
}


@pytest.fixture(scope='module')
def tensors():
    return load_file(FIXTURE)


def part(tensors, name):
    return {
        key.partition('/')[2]: value for key, value in tensors.items() if key.startswith(f'{name}/')
    }


def content(tensors, **kwargs):
    return {
        'state_dict': part(tensors, 'package'),
        'metadata': {'kwargs': {**KWARGS, **kwargs}},
    }


def write_folder(tensors, folder, **changes):
    names = {key: name for key, (name, _) in dac._HF_NAMES.items()}
    options = {names[key]: value for key, value in KWARGS.items() if key in names}
    (folder / 'config.json').write_text(json.dumps({'model_type': 'dac', **options, **changes}))
    save_file(part(tensors, 'hf'), folder / 'model.safetensors')


def check(model, tensors, name):
    wav, io = tensors['wav'], part(tensors, f'{name}_io')
    codes, scale = model.encode(wav)
    assert scale is None
    assert torch.equal(codes, io['codes'])
    decoded = model.decode(codes)
    assert decoded.shape == (2, 1, 144)
    length = io['wav'].shape[-1]  # one sample less after the stride of 3, two at the end
    assert length == 142
    torch.testing.assert_close(decoded[..., :length], io['wav'], rtol=0, atol=1e-5)
    assert decoded[..., length:].abs().max() == 0
    assert model(wav).wav.shape == wav.shape


@pytest.mark.parametrize('layout', ['hooks', 'parametrizations'])
def test_weights_of_the_package_give_its_codes_and_waveform(tensors, layout):
    weights = content(tensors)
    assert dac.is_checkpoint(weights)
    if layout == 'parametrizations':
        weights['state_dict'] = parametrized_names(weights['state_dict'])
    check(make_model(*dac.read_package(weights)), tensors, 'package')


def test_a_folder_of_transformers_gives_its_codes_and_waveform(tensors, tmp_path):
    write_folder(tensors, tmp_path)
    model = make_model(*dac.read_hf(tmp_path))
    check(model, tensors, 'hf')
    check(model.for_inference(), tensors, 'hf')
    check(model.for_cpu(), tensors, 'hf')


def test_written_files_hold_what_was_read(tensors, tmp_path):
    weights = content(tensors)
    model = make_model(*dac.read_package(weights))
    dac.save_package(model, tmp_path / 'weights.pth')
    written = torch.load(tmp_path / 'weights.pth', weights_only=True)
    assert written['metadata']['kwargs'] == {**KWARGS, 'latent_dim': 32}
    assert written['state_dict'].keys() == weights['state_dict'].keys()
    for name, value in written['state_dict'].items():
        assert torch.equal(value, weights['state_dict'][name]), name
    dac.save_hf(model, tmp_path / 'hf')
    check(make_model(*dac.read_hf(tmp_path / 'hf')), tensors, 'package')
    own = tmp_path / 'own'
    own.mkdir()
    write_folder(tensors, own)
    model = make_model(*dac.read_hf(own))
    dac.save_hf(model, tmp_path / 'again')
    again = load_file(tmp_path / 'again' / 'model.safetensors')
    original = part(tensors, 'hf')
    assert again.keys() == original.keys()
    for name, value in again.items():
        torch.testing.assert_close(value, original[name], rtol=1e-6, atol=1e-7)


def test_transformers_loads_a_written_folder(tensors, tmp_path):
    transformers = pytest.importorskip('transformers')
    model = make_model(*dac.read_package(content(tensors)))
    dac.save_hf(model, tmp_path)
    theirs = transformers.DacModel.from_pretrained(tmp_path).eval()
    codes = model.encode(tensors['wav'])[0]
    with torch.no_grad():
        padded = torch.nn.functional.pad(tensors['wav'], (0, 13))
        assert torch.equal(theirs.encode(padded).audio_codes, codes)
        decoded = theirs.decode(audio_codes=codes).audio_values.reshape(2, 1, -1)
    torch.testing.assert_close(model.decode(codes)[..., :142], decoded, rtol=0, atol=1e-5)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.sampling_rate, extractor.hop_length) == (8000, 24)


def test_published_sizes():
    node = dac.model_config({**dac._PACKAGE_DEFAULTS, 'quantizer_dropout': 0.5})
    with torch.device('meta'):
        model = config.build(node)
    # as many as the default model of `transformers`, without the magnitudes of weight_norm
    assert sum(value.numel() for value in model.for_inference().state_dict().values()) == 76620777


def test_what_is_not_supported_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match=r'codebook_dim=\[4, 8\].*decoder_dim=20'):
        dac.read_package(content(tensors, codebook_dim=[4, 8], decoder_dim=20))
    with pytest.raises(ValueError, match='unexpected'):
        dac.read_package(content(tensors, n_codebooks=2))
    assert not dac.is_checkpoint({'state_dict': {}})
    node, state = dac.read_package(content(tensors))
    node['encoder']['pad_input'] = False
    with pytest.raises(ValueError, match=r'encoder.pad_input=False: must be True'):
        dac.save_package(make_model(node, state), tmp_path / 'weights.pth')
