"""Place of a worker by its launcher, and its process group and CPU threads."""

import math
import os
import socket

import pytest
import torch
from forked import Forked
from items import write_items
from tiny import TINY
from torch import distributed

from audiocodec.run import launch
from audiocodec.run.device import resolve_device
from audiocodec.run.launch import slurm_of_site
from audiocodec.utils import cpus, distrib
from audiocodec.utils.config import ConfigError

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


OPTIONS = {'partition': '', 'gpus': 8, 'mem_per_gpu': 40.0, 'account': None, 'setup': []}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The folder of a user's settings, without any yet."""
    for name in list(os.environ):
        if name.startswith('AUDIOCODEC_SLURM'):
            monkeypatch.delenv(name)
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path))
    (tmp_path / 'audiocodec').mkdir()
    return tmp_path / 'audiocodec' / 'slurm.yaml'


def test_options_of_the_site_are_of_the_users_file_and_the_environment(site, monkeypatch):
    assert slurm_of_site(OPTIONS) == {}
    site.write_text('partition: gpu\nmem_per_gpu: 60\nsetup: [module load cuda]\n')
    expected = {'partition': 'gpu', 'mem_per_gpu': 60, 'setup': ['module load cuda']}
    assert slurm_of_site(OPTIONS) == expected
    monkeypatch.setenv('AUDIOCODEC_SLURM_PARTITION', 'big')
    monkeypatch.setenv('AUDIOCODEC_SLURM_ACCOUNT', 'me')
    assert slurm_of_site(OPTIONS) == {**expected, 'partition': 'big', 'account': 'me'}
    other = site.with_name('other.yaml')
    other.write_text('')
    monkeypatch.setenv('AUDIOCODEC_SLURM', str(other))
    assert slurm_of_site(OPTIONS) == {'partition': 'big', 'account': 'me'}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('partitoin: gpu', r"slurm.yaml: partitoin: no such option of Slurm; did you mean 'parti"),
        ('gpus: many', "slurm.yaml: gpus: expected an integer, got 'many'"),
        ('gpus: true', 'slurm.yaml: gpus: expected an integer, got True'),
        ('gpus: 1.5', 'slurm.yaml: gpus: expected an integer, got 1.5'),
        ('mem_per_gpu: all', "mem_per_gpu: expected a number, got 'all'"),
        ('setup: module load', "setup: expected a list, got 'module load'"),
        ('- gpu', r"expected lines such as `partition: gpu`, got \['gpu'\]"),
        ('a: [', 'slurm.yaml: the options of Slurm cannot be read'),
    ],
)
def test_mistakes_in_the_users_file_are_named(site, text, message):
    site.write_text(text)
    with pytest.raises(ConfigError, match=message):
        slurm_of_site(OPTIONS)


def test_mistakes_in_the_environment_are_named(site, monkeypatch):
    monkeypatch.setenv('AUDIOCODEC_SLURM_QUEUE', 'gpu')
    with pytest.raises(ConfigError, match='AUDIOCODEC_SLURM_QUEUE=gpu: no such option of Slurm'):
        slurm_of_site(OPTIONS)
    monkeypatch.delenv('AUDIOCODEC_SLURM_QUEUE')
    monkeypatch.setenv('AUDIOCODEC_SLURM', str(site))
    with pytest.raises(ConfigError, match=r'slurm\.yaml: the options of Slurm cannot be read'):
        slurm_of_site(OPTIONS)


def test_workers_leave_their_group(tmp_path):
    launch.leave_workers()  # there is none
    place = launch.Place(0, 1, 0, 1)
    launch._start_group(place, torch.device('cpu'), 10, f'file://{tmp_path}/meeting')
    try:
        assert distributed.is_initialized()
    finally:
        launch.leave_workers()
    assert not distributed.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize(
    'arguments',
    [
        ['audiocodec.train', *TINY],
        ['audiocodec', 'evaluate', '--data', 'items', '--opus', '6', '--out', 'out'],
    ],
    ids=['train', 'evaluate'],
)
def test_commands_end_without_a_group(tmp_path, arguments):
    """Its threads would abort the interpreter now and then, while this ends."""
    write_items(tmp_path / 'items')
    program = (
        'import atexit, runpy, sys\n'
        'from torch import distributed\n'
        'atexit.register(lambda: print("group:", distributed.is_initialized()))\n'
        'runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)\n'
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    meeting = {'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2', 'TORCHELASTIC_RUN_ID': 'a'}
    meeting |= {
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': port,
        'AUDIOCODEC_DORA_DIR': str(tmp_path),
    }
    workers = [
        Forked(
            ['-c', program, *arguments],
            tmp_path,
            {**os.environ, **meeting, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
        )
        for rank in range(2)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        assert out.splitlines()[-1] == 'group: False'
