"""Slots: GPUs and CPU cores that experiments take and return."""

import pytest

from audiocodec.grid.slots import Slots, visible_gpus
from audiocodec.utils import cpus


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(cpus, 'usable_cores', lambda: 8)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)


def devices(variables):
    return variables['CUDA_VISIBLE_DEVICES']


def test_each_experiment_has_gpus_of_its_own_and_returns_them():
    slots = Slots(['0', '1', '2', '3'])
    assert devices(slots.take('a', 2)) == '0,1'
    assert devices(slots.take('b', 1)) == '2'
    assert slots.take('c', 2) is None
    slots.give_back('a')
    assert devices(slots.take('c', 2)) == '3,0'


def test_an_experiment_gets_all_gpus_if_it_asks_for_more():
    slots = Slots(['0', 'GPU-1a'])
    assert slots.workers(8) == 2
    assert devices(slots.take('a', 8)) == '0,GPU-1a'
    assert slots.take('b', 1) is None


def test_fewer_at_once_than_there_are_gpus():
    slots = Slots(['0', '1', '2'], at_once=2)
    assert slots.take('a', 1)
    assert slots.take('b', 1)
    assert slots.take('c', 1) is None


def test_on_a_cpu_experiments_divide_the_cores():
    slots = Slots([], at_once=3)
    assert slots.workers(8) == 1
    assert slots.take('a', 8) == {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '2'}
    assert slots.take('b', 1)
    assert slots.take('c', 1)
    assert slots.take('d', 1) is None


def test_one_at_once_on_a_cpu_by_default_with_all_cores():
    slots = Slots([])
    assert slots.take('a', 1)['OMP_NUM_THREADS'] == '8'
    assert slots.take('b', 1) is None


def test_a_lower_number_of_threads_is_respected(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    assert Slots([]).take('a', 1)['OMP_NUM_THREADS'] == '1'


@pytest.mark.parametrize('at_once', [0, -1])
def test_no_slots_are_an_error(at_once):
    with pytest.raises(ValueError, match=rf'--slots {at_once}: expected at least 1'):
        Slots([], at_once)


@pytest.mark.parametrize(
    ('listed', 'count', 'expected'),
    [
        (None, 2, ['0', '1']),
        ('3, 5', 2, ['3', '5']),
        ('GPU-1a', 1, ['GPU-1a']),
        ('', 0, []),
        (None, 0, []),
    ],
)
def test_the_gpus_are_those_that_the_environment_leaves(monkeypatch, listed, count, expected):
    monkeypatch.setattr('torch.cuda.device_count', lambda: count)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if listed is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', listed)
    assert visible_gpus() == expected
