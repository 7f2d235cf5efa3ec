"""Place of a worker by its launcher, and its process group and CPU threads."""

import math
import os

import pytest
import torch

from audiocodec.run import launch
from audiocodec.run.device import resolve_device
from audiocodec.utils import cpus, distrib

LAUNCHERS = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'SUBMITIT_EXECUTOR')


def submitit(rank, nodes=1, per_node=8):
    """The environment of a task under `dora grid`; of the usual names Dora sets RANK alone before
    it calls us.
    """
    return {
        'SUBMITIT_EXECUTOR': 'slurm',
        'SLURM_JOB_ID': '7',
        'SLURM_JOB_NUM_NODES': nodes,
        'SLURM_NTASKS': nodes * per_node,
        'SLURM_PROCID': rank,
        'SLURM_LOCALID': rank % per_node,
        'SLURM_NODEID': rank // per_node,
        'SLURM_JOB_NODELIST': f'node[1-{nodes}]',
        'RANK': rank,
    }


def torchrun(rank, nodes=1, per_node=8):
    return {
        'RANK': rank,
        'WORLD_SIZE': nodes * per_node,
        'LOCAL_RANK': rank % per_node,
        'LOCAL_WORLD_SIZE': per_node,
        'MASTER_ADDR': 'node1',
        'MASTER_PORT': 29500,
    }


def dora_run(rank, per_node=8):
    return {'RANK': rank, 'WORLD_SIZE': per_node, 'LOCAL_RANK': rank, 'MASTER_ADDR': '127.0.0.1'}


@pytest.fixture
def launched(monkeypatch):
    """Set the environment variables of a launcher."""

    def enter(environment):
        for name in [name for name in os.environ if name in LAUNCHERS or name.startswith('SLURM_')]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))

    return enter


@pytest.fixture
def gpus(monkeypatch):
    """Simulate a machine with 8 GPUs; returns the list of GPUs that were made current."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    return chosen


@pytest.mark.parametrize('launcher', [submitit, torchrun, dora_run])
@pytest.mark.parametrize('name', ['auto', 'cuda'])
def test_eight_workers_of_a_machine_take_eight_gpus(launched, gpus, launcher, name):
    for rank in range(8):
        launched(launcher(rank))
        assert resolve_device(name, launch.find_place()) == torch.device('cuda', rank)
    assert gpus == [torch.device('cuda', rank) for rank in range(8)]


@pytest.mark.parametrize('launcher', [submitit, torchrun])
def test_workers_of_two_machines(launched, launcher):
    places = []
    for rank in range(8):
        launched(launcher(rank, nodes=2, per_node=4))
        places.append(launch.find_place())
    assert places == [(rank, 8, rank % 4, 4) for rank in range(8)]


def test_one_worker(launched):
    launched({})
    assert launch.find_place() == (0, 1, 0, 1)


def test_torchrun_within_a_job_of_slurm_decides(launched):
    launched({**submitit(0, per_node=1), **torchrun(5)})
    assert launch.find_place() == (5, 8, 5, 8)


def test_the_process_group_gets_place_device_and_timeout_and_the_place_stays(
    launched, make_solver, monkeypatch
):
    started = {}
    monkeypatch.setattr(
        launch.distributed,
        'init_process_group',
        lambda backend, **how: started.update(how, b=backend),
    )
    solver = make_solver()
    launched(submitit(5, nodes=2, per_node=4))
    place = launch.find_place()
    with solver.xp.enter(stack=True):
        launch.join_workers(place, torch.device('cuda', 1), 90)
    for name in (
        'MASTER_ADDR',
        'MASTER_PORT',
        'WORLD_SIZE',
        'RANK',
        'LOCAL_RANK',
        'LOCAL_WORLD_SIZE',
    ):
        started[name] = os.environ.pop(name)
    assert {key: str(value) for key, value in started.items() if key != 'MASTER_PORT'} == {
        'b': 'nccl',
        'init_method': 'env://',
        'rank': '5',
        'world_size': '8',
        'timeout': '0:01:30',
        'device_id': 'cuda:1',
        'MASTER_ADDR': 'node1',
        'WORLD_SIZE': '8',
        'RANK': '5',
        'LOCAL_RANK': '1',
        'LOCAL_WORLD_SIZE': '4',
    }
    launched({name: value for name, value in started.items() if name.isupper()})
    assert launch.find_place() == place


def test_a_barrier_of_nccl_names_the_workers_own_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(distrib, 'is_distributed', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 3)
    monkeypatch.setattr(distrib.distributed, 'barrier', lambda **how: calls.append(how))
    for backend in ('nccl', 'gloo'):
        monkeypatch.setattr(distrib.distributed, 'get_backend', lambda backend=backend: backend)
        distrib.barrier()
    assert calls == [{'device_ids': [3]}, {'device_ids': None}]


@pytest.mark.parametrize(
    ('cores', 'quota', 'others', 'most', 'expected'),
    [
        (range(64), math.inf, range(64), 64, 8),  # eight workers on the same cores
        (range(8), math.inf, range(8, 16), 64, 8),  # each bound to its own
        (range(64), 16.0, range(64), 64, 2),  # a quota of 16 cores
        (range(64), math.inf, range(64), 3, 3),  # OMP_NUM_THREADS
        (range(4), math.inf, range(4), 64, 1),
    ],
)
def test_threads_are_the_cores_divided(monkeypatch, cores, quota, others, most, expected):
    monkeypatch.setattr(cpus, 'affinity', lambda: list(cores))
    monkeypatch.setattr(cpus, 'quota', lambda: quota)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: most)
    monkeypatch.setattr(
        distrib, 'all_gather_object', lambda own: [own] + [(own[0], list(others))] * 7
    )
    assert launch.share_of_threads(launch.Place(0, 8, 0, 8)) == expected


def test_a_solver_takes_its_share_of_threads(make_solver, monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(launch, 'share_of_threads', lambda place: 3)
        make_solver('num_threads=0')
        assert torch.get_num_threads() == 3
        make_solver('num_threads=2')
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
