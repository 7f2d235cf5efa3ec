import math

import pytest
import torch

from audiocodec.run.averager import Averager


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


def test_levels_are_read_by_their_numbers():
    averager = Averager()
    averager.update({'usage': torch.tensor([0.25, 0.5]), 'loss': torch.tensor(1.)})
    averager.update({'usage': torch.tensor([0.75, 1.]), 'loss': torch.tensor(3.)}, weight=3)
    assert averager.read() == {'usage_1': 0.625, 'usage_2': 0.875, 'loss': 2.5}


def test_updates_are_left_out_by_a_flag_on_the_device():
    averager = Averager()
    averager.update({'a': torch.tensor(math.nan)}, where=torch.tensor(False))
    assert math.isnan(averager.read()['a'])
    averager.update({'a': torch.tensor(2.)}, where=torch.tensor(True))
    assert averager.read() == {'a': 2.}


def test_several_states_merge_into_one():
    averagers = [Averager() for _ in range(3)]
    averagers[0].update({'a': torch.tensor(1.)})
    averagers[1].update({'a': torch.tensor(4.), 'b': torch.tensor(5.)})
    averagers[1].update({'a': torch.tensor(4.)})
    merged = Averager()
    merged.load_state_dict(Averager.merge([averager.state_dict() for averager in averagers]))
    assert merged.read() == {'a': 3., 'b': 5.}


def test_recent_means_begin_where_the_last_ones_ended():
    averager = Averager()
    assert averager.read_recent() == {}
    averager.update({'a': torch.tensor(1.), 'b': torch.tensor([1., 2.])})
    averager.update({'c': torch.tensor(7.)})
    assert averager.read_recent() == {'a': 1., 'b_1': 1., 'b_2': 2., 'c': 7.}
    averager.update({'a': torch.tensor(3.), 'b': torch.tensor([5., 6.])}, weight=2)
    averager.update({'c': torch.tensor(math.nan)}, where=torch.tensor(False))
    assert averager.read_recent() == {'a': 3., 'b_1': 5., 'b_2': 6.}
    assert averager.read_recent() == {}
    assert averager.read() == {'a': 7 / 3, 'b_1': 11 / 3, 'b_2': 14 / 3, 'c': 7.}
    restored = Averager()
    restored.load_state_dict(averager.state_dict())
    restored.update({'c': torch.tensor(9.)})
    assert restored.read_recent() == {'c': 9.}
