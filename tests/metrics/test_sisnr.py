import pytest
import torch
from noise import noisy

from audiocodec.dsp import si_snr
from audiocodec.metrics import SISNR


def test_sisnr_is_positive_db_for_a_good_estimate():
    scores = SISNR().compute(*noisy(20.0, 2, 1, 16000), 16000)
    torch.testing.assert_close(scores, torch.full((2,), 20.0).double(), rtol=0, atol=0.2)
    assert SISNR.higher_is_better
    assert SISNR.unit == 'dB'


def test_scale_of_the_estimate_does_not_matter():
    estimate, reference = noisy(10.0, 2, 1, 8000)
    scores = SISNR().compute(estimate, reference, 8000)
    scaled = SISNR().compute(0.1 * estimate, reference, 8000)
    torch.testing.assert_close(scaled, scores, rtol=0, atol=0.01)  # dB


def test_long_items_are_averaged_over_segments():
    estimate, reference = noisy(10.0, 1, 2, 24000)
    estimate[..., :8000] = reference[..., :8000] + 0.01
    expected = si_snr(estimate, reference, 8000).item()
    assert SISNR(segment=1.0).score(estimate[0], reference[0], 8000).item() == expected
    whole = SISNR(segment=None).score(estimate[0], reference[0], 8000).item()
    assert whole == si_snr(estimate, reference).item()
    assert abs(whole - expected) > 5


def test_a_short_quiet_item_is_scored_at_its_own_length():
    """The energies of a segment have a floor in proportion to its length."""
    estimate, reference = (0.1 * wav for wav in noisy(40.0, 1, 1, 2000))
    assert SISNR().score(estimate[0], reference[0], 8000).item() == pytest.approx(40.0, abs=0.6)


@pytest.mark.parametrize('segment', [0.5, None])
def test_padding_is_not_measured(segment, assert_ignores_padding):
    assert_ignores_padding(SISNR(segment=segment))


def test_segments_need_samples_and_a_stride():
    with pytest.raises(ValueError, match='segment must be longer'):
        SISNR(segment=0.0)
    with pytest.raises(ValueError, match=r'overlap must be in \[0, 1\)'):
        SISNR(overlap=1.0)
