import math

import pytest
import torch

from audiocodec.dsp.picture import audio_picture, colors


def tone(hertz, seconds, rate=24000, amplitude=1.0):
    time = torch.arange(round(seconds * rate)) / rate
    return amplitude * torch.sin(2 * math.pi * hertz * time)[None]


def test_lightness_rises_with_the_level():
    picture = colors(torch.linspace(0, 1, 50))
    assert picture.shape == (3, 50)
    assert picture.min() >= 0
    assert picture.max() <= 1
    lightness = picture.T @ torch.tensor([0.3, 0.59, 0.11])
    assert (lightness.diff() >= 0).all()


def test_a_tone_is_a_line_at_its_mel_band_and_silence_is_black():
    wav = torch.cat([tone(1000.0, 1.0), torch.zeros(1, 24000)], 1)
    picture = audio_picture(wav, 24000, width=100)
    assert picture.shape == (3, 168, 100)
    spectrum = picture[:, :128].sum(0)
    band = 127 - int(spectrum[:, 25].argmax())
    mel = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 12000 / 700))
    assert band == pytest.approx(mel * 128, abs=2)
    assert spectrum[:, 75].max() < 0.1


def test_the_waveform_is_as_high_as_its_peak():
    picture = audio_picture(tone(1000.0, 1.0, amplitude=0.5), 24000, width=10)
    wave = picture[0, 128:, 5] > 0.5
    assert wave.sum() == pytest.approx(20, abs=1)
    assert wave[19]
    assert not wave[0]


@pytest.mark.parametrize('samples', [1, 100, 2000])
def test_short_audio_fills_the_width(samples):
    assert audio_picture(torch.ones(2, samples), 48000, width=64).shape == (3, 168, 64)
