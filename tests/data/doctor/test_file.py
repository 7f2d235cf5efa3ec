import os

import numpy as np
import pytest
from audio_files import detail, kinds, noise, write
from encoders import WILD

from audiocodec.data import (
    AudioMeta,
)
from audiocodec.data.doctor.file import Limits, examine

FORMATS = {
    'pcm.wav': {'subtype': 'PCM_16'},
    'float.wav': {'subtype': 'FLOAT'},
    'a.flac': {},
    'a.ogg': {},
    'a.mp3': {},
    'a.opus': {'format': 'OGG', 'subtype': 'OPUS'},
    'a.aiff': {},
}


@pytest.mark.parametrize('name', FORMATS)
def test_good_file_has_no_problem_and_is_measured(tmp_path, name):
    wav = noise(1.5, channels=2) / 2
    found = examine(write(tmp_path / name, wav, **FORMATS[name]), Limits())
    assert found.problems == []
    assert (found.duration, found.sample_rate, found.channels) == (
        pytest.approx(1.5, abs=0.01),
        24000,
        2,
    )
    is_lossy = name.endswith(('ogg', 'mp3', 'opus'))
    assert found.amplitude == pytest.approx(abs(wav).max(), rel=1.0 if is_lossy else 1e-3)
    assert (found.silence, found.clipping) == (0, 0)


@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('fraction', [0.9, 0.5])
def test_truncated_file(tmp_path, name, fraction):
    path = tmp_path / name
    data = (tmp_path / write(path, noise(4.0), **FORMATS[name])).read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    found = examine(str(path), Limits())
    assert [problem.kind for problem in found.problems] == ['truncated']
    assert 4 * fraction - 1.5 < found.duration <= 4 * fraction + 0.1  # up to a page of OGG is lost
    assert f'{found.duration:.2f}' in found.problems[0].detail


def test_unreadable_and_empty_files(tmp_path):
    (tmp_path / 'text.wav').write_text('no audio')
    (tmp_path / 'nothing.mp3').touch()
    (tmp_path / 'folder.wav').mkdir()
    write(tmp_path / 'empty.wav', noise(0))
    assert kinds(tmp_path / 'text.wav') == ['unreadable']
    assert (
        detail(tmp_path / 'text.wav', 'unreadable')
        == 'cannot be read as audio: Format not recognised'
    )
    assert kinds(tmp_path / 'folder.wav') == ['unreadable']
    assert kinds(tmp_path / 'nothing.mp3') == kinds(tmp_path / 'empty.wav') == ['empty']
    assert kinds(tmp_path / 'nowhere.wav') == ['missing']


def test_samples_that_are_not_audio(tmp_path):
    wav = noise()
    wav[[5, 700]] = np.nan
    wav[9000] = -np.inf
    assert (
        detail(write(tmp_path / 'nan.wav', wav, subtype='FLOAT'), 'nonfinite')
        == '3 samples are NaN or Inf'
    )
    assert kinds(write(tmp_path / 'scale.wav', 32768 * noise(), subtype='FLOAT'))[0] == 'scale'
    assert kinds(write(tmp_path / 'loud.wav', 4 * noise(), subtype='FLOAT')) == []


def test_silence(tmp_path):
    hiss = 10 ** (-70 / 20) * noise(4.0) / 0.1
    assert kinds(write(tmp_path / 'zeros.flac', np.zeros(24000))) == ['silent']
    assert kinds(write(tmp_path / 'constant.wav', np.full(24000, 0.25))) == ['silent']
    assert kinds(write(tmp_path / 'hiss.wav', hiss)) == ['silent']
    assert kinds(tmp_path / 'hiss.wav', Limits(silence_db=-80)) == []
    for seconds, expected in ((0.4, ['mostly_silent']), (1.2, [])):
        wav = hiss.copy()
        wav[: round(seconds * 24000)] = noise(seconds)
        assert kinds(write(tmp_path / 'start.wav', wav)) == expected
    assert examine(str(tmp_path / 'start.wav'), Limits()).silence == pytest.approx(0.7)


@pytest.mark.parametrize(
    ('name', 'gain', 'expected'),
    [
        ('a.wav', 20.0, True),
        ('a.flac', 20.0, True),
        ('a.wav', 3.0, False),
        ('float.wav', 20.0, False),
    ],
)
def test_clipping(tmp_path, name, gain, expected):
    """Runs at full scale count, single samples do not, and float samples may exceed it."""
    wav = gain * 0.1 * np.sin(np.arange(48000) * 0.05)[:, None]
    path = (
        write(tmp_path / name, wav.clip(-1, 1) if 'float' not in name else wav, subtype='FLOAT')
        if 'float' in name
        else write(tmp_path / name, wav.clip(-1, 1))
    )
    found = examine(path, Limits())
    at_limit = (abs(wav) >= 0.9995).mean()
    assert found.clipping == pytest.approx(at_limit, abs=2e-3)
    assert ('clipping' in [problem.kind for problem in found.problems]) == (
        expected or 'float' in name
    )
    spikes = noise()
    spikes[::50] = 1.0
    spikes[1::100] = 1.0
    assert examine(write(tmp_path / 'spikes.wav', spikes), Limits()).clipping == 0


def test_content_of_another_format(tmp_path):
    path = tmp_path / 'a.wav'
    os.rename(write(tmp_path / 'a.flac', noise()), path)
    assert kinds(path) == ['suffix']


def test_manifest_that_is_wrong_about_its_files(tmp_path):
    path = write(tmp_path / 'a.wav', noise(2.0))
    for meta, expected in [
        (AudioMeta(path, 2.0, 24000, 1), []),
        (AudioMeta(path, 2.05, 24000), []),
        (AudioMeta(path, 2.0, 16000), ['mismatch']),
        (AudioMeta(path, 2.0, 24000, 2), ['mismatch']),
        (AudioMeta(path, 1.0, 24000), ['mismatch']),
        (AudioMeta(path, 3.0, 24000), ['truncated']),
    ]:
        assert [problem.kind for problem in examine(meta, Limits()).problems] == expected


def test_files_as_encoders_write_them_have_no_error():
    pytest.importorskip('av')
    for path in sorted(WILD.glob('*.*[3cg2a]')):
        assert not examine(str(path), Limits()).has_error, path


def test_opposed_channels_are_found(tmp_path):
    wav = noise(1.0, channels=2) / 2
    assert examine(write(tmp_path / 'a.wav', wav), Limits()).mono == pytest.approx(0.5, abs=0.05)
    opposed = np.stack([wav[:, 0], -0.9 * wav[:, 0]], 1)
    assert kinds(write(tmp_path / 'b.wav', opposed)) == ['opposed']
    assert 'has 0.3% of their power' in detail(tmp_path / 'b.wav', 'opposed')
    assert examine(write(tmp_path / 'c.wav', wav[:, :1]), Limits()).mono is None


def test_layouts_that_cannot_be_mixed_are_found(tmp_path):
    wav = noise(1.0, channels=9) / 2
    assert kinds(write(tmp_path / 'a.wav', wav)) == ['layout']
    assert kinds(write(tmp_path / 'b.wav', wav[:, :6])) == []
