import math

import pytest
import torch

from audiocodec.data import normalize
from audiocodec.dsp.loudness import k_weighting, loudness


def sine(db, seconds, sample_rate=48000, frequency=997.0, channels=1):
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return (10 ** (db / 20) * torch.sin(2 * math.pi * frequency * time)).float().repeat(channels, 1)


def test_filters_are_the_tables_of_the_standard():
    (shelf_b, shelf_a), (high_b, high_a) = k_weighting(48000)  # BS.1770-4, tables 1 and 2
    assert shelf_b == pytest.approx(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-9
    )
    assert shelf_a == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-9)
    assert high_b == pytest.approx([1.0, -2.0, 1.0])
    assert high_a == pytest.approx([1.0, -1.99004745483398, 0.99007225036621], abs=1e-9)


@pytest.mark.parametrize('sample_rate', [48000, 44100, 24000, 16000])
def test_full_scale_sine_measures_minus_3_01(sample_rate):
    assert loudness(sine(0, 5, sample_rate), sample_rate) == pytest.approx(-3.01, abs=0.05)


def test_channels_add_up():  # EBU Tech 3341, case 1: stereo at -23 dBFS is -23 LUFS
    assert loudness(sine(-23, 5, frequency=1000, channels=2), 48000) == pytest.approx(
        -23.0, abs=0.1
    )
    five = torch.zeros(5, 48000 * 5)
    five[3] = sine(0, 5)[0]  # a surround channel counts 1.41 times
    assert loudness(five, 48000) == pytest.approx(-3.01 + 10 * math.log10(1.41), abs=0.03)


def test_quiet_parts_are_gated():  # EBU Tech 3341, cases 3 and 4, shortened
    parts = [
        sine(db, seconds, frequency=1000, channels=2)
        for db, seconds in ((-36, 3), (-23, 18), (-36, 3))
    ]
    assert loudness(torch.cat(parts, 1), 48000) == pytest.approx(-23.0, abs=0.1)
    silent = [sine(-72, 3, frequency=1000, channels=2)]
    assert loudness(torch.cat([*silent, *parts], 1), 48000) == pytest.approx(-23.0, abs=0.1)


def test_silence_and_short_audio():
    assert loudness(torch.zeros(1, 48000), 48000) == -math.inf
    assert loudness(torch.zeros(1, 0), 48000) == -math.inf
    assert loudness(sine(-20, 0.2), 48000) == pytest.approx(-23.01, abs=0.5)


def test_too_many_channels():
    with pytest.raises(ValueError, match=r'\[6, 100\]'):
        loudness(torch.zeros(6, 100), 48000)


def test_strategies_reach_their_level():
    wav = 0.05 * torch.randn(2, 48000)
    assert normalize(wav, 48000, 'peak').abs().max().item() == pytest.approx(
        10 ** (-1 / 20), rel=1e-5
    )
    assert normalize(wav, 48000, 'peak', 6).abs().max().item() == pytest.approx(
        10 ** (-6 / 20), rel=1e-5
    )
    mono = normalize(wav, 48000, 'rms').mean(0)
    assert mono.square().mean().sqrt().item() == pytest.approx(10 ** (-18 / 20), rel=1e-4)
    assert loudness(normalize(wav, 48000, 'loudness', 20), 48000) == pytest.approx(-20, abs=0.01)
    assert torch.equal(normalize(wav, 48000, 'clip'), wav)
    assert torch.equal(normalize(20 * wav, 48000, 'clip'), (20 * wav).clamp(-1, 1))
    assert torch.equal(normalize(20 * wav, 48000, 'none'), 20 * wav)


@pytest.mark.parametrize('strategy', ['none', 'clip', 'peak', 'rms', 'loudness'])
def test_silence_stays_silence(strategy):
    assert torch.equal(normalize(torch.zeros(1, 4800), 48000, strategy), torch.zeros(1, 4800))
    assert normalize(torch.zeros(1, 0), 48000, strategy).shape == (1, 0)


@pytest.mark.parametrize('strategy', ['peak', 'rms', 'loudness'])
def test_result_is_within_full_scale(strategy):
    impulses = torch.full((1, 48000), 1e-3)
    impulses[0, ::4800] = 1.0
    assert normalize(impulses, 48000, strategy, 0).abs().max() <= 1


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match=r"'louder'.*clip, peak, rms, loudness"):
        normalize(torch.zeros(1, 10), 48000, 'louder')


def test_long_audio_is_measured_in_parts(monkeypatch):
    sample_rate = 8000
    generator = torch.Generator().manual_seed(0)
    wav = torch.randn(2, 11 * sample_rate, generator=generator) * torch.linspace(0, 1, 88000)
    whole = loudness(wav, sample_rate)
    monkeypatch.setattr('audiocodec.dsp.loudness._PART', 2**15)  # of 2.1 s and a second before
    assert loudness(wav, sample_rate) == pytest.approx(whole, abs=1e-9)
