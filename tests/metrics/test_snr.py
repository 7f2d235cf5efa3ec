import pytest
import torch
from noise import noise, noisy

from audiocodec.metrics import SNR


def test_snr_is_that_of_the_noise():
    scores = SNR().compute(*noisy(15.0, 2, 2, 16000), 16000)
    torch.testing.assert_close(scores, torch.full((2,), 15.0).double(), rtol=0, atol=0.2)
    assert SNR.higher_is_better


def test_a_wrong_level_lowers_it():
    wav = noise(1, 8000)
    assert SNR().score(0.5 * wav, wav, 8000).item() == pytest.approx(6.02, abs=0.01)


def test_a_perfect_estimate_has_a_finite_score():
    wav = noise(1, 8000)
    assert 60 < SNR().score(wav, wav, 8000).item() < 80


def test_a_silent_reference_has_no_score():
    assert SNR().score_item(noise(1, 80), torch.zeros(1, 80), 8000).reason == (
        'the reference is silent'
    )


def test_padding_is_not_measured(assert_ignores_padding):
    assert_ignores_padding(SNR())
