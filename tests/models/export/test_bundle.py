import pytest
import torch
import yaml

from audiocodec.models import CompressionModel, export
from audiocodec.run import checkpoint


def test_a_bundle_is_the_checkpoint_without_places(make_codec, save_checkpoint, tmp_path):
    model = make_codec()
    source = save_checkpoint(model, tmp_path / 'checkpoint.th')
    report = export.export_bundle(source, tmp_path / 'bundle.th')
    assert report.passed
    assert report.wav_difference == 0.0
    before, after = (
        checkpoint.load_checkpoint(source),
        checkpoint.load_checkpoint(tmp_path / 'bundle.th'),
    )
    assert after['state'].keys() == before['state'].keys()
    for part in ('adversaries', 'balancer', 'model'):
        assert all(
            torch.equal(after['state'][part][name], value)
            for name, value in before['state'][part].items()
        )
    assert torch.equal(
        after['state']['optimizer']['state'][0]['exp_avg'],
        before['state']['optimizer']['state'][0]['exp_avg'],
    )
    assert after['state']['ema']['count'] == 3.0
    assert (after['sig'], after['epoch']) == ('0a1b2c3d', 7)
    assert yaml.safe_load(after['config']) == {
        'solver': 'compression',
        'sample_rate': 8000,
        'channels': 1,
        'model': model.built_from,
        'losses': {'l1': {'weight': 1.0}},
        'dataset': {'batch_size': 8, 'segment_duration': 1.0},
    }
    assert b'secret' not in (tmp_path / 'bundle.th').read_bytes()
    loaded = CompressionModel.get_pretrained(str(tmp_path / 'bundle.th'))
    wav = torch.randn(1, 1, 1001)
    assert torch.equal(loaded(wav).wav, model(wav).wav)


@pytest.mark.slow
def test_only_training_checkpoints_have_enough_for_a_bundle(make_codec, save_checkpoint, tmp_path):
    source = save_checkpoint(make_codec(), tmp_path / 'checkpoint.th')
    export.export_compact(source, tmp_path / 'model.bin')
    with pytest.raises(
        ValueError, match=r'a bundle needs .* training checkpoint .* use the format compact'
    ):
        export.export_bundle(tmp_path / 'model.bin', tmp_path / 'bundle.th')
    with pytest.raises(
        ValueError, match=r'bundle.safetensors: a bundle contains more than tensors'
    ):
        export.export_bundle(source, tmp_path / 'bundle.safetensors')
