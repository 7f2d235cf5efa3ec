import pickle

import pytest
import torch

from audiocodec.metrics import MeanMetric
from audiocodec.metrics.base import without_padding


class Error(MeanMetric):
    """Mean absolute difference of each item; NaN for items without samples."""

    name = 'error'

    def measure(self, estimate, reference, lengths=None):
        items = without_padding(estimate, reference, lengths)
        return torch.stack([(est - ref).abs().mean() for est, ref in items])


def ramp(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def test_mean_metric_averages_items_over_batches():
    metric = Error()
    metric.update(torch.ones(2, 1, 4), torch.zeros(2, 1, 4))
    metric.update(torch.full((1, 1, 4), 4.0), torch.zeros(1, 1, 4))
    assert metric.compute() == {'error': 2.0}
    assert metric.partial().tolist() == [6, 3]


def test_items_that_cannot_be_scored_are_left_out():
    metric = Error()
    lengths = torch.tensor([4, 0])
    metric.update(torch.ones(2, 1, 4), torch.zeros(2, 1, 4), lengths)
    assert metric.compute() == {'error': 1.0}


def test_without_scores_there_is_no_value():
    metric = Error()
    assert metric.compute() == {}
    metric.update(torch.ones(1, 1, 4), torch.zeros(1, 1, 4))
    metric.reset()
    assert metric.compute() == {}


def test_partial_results_of_workers_are_combined():
    first, second = Error(), Error()
    first.add(torch.tensor([1.0, 2.0]))
    second.add(torch.tensor([6.0, torch.nan]))
    partials = [pickle.loads(pickle.dumps(metric.partial())) for metric in (first, second)]
    assert first.combine([*partials, Error().partial()]) == {'error': 3.0}


def test_sums_are_in_double_precision():
    metric = Error()
    metric.add(torch.full((1000,), 0.1, dtype=torch.bfloat16))
    value = torch.tensor(0.1, dtype=torch.bfloat16).item()
    assert metric.compute()['error'] == pytest.approx(value, rel=1e-12)


def test_without_padding_cuts_each_item():
    estimate, reference = ramp(2, 1, 5), -ramp(2, 1, 5)
    items = list(without_padding(estimate, reference, torch.tensor([2, 5])))
    assert [est.tolist() for est, _ in items] == [[[[0, 1]]], [[[5, 6, 7, 8, 9]]]]
    assert [ref.tolist() for _, ref in items] == [[[[0, -1]]], [[[-5, -6, -7, -8, -9]]]]
    whole = [est for est, _ in without_padding(estimate, reference)]
    assert torch.equal(torch.cat(whole), estimate)


@pytest.mark.parametrize('lengths', [[100], [100, 101], [-1, 100]])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match=r'lengths must be 2 numbers from 0 to 100.*got'):
        Error().update(ramp(2, 1, 100), ramp(2, 1, 100), torch.tensor(lengths))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r'\[1, 1, 100\] and \[1, 1, 99\]'):
        Error().update(torch.zeros(1, 1, 100), torch.zeros(1, 1, 99))
