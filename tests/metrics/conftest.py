import pytest
import torch
from noise import noisy


@pytest.fixture
def assert_ignores_padding():
    """Assert that a metric at 8 kHz measures only the given lengths of the items of a batch."""

    def check(metric):
        estimate, reference = noisy(10.0, 3, 1, 9000)
        lengths = torch.tensor([9000, 5000, 0])
        scores = metric.measure(estimate, reference, lengths)
        garbled = estimate.clone()
        garbled[1, :, 5000:] = 100.0
        assert torch.equal(metric.measure(garbled, reference, lengths)[:2], scores[:2])
        cut = metric.measure(estimate[1:2, :, :5000], reference[1:2, :, :5000])
        assert torch.equal(cut, scores[1:2])
        assert scores[2].isnan()
        metric.update(estimate, reference, lengths)
        assert metric.compute()[metric.name] == pytest.approx(scores[:2].mean().item())

    return check
