import json
import sys

import onnx
import onnxruntime
import pytest
import torch

from audiocodec.models import InterleaveStereoCompressionModel, export


@pytest.fixture(scope='module')
def exported(make_codec, short_audio, tmp_path_factory):
    """Export a model with every translated part: scale, group norms, LSTM, reflection padding."""
    model = make_codec('stereo', pad_mode='reflect', ratios=[8])
    folder = tmp_path_factory.mktemp('onnx')
    return model, folder, export.export_onnx(model, folder, [short_audio])


@pytest.mark.slow
@pytest.mark.parametrize('batch', [1, 3])
def test_onnxruntime_computes_the_same_for_any_batch_and_length(exported, batch):
    model, folder, report = exported
    assert report.passed
    assert report.wav_difference < 1e-5
    encoder, decoder = (
        onnxruntime.InferenceSession(folder / f'{part}.onnx') for part in ('encoder', 'decoder')
    )
    for length in (1, 3, 7, 8, 9, 5001):
        wav = 0.1 * torch.randn(batch, model.channels, length)
        codes, scale = model.encode(wav)
        found = encoder.run(None, {'wav': wav.numpy()})
        assert torch.equal(torch.from_numpy(found[0]), codes)
        scales = {}
        if scale is not None:
            torch.testing.assert_close(torch.from_numpy(found[1]), scale)
            scales = {'scale': scale.numpy()}
        for number in (1, 4):
            wav_hat = decoder.run(None, {'codes': codes[:, :number].numpy(), **scales})[0]
            with torch.no_grad():
                expected = model.decode(codes[:, :number], scale)
            torch.testing.assert_close(torch.from_numpy(wav_hat), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_files_describe_themselves_and_contain_no_paths(exported):
    model, folder, report = exported
    assert sorted(report.files) == ['config.json', 'decoder.onnx', 'encoder.onnx']
    config = json.loads((folder / 'config.json').read_text())
    assert config['sample_rate'] == 8000
    assert config['hop_length'] == model.hop_length
    assert list(config['decoder']['inputs']) == ['codes', 'scale']
    graph = onnx.load(folder / 'encoder.onnx')
    assert {prop.key: prop.value for prop in graph.metadata_props}['sample_rate'] == '8000'
    assert [
        dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim
    ] == ['batch', model.channels, 'length']
    assert [node.op_type for node in graph.graph.node].count('LSTM') == 1
    assert b'program.py' not in (folder / 'encoder.onnx').read_bytes()


def test_models_that_are_not_traced(make_codec, tmp_path):
    with pytest.raises(ValueError, match="'onnx' does not support this model: segment_duration"):
        export.export_onnx(make_codec('stereo', model={'segment_duration': 1.0}), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_missing_extra_is_named(make_codec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(
        ValueError, match=r"'onnx' needs onnxscript .*: pip install 'audiocodec\[onnx\]'"
    ):
        export.export_onnx(make_codec(), tmp_path / 'out')


def test_models_of_other_kinds_are_refused(make_codec, tmp_path):
    with pytest.raises(
        ValueError, match='it is a InterleaveStereoCompressionModel, only EncodecModel'
    ):
        export.export_onnx(InterleaveStereoCompressionModel(make_codec()), tmp_path / 'out')
