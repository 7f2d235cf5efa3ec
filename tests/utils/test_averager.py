import math

import pytest
import torch

from audiocodec.utils.averager import Averager


def test_means_are_weighted_and_keys_may_come_and_go():
    averager = Averager()
    assert averager.read() == {}
    averager.update({'a': torch.tensor(1.), 'b': torch.tensor(10.)}, weight=3)
    averager.update({'a': torch.tensor(5.)}, weight=1)
    assert averager.read() == {'a': 2., 'b': 10.}


def test_the_values_of_a_metric_are_numbered():
    averager = Averager()
    averager.update({'a': torch.tensor([1., 2.]), 'b': torch.tensor(3.)})
    averager.update({'a': torch.tensor([3., 6.]), 'b': torch.tensor(3.)})
    assert averager.read() == {'a_1': 2., 'a_2': 4., 'b': 3.}


def test_no_graph_is_kept():
    averager = Averager()
    averager.update({'a': torch.ones((), requires_grad=True) * 2})
    assert averager.read() == {'a': 2.}
    assert not any(value.requires_grad for value in averager._sums.values())


def test_many_updates_do_not_lose_precision():
    averager = Averager()
    for _ in range(20000):
        averager.update({'a': torch.tensor(0.1)})
    assert averager.read()['a'] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_state_is_exact():
    averager, other = Averager(), Averager()
    averager.update({'a': torch.tensor(1 / 3)})
    averager.update({'a': torch.tensor(math.pi), 'b': torch.tensor(1.)})
    other.load_state_dict(averager.state_dict())
    for each in (averager, other):
        each.update({'a': torch.tensor(math.e)})
    assert other.read() == averager.read()
