import numpy as np
import pytest
from audio_files import kinds, noise, write

from audiocodec.data import (
    resample,
)
from audiocodec.data.doctor.file import Limits, examine
from audiocodec.data.doctor.spectrum import SIZE, LongTermSpectrum


def speech_like(seconds, sample_rate):
    """Return noise whose spectrum falls by 6 dB per octave, with a slowly changing level."""
    wav = noise(seconds, sample_rate, seed=3)[:, 0]
    for place in range(1, len(wav)):
        wav[place] += 0.9 * wav[place - 1]
    return 0.3 * wav * (1.2 + np.sin(np.arange(len(wav)) * 12 / sample_rate))


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.ogg'])
def test_bandwidth_of_an_upsampled_file(tmp_path, name):
    import torch

    narrow = torch.from_numpy(speech_like(3.0, 8000)).float()
    found = examine(write(tmp_path / name, resample(narrow, 8000, 24000).numpy()), Limits())
    assert [problem.kind for problem in found.problems] == ['bandwidth']
    assert found.cutoff == pytest.approx(4000, rel=0.08)
    assert found.problems[0].detail == f'energy ends at {found.cutoff / 1000:.1f} kHz of 12 kHz'
    # good enough for telephone speech
    assert kinds(tmp_path / name, Limits(sample_rate=8000)) == []
    assert kinds(tmp_path / name, Limits(bandwidth=0.3)) == []
    assert kinds(write(tmp_path / name, speech_like(3.0, 24000))) == []


def test_bandwidth_of_a_low_bitrate(tmp_path):
    """64 kbps at 44.1 kHz leave nothing above 11 kHz."""
    spectrum = np.fft.rfft(speech_like(3.0, 44100))
    frequency = np.fft.rfftfreq(3 * 44100, 1 / 44100)
    spectrum *= 10 ** (-90 / 20 * ((frequency - 11000) / 300).clip(0, 1))
    path = write(tmp_path / 'a.wav', np.fft.irfft(spectrum), 44100)
    assert kinds(path) == ['bandwidth']
    assert examine(path, Limits()).cutoff == pytest.approx(11000, rel=0.03)
    assert kinds(path, Limits(sample_rate=24000)) == []


def test_dull_sounds_are_not_taken_for_low_bitrate(tmp_path):
    time = np.arange(72000) / 24000
    tone = sum(np.sin(2 * np.pi * 110 * k * time) * 10 ** (-k / 4) for k in range(1, 20))
    decay = 10 ** (-noise(3.0, seed=1) * 0) * (0.1 * tone * np.exp(-3 * time))[:, None]
    assert kinds(write(tmp_path / 'string.wav', decay + 1e-4 * noise(3.0))) == []
    assert kinds(write(tmp_path / 'sine.wav', 0.5 * np.sin(2 * np.pi * 440 * time))) == []


@pytest.mark.parametrize('edge', [4000, 8000])
def test_cutoff_is_the_edge_of_the_spectrum_however_the_audio_is_divided(edge):
    spectrum = np.fft.rfft(noise(2.0)[:, 0])
    spectrum[2 * edge :] *= 1e-4  # 2 bins per Hz
    wav = np.fft.irfft(spectrum)[:, None].astype(np.float32)
    whole = LongTermSpectrum(24000)
    whole.add(wav)
    assert whole.cutoff() == pytest.approx(edge, rel=0.03)
    blocks = LongTermSpectrum(24000)
    for begin in range(0, len(wav), 1000):
        blocks.add(wav[begin : begin + 1000])
    assert blocks.cutoff() == whole.cutoff()


def test_no_cutoff_without_an_edge_or_enough_audio():
    spectrum = LongTermSpectrum(24000)
    spectrum.add(noise(1.0).astype(np.float32))
    assert spectrum.cutoff() is None
    short = LongTermSpectrum(24000)
    short.add(noise(0.05)[: SIZE - 1].astype(np.float32))
    assert short.cutoff() is None
