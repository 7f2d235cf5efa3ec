import math

import pytest
import torch

from audiocodec.metrics import Metric, Score, UnscorableError
from audiocodec.metrics.base import without_padding


class Difference(Metric):
    """Mean absolute difference.

    More.
    """

    def score(self, estimate, reference, sample_rate):
        if reference.min() < 0:
            raise UnscorableError('it is negative')
        return (estimate - reference).abs().mean() * sample_rate


class NotANumber(Metric):
    def score(self, estimate, reference, sample_rate):
        return math.nan


def ramp(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def test_each_item_has_a_score():
    estimate = torch.tensor([[[1.0, 1.0]], [[4.0, 2.0]]])
    scores = Difference().compute(estimate, torch.zeros(2, 1, 2), 10)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [10, 30]


def test_items_without_a_score_are_nan_and_say_why():
    reference = torch.tensor([[[1.0, 1.0]], [[-1.0, 1.0]], [[0.0, 0.0]]])
    lengths = torch.tensor([2, 2, 0])
    scores = Difference().compute(torch.zeros(3, 1, 2), reference, 1, lengths)
    assert scores.isnan().tolist() == [False, True, True]
    item = Difference().score_item(torch.zeros(1, 2), reference[1], 1)
    assert math.isnan(item.value)
    assert item[1:] == ('it is negative', False)
    assert (
        Difference().score_item(torch.zeros(1, 0), torch.zeros(1, 0), 1).reason
        == 'it has no samples'
    )
    assert NotANumber().score_item(*torch.zeros(2, 1, 2), 1).reason == 'the score is not a number'
    assert Difference().score_item(*torch.zeros(2, 1, 2), 1) == Score(0.0)


def test_no_graph_is_kept():
    estimate = torch.ones(1, 4, requires_grad=True)

    class Checked(Difference):
        def score(self, estimate, reference, sample_rate):
            result = super().score(estimate, reference, sample_rate)
            assert not result.requires_grad
            return result

    assert Checked().score_item(estimate, torch.zeros(1, 4), 1).value == 1


def test_the_description_is_the_first_line():
    assert Difference().description == 'Mean absolute difference'


def test_without_padding_cuts_each_item():
    estimate, reference = ramp(2, 1, 5), -ramp(2, 1, 5)
    items = list(without_padding(estimate, reference, torch.tensor([2, 5])))
    assert [est.tolist() for est, _ in items] == [[[0, 1]], [[5, 6, 7, 8, 9]]]
    assert [ref.tolist() for _, ref in items] == [[[0, -1]], [[-5, -6, -7, -8, -9]]]
    whole = [est for est, _ in without_padding(estimate, reference)]
    assert torch.equal(torch.stack(whole), estimate)


@pytest.mark.parametrize('lengths', [[100], [100, 101], [-1, 100]])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match=r'lengths must be 2 numbers from 0 to 100.*got'):
        Difference().compute(ramp(2, 1, 100), ramp(2, 1, 100), 1, torch.tensor(lengths))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r'\[1, 1, 100\] and \[1, 1, 99\]'):
        Difference().compute(torch.zeros(1, 1, 100), torch.zeros(1, 1, 99), 1)
