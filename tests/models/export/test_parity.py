import copy
import json

import pytest
import torch

from audiocodec.data import write_audio
from audiocodec.models import export, pretrained
from audiocodec.models.certificate import load_clips
from audiocodec.models.export import parity


def compared(model, candidate, **options):
    report = parity.Report('test', 'a model')
    parity.compare(model, candidate, load_clips(model, **options), report)
    return report


def test_a_model_equals_itself(make_codec):
    model = make_codec()
    report = compared(model, copy.deepcopy(model))
    assert report.passed
    assert report.audio == 'recordings of dataset/example/evaluate'
    assert len(report.clips) == 4
    assert report.codes > 4 * 4 * 140  # four clips and a batch, four codebooks, 50 frames a second
    assert (report.codes_different, report.wav_difference) == (0, 0.0)
    assert report.wav_peak > 0


@pytest.mark.parametrize('part', ['encoder', 'decoder', 'quantizer'])
def test_a_wrong_part_is_found(make_codec, part):
    model, other = make_codec(), make_codec()
    for value in getattr(other, part).state_dict().values():
        if value.is_floating_point() and value.dim() > 1:
            value.mul_(1.01)
    report = compared(model, other)
    assert not report.passed
    if part == 'decoder':
        assert report.codes_different == 0
        assert report.wav_difference > 1e-4
    else:
        assert not report.codes_tied
        assert 'NOT all ties' in str(report)
    assert 'FAILED' in str(report)


@pytest.mark.slow
def test_nan_and_other_shapes_do_not_pass(make_codec):
    model = make_codec()

    class Broken:
        def __init__(self, **answers):
            self.answers = answers

        def encode(self, wav):
            return self.answers.get('codes', lambda codes: codes)(model.encode(wav)[0]), None

        def decode(self, codes, scale):
            return self.answers.get('wav', lambda wav: wav)(model.decode(codes, scale))

    assert compared(model, Broken()).passed
    assert not compared(model, Broken(wav=lambda wav: wav * torch.nan)).passed
    assert not compared(model, Broken(wav=lambda wav: wav[..., :-1])).passed
    report = compared(model, Broken(codes=lambda codes: codes[:, :2]))
    assert not report.passed
    assert 'codes are torch.int64 [1, 2, ' in str(report)
    assert not compared(model, Broken(codes=lambda codes: codes.int())).passed
    assert not compared(model, Broken(codes=lambda codes: codes + 1000)).passed


def test_the_audio_may_be_given(make_codec, tmp_path):
    model = make_codec('stereo')
    write_audio(tmp_path / 'tone.wav', torch.sin(torch.arange(8000) / 9)[None], 16000)
    clips = load_clips(model, [tmp_path / 'tone.wav'])
    assert clips.origin == 'given'
    assert clips.names == ['tone.wav (0.50 s)']
    assert clips.wavs[0].shape == (2, 4000)
    with pytest.raises(ValueError, match=r'nothing\.wav'):
        load_clips(model, [tmp_path / 'nothing.wav'])


def test_models_in_segments_get_whole_ones(make_codec):
    clips = load_clips(make_codec('stereo', model={'segment_duration': 0.5, 'overlap': 0.01}))
    assert [wav.shape[-1] for wav in clips.wavs] == [4000 + 5 * 3960] * 4


def test_an_export_that_differs_is_an_error_with_its_report(make_codec, tmp_path, monkeypatch):
    other = make_codec()
    for parameter in other.decoder.parameters():
        parameter.data.mul_(1.1)
    monkeypatch.setattr(pretrained, 'load', lambda path: other)
    with pytest.raises(
        export.ParityError, match=r'parity of compact with a model of type EncodecModel: FAILED'
    ):
        export.export_compact(make_codec(), tmp_path / 'model.bin')
    report = json.loads((tmp_path / 'model.bin.parity.json').read_text())
    assert report['passed'] is False
    assert report['wav_difference'] > 1e-4
