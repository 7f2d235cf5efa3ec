import pytest
import torch
from noise import noisy


@pytest.fixture
def assert_ignores_padding():
    """Assert that a metric scores only the given lengths of the items of a batch, at 8 kHz."""

    def check(metric):
        estimate, reference = noisy(10.0, 3, 1, 9000)
        lengths = torch.tensor([9000, 5000, 0])
        scores = metric.compute(estimate, reference, 8000, lengths)
        garbled = estimate.clone()
        garbled[1, :, 5000:] = 100.0
        assert torch.equal(metric.compute(garbled, reference, 8000, lengths)[:2], scores[:2])
        cut = metric.compute(estimate[1:2, :, :5000], reference[1:2, :, :5000], 8000)
        assert torch.equal(cut, scores[1:2])
        assert scores[2].isnan()

    return check
