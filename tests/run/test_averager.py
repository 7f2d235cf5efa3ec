import math

import pytest
import torch

from audiocodec.run import averager as module
from audiocodec.run.averager import Averager


@pytest.fixture(params=[False, True], ids=['float64', 'two float32'], autouse=True)
def without_float64(request, monkeypatch):
    """Also run all tests as on a device without float64."""
    if request.param:
        monkeypatch.setattr(module, '_WITHOUT_FLOAT64', {'cpu'})
    return request.param


def test_means_are_weighted_and_keys_may_come_and_go():
    averager = Averager()
    assert averager.read() == {}
    averager.update({'a': torch.tensor(1.0), 'b': torch.tensor(10.0)}, weight=3)
    averager.update({'a': torch.tensor(5.0)}, weight=1)
    assert averager.read() == {'a': 2.0, 'b': 10.0}


def test_the_values_of_a_metric_are_numbered():
    averager = Averager()
    averager.update({'a': torch.tensor([1.0, 2.0]), 'b': torch.tensor(3.0)})
    averager.update({'a': torch.tensor([3.0, 6.0]), 'b': torch.tensor(3.0)})
    assert averager.read() == {'a_1': 2.0, 'a_2': 4.0, 'b': 3.0}


def test_no_graph_is_kept():
    averager = Averager()
    averager.update({'a': torch.ones((), requires_grad=True) * 2})
    assert averager.read() == {'a': 2.0}
    assert not any(value.requires_grad for value in averager._sums.values())


def test_many_updates_do_not_lose_precision():
    averager = Averager()
    for _ in range(20000):
        averager.update({'a': torch.tensor(0.1)})
    assert averager.read()['a'] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_state_is_exact():
    averager, other = Averager(), Averager()
    averager.update({'a': torch.tensor(1 / 3)})
    averager.update({'a': torch.tensor(math.pi), 'b': torch.tensor(1.0)})
    other.load_state_dict(averager.state_dict())
    for each in (averager, other):
        each.update({'a': torch.tensor(math.e)})
    assert other.read() == averager.read()


def test_levels_are_read_by_their_numbers():
    averager = Averager()
    averager.update({'usage': torch.tensor([0.25, 0.5]), 'loss': torch.tensor(1.0)})
    averager.update({'usage': torch.tensor([0.75, 1.0]), 'loss': torch.tensor(3.0)}, weight=3)
    assert averager.read() == {'usage_1': 0.625, 'usage_2': 0.875, 'loss': 2.5}


def test_updates_are_left_out_by_a_flag_on_the_device():
    averager = Averager()
    averager.update({'a': torch.tensor(math.nan)}, where=torch.tensor(False))
    assert math.isnan(averager.read()['a'])
    averager.update({'a': torch.tensor(2.0)}, where=torch.tensor(True))
    assert averager.read() == {'a': 2.0}


def test_several_states_merge_into_one():
    averagers = [Averager() for _ in range(3)]
    averagers[0].update({'a': torch.tensor(1.0)})
    averagers[1].update({'a': torch.tensor(4.0), 'b': torch.tensor(5.0)})
    averagers[1].update({'a': torch.tensor(4.0)})
    merged = Averager()
    merged.load_state_dict(Averager.merge([averager.state_dict() for averager in averagers]))
    assert merged.read() == {'a': 3.0, 'b': 5.0}


def test_recent_means_begin_where_the_last_ones_ended():
    averager = Averager()
    assert averager.read_recent() == {}
    averager.update({'a': torch.tensor(1.0), 'b': torch.tensor([1.0, 2.0])})
    averager.update({'c': torch.tensor(7.0)})
    assert averager.read_recent() == {'a': 1.0, 'b_1': 1.0, 'b_2': 2.0, 'c': 7.0}
    averager.update({'a': torch.tensor(3.0), 'b': torch.tensor([5.0, 6.0])}, weight=2)
    averager.update({'c': torch.tensor(math.nan)}, where=torch.tensor(False))
    assert averager.read_recent() == {'a': 3.0, 'b_1': 5.0, 'b_2': 6.0}
    assert averager.read_recent() == {}
    assert averager.read() == {'a': 7 / 3, 'b_1': 11 / 3, 'b_2': 14 / 3, 'c': 7.0}
    restored = Averager()
    restored.load_state_dict(averager.state_dict())
    restored.update({'c': torch.tensor(9.0)})
    assert restored.read_recent() == {'c': 9.0}
