import pytest
import torch
from noise import noise, noisy

from audiocodec.dsp import spectra
from audiocodec.metrics import (
    LogSpectralDistance,
    MelDistance,
    MultiScaleMelDistance,
    STFTDistance,
)


def test_a_gain_is_a_log_spectral_distance_in_db():
    wav = noise(2, 48000)
    assert LogSpectralDistance().score(2 * wav, wav, 48000).item() == pytest.approx(6.02, abs=0.01)
    assert LogSpectralDistance().score(wav, wav, 48000).item() == 0


def test_levels_below_the_floor_count_as_the_floor():
    wav = 0.1 * torch.ones(1, 48000).cumsum(1).mul(0.1 * torch.pi).sin()  # 2.4 kHz, -20 dB
    silence = torch.zeros_like(wav)
    metrics = [LogSpectralDistance(512, floor_db=floor) for floor in (-15.0, -40.0)]
    scores = [metric.score(silence, wav, 48000).item() for metric in metrics]
    # three of 257 bins are above the floor, by 14, 20 and 14 dB
    assert scores == [0, pytest.approx(((2 * 14**2 + 20**2) / 257) ** 0.5, rel=0.1)]


def test_log_spectral_distance_is_that_of_its_definition():
    estimate, reference = noisy(10.0, 1, 16384)
    levels = []
    for wav in (estimate, reference):
        window = torch.hann_window(2048)
        power = torch.stft(wav, 2048, 512, window=window, return_complex=True).abs().square()
        levels.append(10 * power.log10())
    expected = (levels[0] - levels[1]).square().mean(1).sqrt().mean().item()
    score = LogSpectralDistance(floor_db=-300).score(estimate, reference, 16000).item()
    assert score == pytest.approx(expected, rel=1e-5)


def test_stft_distance_equals_auraloss():
    auraloss = pytest.importorskip('auraloss')
    estimate, reference = noisy(10.0, 1, 24000)
    sizes = [512, 1024, 2048]
    peer = auraloss.freq.MultiResolutionSTFTLoss(sizes, [size // 4 for size in sizes], sizes)
    expected = peer(estimate[None], reference[None]).item()
    assert STFTDistance().score(estimate, reference, 24000).item() == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize('metric', [LogSpectralDistance(), STFTDistance()])
def test_padding_is_not_measured_and_short_items_are(metric, assert_ignores_padding):
    assert_ignores_padding(metric)
    assert metric.score(*noisy(10.0, 1, 3), 8000).isfinite()


@pytest.mark.parametrize(
    'metric', [LogSpectralDistance, STFTDistance, MelDistance, MultiScaleMelDistance]
)
def test_long_audio_is_scored_in_parts(metric, monkeypatch):
    estimate, reference = noisy(10.0, 2, 30000)
    whole = metric().score(estimate, reference, 24000).item()
    monkeypatch.setattr(spectra, 'BLOCK', 20000)
    assert metric().score(estimate, reference, 24000).item() == pytest.approx(whole, rel=1e-6)
