import math

import pytest
import torch
from noise import noise, noisy

from audiocodec.metrics import MultiScaleMelDistance
from audiocodec.metrics.multiscale_mel import SCALES


def test_it_is_the_sum_of_log_amplitude_distances_of_seven_scales():
    torchaudio = pytest.importorskip('torchaudio')
    estimate, reference = noisy(10.0, 1, 20480)
    expected = 0.0
    for n_fft, n_mels in SCALES:
        melspec = torchaudio.transforms.MelSpectrogram(
            24000, n_fft, hop_length=n_fft // 4, n_mels=n_mels, center=False
        )
        padding = 3 * n_fft // 8
        logs = [
            melspec(torch.nn.functional.pad(wav, (padding, padding), mode='reflect'))
            .sqrt()
            .clamp(min=1e-5)
            .log10()
            for wav in (estimate, reference)
        ]
        expected += (logs[0] - logs[1]).abs().mean().item()
    assert MultiScaleMelDistance().score(estimate, reference, 24000).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_distance_of_a_gain_is_the_log_of_the_gain_at_each_scale():
    wav = noise(1, 48000)
    score = MultiScaleMelDistance().score(2 * wav, wav, 48000).item()
    # some narrow bands of small FFTs are empty, and the same in every signal
    assert 5 * math.log10(2) < score < 7 * math.log10(2)
    assert MultiScaleMelDistance().score(wav, wav, 48000).item() == 0


def test_padding_is_not_measured(assert_ignores_padding):
    assert_ignores_padding(MultiScaleMelDistance())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r'floor_level must be positive .* got -1'):
        MultiScaleMelDistance(floor_level=-1)
