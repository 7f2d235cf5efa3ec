import numpy as np
import pytest
import torch
from noise import noise

from audiocodec.dsp.resample import resample
from audiocodec.metrics import UnscorableError
from audiocodec.metrics.perceptual.mono import check_duration, mono


def test_signals_are_downmixed_and_resampled():
    estimate, reference = noise(2, 4800), noise(2, 4800, seed=1)
    est, ref = mono(estimate, reference, 48000, 16000)
    assert est.dtype == ref.dtype == np.float64
    np.testing.assert_allclose(est, resample(estimate.mean(0), 48000, 16000))
    np.testing.assert_allclose(ref, resample(reference.mean(0), 48000, 16000))


@pytest.mark.parametrize(
    ('estimate', 'reference', 'reason'),
    [
        (torch.zeros(1, 9), torch.ones(1, 9), 'the estimate is silent'),
        (torch.ones(1, 9), torch.zeros(1, 9), 'the reference is silent'),
        (torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1), 'the estimate is silent'),
        (torch.full((1, 9), torch.nan), torch.ones(1, 9), 'the estimate is not finite'),
    ],
)
def test_what_has_no_score_is_named(estimate, reference, reason):
    with pytest.raises(UnscorableError, match=reason):
        mono(estimate, reference, 8000, 8000)


def test_short_signals_are_named():
    check_duration(np.zeros(2000), 8000, 0.25)
    with pytest.raises(UnscorableError, match=r'0\.12 s long, shorter than the 0\.25 s'):
        check_duration(np.zeros(1000), 8000, 0.25)
