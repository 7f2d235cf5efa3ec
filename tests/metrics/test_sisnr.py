import pytest
import torch
from noise import noisy

from audiocodec.dsp import si_snr
from audiocodec.metrics import SISNR


def test_sisnr_is_positive_db_for_a_good_estimate():
    metric = SISNR(16000)
    metric.update(*noisy(20.0, 2, 1, 16000))
    assert metric.compute() == {'sisnr': pytest.approx(20.0, abs=0.2)}
    assert metric.higher_is_better


def test_scale_of_the_estimate_does_not_matter():
    estimate, reference = noisy(10.0, 2, 1, 8000)
    scores = SISNR(8000).measure(estimate, reference)
    scaled = SISNR(8000).measure(0.1 * estimate, reference)
    torch.testing.assert_close(scaled, scores, rtol=0, atol=0.01)  # dB


def test_mean_is_taken_over_items_and_not_over_batches():
    metric = SISNR(8000, segment=1.0)
    estimate, reference = noisy(10.0, 3, 2, 8000)
    estimate[0] += reference[0]
    metric.update(estimate[:2], reference[:2])
    metric.update(estimate[2:], reference[2:])
    expected = si_snr(estimate, reference, 8000).mean().item()
    assert metric.compute()['sisnr'] == pytest.approx(expected)


@pytest.mark.parametrize('segment', [0.5, None])
def test_padding_is_not_measured(segment, assert_ignores_padding):
    assert_ignores_padding(SISNR(8000, segment=segment))


def test_segments_need_samples_and_a_stride():
    with pytest.raises(ValueError, match='segment must be longer'):
        SISNR(100, segment=0.0)
    with pytest.raises(ValueError, match=r'overlap must be in \[0, 1\)'):
        SISNR(100, overlap=1.0)
