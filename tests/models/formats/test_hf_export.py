import json
import os
import re

import pytest
import torch
from transformers import AutoFeatureExtractor, EncodecConfig, EncodecModel

from audiocodec.models import CompressionModel, export
from audiocodec.models.formats import hf
from audiocodec.models.options import options_of

pytestmark = pytest.mark.slow

# name -> arguments of make_codec
MODELS = {
    'mono': {
        'pad_mode': 'reflect',
        'true_skip': False,
        'n_residual_layers': 2,
        'decoder': {'trim_right_ratio': 0.5},
    },
    'stereo': {'recipe': 'stereo', 'pad_mode': 'replicate'},
    'segments': {'recipe': 'stereo', 'model': {'segment_duration': 1.0, 'overlap': 0.01}},
    'one bandwidth': {'quantizer': {'q_dropout': False, 'n_q': 3, 'bins': 64}},
    'no norm': {'norm': 'none'},
    'spectral norm': {'norm': 'spectral_norm'},
    'outer blocks without norm': {'disable_norm_outer_blocks': 2},
}


@pytest.mark.parametrize('name', MODELS)
def test_transformers_computes_the_same(make_codec, name, tmp_path):
    model = make_codec(**MODELS[name])
    report = export.export_hf(model, tmp_path / 'hf')
    assert report.passed
    assert report.codes_different <= 0.01 * report.codes
    assert report.wav_difference < 1e-5
    assert sorted(report.files) == [
        'README.md',
        'config.json',
        'model.safetensors',
        'preprocessor_config.json',
    ]
    assert json.loads((tmp_path / 'hf' / 'parity.json').read_text())['passed'] is True
    back = CompressionModel.get_pretrained(str(tmp_path / 'hf'))
    wav = 0.1 * torch.randn(2, model.channels, 12001)
    torch.testing.assert_close(back.encode(wav)[0], model.encode(wav)[0])


@pytest.mark.parametrize(
    'options',
    [
        {'num_residual_layers': 2},
        {
            'audio_channels': 2,
            'normalize': True,
            'norm_type': 'time_group_norm',
            'chunk_length_s': 1.0,
            'overlap': 0.01,
            'use_causal_conv': False,
            'target_bandwidths': [0.5],
        },
    ],
)
def test_a_folder_of_transformers_is_written_back_unchanged(options, tmp_path):
    torch.manual_seed(0)
    config = EncodecConfig(
        **{
            'sampling_rate': 8000,
            'upsampling_ratios': [8, 5, 4],
            'num_filters': 2,
            'hidden_size': 4,
            'codebook_size': 4,
            'target_bandwidths': [0.2, 0.4, 0.6],
            **options,
        }
    )
    theirs = EncodecModel(config)
    for layer in theirs.quantizer.layers:
        layer.codebook.embed.normal_()
    theirs.save_pretrained(tmp_path / 'theirs')
    export.export_hf(tmp_path / 'theirs', tmp_path / 'ours')
    ours = EncodecModel.from_pretrained(tmp_path / 'ours')
    before, after = theirs.config.to_dict(), ours.config.to_dict()
    assert {
        key: after[key] for key in before if key not in ('_name_or_path', 'architectures', 'dtype')
    } == {
        key: before[key] for key in before if key not in ('_name_or_path', 'architectures', 'dtype')
    }
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(('name', 'counts'), [('mono', [2, 4]), ('one bandwidth', [3])])
def test_every_bandwidth_gives_its_codebooks(make_codec, name, counts, tmp_path):
    model = make_codec(**MODELS[name])
    export.export_hf(model, tmp_path)
    theirs = EncodecModel.from_pretrained(tmp_path).eval()
    assert theirs.config.num_quantizers == model.total_codebooks
    wav = 0.1 * torch.randn(1, 1, 4001)
    codes, _ = model.encode(wav)
    with torch.no_grad():
        for bandwidth, count in zip(theirs.config.target_bandwidths, counts, strict=True):
            assert torch.equal(theirs.encode(wav, None, bandwidth).audio_codes[0], codes[:, :count])


def test_bandwidths_are_those_of_the_paper(make_codec):
    model = make_codec(quantizer={'n_q': 16, 'bins': 1024}, n_filters=1, compress=1)
    options = options_of(model, 'hf')
    assert hf.bandwidths(
        options._replace(model={'sample_rate': 48000}, encoder={'ratios': [8, 5, 4, 2]})
    ) == [3.0, 6.0, 12.0, 24.0]
    options.quantizer.update(n_q=4, bins=2048, q_dropout=False)
    assert hf.bandwidths(
        options._replace(model={'sample_rate': 32000}, encoder={'ratios': [8, 5, 4, 4]})
    ) == [2.2]


def test_the_feature_extractor_has_rate_channels_and_segments(make_codec, tmp_path):
    export.export_hf(make_codec(**MODELS['segments']), tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.sampling_rate, extractor.feature_size) == (8000, 2)
    assert (extractor.chunk_length, extractor.chunk_stride) == (8000, 7920)


def test_the_weights_have_the_permissions_of_the_other_files(make_codec, tmp_path):
    before = os.umask(0o027)
    try:
        export.export_hf(make_codec(**MODELS['mono']), tmp_path)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {'0o640'}


@pytest.mark.parametrize('name', ['mono', 'segments'])
def test_the_model_card_runs(make_codec, save_checkpoint, name, tmp_path):
    model = make_codec(**MODELS[name])
    export.export_hf(save_checkpoint(model, tmp_path / 'checkpoint.th'), tmp_path / 'hf')
    card = (tmp_path / 'hf' / 'README.md').read_text()
    assert card.startswith('---\nlibrary_name: transformers\n')
    assert 'It is from the experiment sig 0a1b2c3d epoch 7.' in card
    code = re.search(r'```python\n(.*?)```', card, re.DOTALL)[1].replace(
        'this folder, or the id of the repository', str(tmp_path / 'hf')
    )
    found = {}
    exec(code, found)
    assert found['wav'].shape == (1, model.channels, 24000)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'lstm': 0}, 'lstm=0: at least one layer'),
        ({'activation': 'ReLU', 'activation_params': {}}, "activation='ReLU' with {}: only ELU"),
        ({'activation_params': {'alpha': 0.5}}, "with {'alpha': 0.5}: only ELU with alpha 1"),
        ({'decoder': {'final_activation': 'Tanh'}}, "decoder.final_activation='Tanh': only null"),
        ({'decoder': {'n_filters': 8}}, 'decoder.n_filters=8 differs from encoder.n_filters=4'),
        ({'pad_mode': 'circular'}, "pad_mode='circular': only constant, reflect, replicate"),
        (
            {'recipe': 'stereo', 'disable_norm_outer_blocks': 1},
            'disable_norm_outer_blocks=1 with time_group_norm',
        ),
        ({'recipe': 'stereo', 'norm_params': {'eps': 1e-3}}, r"norm_params=\{'eps': 0.001\}"),
        ({'channels': 3}, 'channels=3: only 1 and 2'),
        ({'quantizer': {'bins': 30}}, 'bins=30: only powers of 2'),
    ],
)
def test_unsupported_options_are_named(make_codec, options, message, tmp_path):
    with pytest.raises(
        ValueError, match=f"the format 'hf' does not support this model: .*{message}"
    ):
        hf.save(make_codec(**options), tmp_path)
    assert list(tmp_path.iterdir()) == []
