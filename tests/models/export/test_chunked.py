"""Programs for chunks give what the whole signal gives."""

import json
import re
from pathlib import Path

import pytest
import torch
from causal_codecs import mimi_codec, seanet_codec

from audiocodec.models import export
from audiocodec.models.certificate.clips import Clips
from audiocodec.models.export import chunked, onnx, parity, torch_export
from audiocodec.models.export.stateful import TorchLSTM
from audiocodec.quantization import NoQuantizer, StridedResidualQuantizer

OPTIONS = {
    'zeros': ({}, 1),
    'replicate': ({'pad_mode': 'replicate', 'lstm': 2}, 1),
    'reflect': ({'pad_mode': 'reflect', 'lstm': 1, 'true_skip': False}, 5),
    'dilated': ({'pad_mode': 'reflect', 'n_residual_layers': 3, 'compress': 1}, 5),
    'stereo': ({'channels': 2, 'norm': 'none', 'decoder': {'final_activation': 'Tanh'}}, 1),
    'snake': ({'activation': 'audiocodec.modules.Snake', 'encoder': {'pad_input': True}}, 1),
}


def streamed(model, frames):
    """Encoder and decoder of a model for chunks, in Python."""
    found = chunked.programs(model, frames, TorchLSTM)
    text = chunked.description(model, frames, found)
    return chunked.Streamed(text, lambda name, arguments: found[name].module(*arguments))


def check(model, frames, tolerance):
    wav = torch.randn(2, model.channels, 15 * frames * model.hop_length).to(torch.float64)
    codes, _ = model.encode(wav)
    expected = model.decode(codes)
    with torch.no_grad():
        assert torch.equal(streamed(model, frames).encode(wav)[0], codes)
        found = streamed(model, frames).decode(codes, None)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize('name', OPTIONS)
def test_all_chunks_together_are_the_whole(name):
    options, least = OPTIONS[name]
    for frames in (least, least + 3):
        check(seanet_codec(**options), frames, 1e-12)


@pytest.mark.parametrize('groups', [None, 2])
def test_codecs_with_transformers(groups):
    for frames in (1, 4):
        check(mimi_codec(groups=groups), frames, 1e-6)


def test_a_quantizer_of_groups():
    quantizer = StridedResidualQuantizer(dimension=4, strides=[2, 1], bins=8, codebook_dim=4)
    model = seanet_codec(quantizer=quantizer)
    check(model, 4, 1e-12)
    with pytest.raises(ValueError, match=r'stream_frames=3.* takes 2 frames at a time; use a mult'):
        streamed(model, 3)


@pytest.mark.parametrize(
    ('make', 'options'), [(seanet_codec, {'pad_mode': 'reflect', 'lstm': 1}), (mimi_codec, {})]
)
def test_items_start_on_their_own(make, options):
    model = make(**options)
    programs = chunked.programs(model, 5, TorchLSTM)
    size = 5 * model.hop_length
    wav = torch.randn(2, 1, 6 * size, dtype=torch.float64)
    _, first, *state = programs['encoder'].arguments
    state = [torch.full_like(each, 7) for each in state]  # of signals before
    found = []
    for index, chunk in enumerate(wav.split(size, dim=-1)):
        first = torch.tensor([index == 0, index in (0, 2)])
        with torch.no_grad():
            codes, *state = programs['encoder'].module(chunk, first, *state)
        found.append(codes)
    found = torch.cat(found, dim=-1)
    assert torch.equal(found[:1], model.encode(wav[:1])[0])
    assert torch.equal(found[1:, :, :10], model.encode(wav[1:, :, : 2 * size])[0])
    assert torch.equal(found[1:, :, 10:], model.encode(wav[1:, :, 2 * size :])[0])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'causal': False}, 'is not causal'),
        ({'causal': False, 'norm': 'time_group_norm'}, 'GroupNorm averages over the whole signal'),
        ({'decoder': {'trim_right_ratio': 0.5}}, r'has a look-ahead \(trim_right_ratio below 1\)'),
        ({'pad_mode': 'circular'}, 'pad_mode=circular repeats the end'),
        ({'activation': 'Softmax'}, 'Softmax may depend on the whole signal'),
        ({'pad_mode': 'reflect'}, r'needs 5 frames, .* use 5 or more, or pad_mode=constant'),
    ],
)
@pytest.mark.filterwarnings('ignore:Implicit dimension choice for softmax')
def test_models_that_cannot(options, message):
    with pytest.raises(ValueError, match=message):
        chunked.programs(seanet_codec(**options), 1, TorchLSTM)


def test_what_is_refused_before_anything_is_written(make_codec, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='renormalize=True needs the loudness of the whole'):
        export.export_torch(make_codec('stereo'), out, stream_frames=4)
    with pytest.raises(ValueError, match='quantizer=NoQuantizer cannot be traced'):
        export.export_torch(seanet_codec(quantizer=NoQuantizer(4)), out, stream_frames=4)
    with pytest.raises(ValueError, match='stream_frames=0: expected an integer'):
        export.export_torch(make_codec(), out, stream_frames=0)
    with pytest.raises(ValueError, match='stream_frames=4 is for the formats onnx and torch only'):
        export.export(make_codec(), out / 'model.bin', stream_frames=4)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(('form', 'lstm'), [(onnx, 1), (torch_export, 0)])
def test_written_programs_compute_the_same(form, lstm, tmp_path, monkeypatch):
    model = seanet_codec(
        torch.float32, ratios=[2], n_residual_layers=0, pad_mode='reflect', lstm=lstm
    )
    form.save(model, tmp_path / 'folder', 5)
    text = json.loads((tmp_path / 'folder/config.json').read_text())['streaming']
    assert (text['frames'], text['samples']) == (5, 10)
    assert text['encoder']['inputs'][:3] == ['wav', 'first', 'model_0']
    assert text['encoder']['outputs'][:2] == ['codes', 'next_model_0']
    assert text['encoder']['state']['model_0'] == {'shape': [1, 4], 'dtype': 'float32'}
    loaded = form.Loaded(tmp_path / 'folder').streamed
    clips = loaded.whole(Clips('given', ['a', 'b'], list(torch.randn(2, 1, 93))))
    assert clips.wavs[0].shape == (1, 100)
    report = parity.Report('test', 'a model')
    parity.compare(model, loaded, clips, report)  # also in a batch, and with fewer codebooks
    assert report.passed
    assert report.codes == (1 + 1 + 2) * 50 * 2
    assert report.codes_different == 0
    assert report.wav_difference < 1e-6
    if form is onnx:
        monkeypatch.chdir(tmp_path)
        check_loop_of_the_docs(model)


def check_loop_of_the_docs(model):
    page = (Path(__file__).parents[3] / 'docs/export.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    (loop,) = (block for block in blocks if 'class Stream' in block)
    wav = torch.randn(1, 1, 30)
    names = {'wav': wav.numpy()}
    exec(loop, names)
    codes, _ = model.encode(wav)
    assert torch.equal(torch.from_numpy(names['codes']), codes[..., 10:])
    expected = model.decode(codes)[..., 20:]
    torch.testing.assert_close(torch.from_numpy(names['wav_hat']), expected, rtol=0, atol=1e-6)
