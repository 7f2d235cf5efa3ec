from pathlib import Path

import pytest
import torch
import yaml

from audiocodec.models import export
from audiocodec.models.formats import audiocraft

PARITY = Path(__file__).parents[2] / 'fixtures' / 'parity'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['causal_24khz', 'musicgen_32khz', 'stereo_48khz'])
def test_an_export_of_audiocraft_is_written_back_unchanged(name, tmp_path):
    source = PARITY / f'{name}.audiocraft.bin'
    report = export.export_audiocraft(source, tmp_path / 'model.bin')
    assert report.passed
    assert report.codes_different == 0
    assert report.wav_difference == 0.0
    before = torch.load(source, weights_only=True)
    after = torch.load(tmp_path / 'model.bin', weights_only=True)
    assert after.keys() == before.keys()
    assert after['exported'] is True
    assert after['best_state'].keys() == before['best_state'].keys()
    assert all(
        torch.equal(value, before['best_state'][key]) for key, value in after['best_state'].items()
    )
    node = audiocraft.model_config(after['xp.cfg'])
    for key, value in audiocraft.model_config(before['xp.cfg']).items():
        assert (
            node[key] == value
            if not isinstance(value, dict)
            else {**node[key], **value} == node[key]
        ), key


def test_sections_that_audiocraft_reads(make_codec, tmp_path):
    model = make_codec(
        decoder={
            'n_filters': 2,
            'trim_right_ratio': 0.5,
            'final_activation': 'Tanh',
            'init': 'default',
        }
    )
    export.export_audiocraft(model, tmp_path / 'model.bin')
    config = yaml.safe_load(torch.load(tmp_path / 'model.bin', weights_only=True)['xp.cfg'])
    assert config['compression_model'] == 'encodec'
    assert config['encodec'] == {
        'autoencoder': 'seanet',
        'quantizer': 'rvq',
        'sample_rate': 8000,
        'channels': 1,
        'causal': True,
        'renormalize': False,
    }
    assert config['seanet']['encoder'] == {'n_filters': 4}
    assert config['seanet']['decoder'] == {
        'n_filters': 2,
        'trim_right_ratio': 0.5,
        'final_activation': 'Tanh',
        'final_activation_params': None,
    }
    assert config['seanet']['ratios'] == [8, 5, 4]
    assert (config['seanet']['activation_params'], config['seanet']['norm_params']) == (
        {},
        {},
    )  # it unpacks them
    assert config['rvq'] == {
        'n_q': 4,
        'bins': 32,
        'q_dropout': True,
        'decay': 0.99,
        'kmeans_init': False,
        'kmeans_iters': 10,
        'threshold_ema_dead_code': 2,
    }
    assert config['sample_rate'] == 8000


@pytest.mark.parametrize('norm', ['none', 'spectral_norm', 'time_group_norm'])
def test_every_norm(make_codec, norm, tmp_path):
    report = export.export_audiocraft(make_codec(causal=False, norm=norm), tmp_path / 'model.bin')
    assert report.codes_different == 0
    assert report.wav_difference == 0.0


def test_unsupported_options_are_named(make_codec, tmp_path):
    with pytest.raises(
        ValueError, match=r"'audiocraft' does not support this model: model.segment_duration=1.0"
    ):
        export.export_audiocraft(
            make_codec('stereo', model={'segment_duration': 1.0}), tmp_path / 'model.bin'
        )
    model = make_codec()
    model.built_from = {
        **model.built_from,
        'encoder': {**model.built_from['encoder'], 'snake': True},
    }
    with pytest.raises(ValueError, match=r'encoder.snake=True is not supported$'):
        export.export_audiocraft(model, tmp_path / 'model.bin')
    model.built_from = {**make_codec().built_from, 'quantizer': {'_target_': 'torch.nn.Identity'}}
    with pytest.raises(
        ValueError, match=r'quantizer._target_=torch.nn.Identity, only ResidualVectorQuantizer'
    ):
        export.export_audiocraft(model, tmp_path / 'model.bin')
    assert list(tmp_path.iterdir()) == []


def test_a_frame_rate_that_is_not_an_integer_is_noted(make_codec, tmp_path):
    report = export.export_audiocraft(
        make_codec(model={'sample_rate': 8050}), tmp_path / 'model.bin'
    )
    assert 'AudioCraft rounds the frame rate, 50.312 Hz' in str(report)
