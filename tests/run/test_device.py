"""The device of a worker, its memory, and seeds."""

import random

import numpy as np
import pytest
import torch

from audiocodec.run.device import peak_memory, resolve_device, seed_everything
from audiocodec.run.launch import Place
from audiocodec.utils.config import ConfigError


@pytest.fixture
def gpus(monkeypatch):
    """Simulate a machine with 8 GPUs; returns the list of GPUs that were made current."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    return chosen


def place(local_rank=0, workers=8):
    return Place(local_rank, workers, local_rank, workers)


def test_the_cpu_by_name_or_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert resolve_device('cpu', place()) == torch.device('cpu')
    assert resolve_device('auto', place()) == torch.device('cpu')
    with pytest.raises(ConfigError, match='device=cuda: PyTorch finds no CUDA device; use'):
        resolve_device('cuda', place())
    with pytest.raises(ConfigError, match='device=gpu: expected auto, cpu, cuda, cuda:N or mps'):
        resolve_device('gpu', place())


def test_the_only_visible_gpu_is_used(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    assert resolve_device('cuda', place(3)) == torch.device('cuda', 0)


def test_each_worker_makes_its_own_gpu_the_current_one(gpus):
    assert resolve_device('auto', place(5)) == torch.device('cuda', 5)
    assert gpus == [torch.device('cuda', 5)]


def test_more_workers_than_gpus(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    with pytest.raises(
        ConfigError, match='device=cuda: 8 workers run on this machine, but 4 GPUs are visible'
    ):
        resolve_device('cuda', place(5))
    assert gpus == []


def test_one_gpu_by_number_is_for_one_worker(gpus):
    with pytest.raises(
        ConfigError, match=r'device=cuda:1 is one GPU, but the 8 workers .*; use device=cuda$'
    ):
        resolve_device('cuda:1', place())
    assert resolve_device('cuda:1', place(workers=1)) == torch.device('cuda', 1)


@pytest.mark.parametrize(('is_built', 'reason'), [(True, 'this macOS'), (False, 'this build')])
def test_the_gpu_of_a_mac(monkeypatch, is_built, reason):
    monkeypatch.setattr(torch.backends.mps, 'is_built', lambda: is_built)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(
        ConfigError, match=f'device=mps: PyTorch finds no Apple GPU, {reason} .*; use device=cpu'
    ):
        resolve_device('mps', place(workers=1))
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert resolve_device('mps', place(workers=1)) == torch.device('mps')
    assert peak_memory(torch.device('mps')) is None
    with pytest.raises(ConfigError, match='device=mps is one GPU, but there are 8 workers'):
        resolve_device('mps', place())


def test_peak_memory_is_that_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda device: 3 * 2**29)
    assert peak_memory(torch.device('cuda', 0)) == 1.5
    assert peak_memory(torch.device('cpu')) is None


def test_every_generator_is_seeded_from_all_numbers():
    def draws(*numbers):
        seed_everything(*numbers)
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    with torch.random.fork_rng(devices=[]):
        first = draws(1, 2)
        assert draws(1, 2) == first
        for one, other in zip(draws(1, 3), first):
            assert one != other
