import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocodec import train
from audiocodec.run import logs

# Modules shared by tests and the programs that they start.
sys.path.insert(0, str(Path(__file__).parent / 'support'))
from tiny import TINY


def pytest_configure(config):
    """Divide the threads among parallel test processes (`pytest -n auto`)."""
    processes = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def pytest_collection_modifyitems(items):
    """Run files with slow tests first: a worker takes whole files, and the last should be short."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def root_logger():
    """Log warnings only and to no file, whatever ran before in this process."""

    def reset():
        logs.setup(None, rank=1, level='WARNING')

    reset()
    yield
    reset()


@pytest.fixture(scope='session')
def assert_equal():
    """Assert that two states are equal bit for bit, except for the values of durations."""
    return _assert_equal


def _assert_equal(one, other, path='state'):
    for kind in (torch.Tensor, dict, list):
        assert isinstance(one, kind) == isinstance(other, kind), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            if key not in ('duration', 'data_wait', 'updates_per_second', 'peak_memory'):
                _assert_equal(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other)):
            _assert_equal(*pair, f'{path}[{index}]')
    else:
        assert one == other, path


@pytest.fixture(scope='session')
def torchaudio():
    """Import the peer for mel filters and spectrograms; its last release needs a CUDA build."""
    try:
        import torchaudio
        import torchaudio.functional
        import torchaudio.transforms
    except (ImportError, OSError) as error:
        pytest.skip(f'torchaudio cannot be imported with torch {torch.__version__}: {error}')
    return torchaudio


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 2 MiB; return a folder on it."""
    folder = tmp_path / 'small'
    folder.mkdir()
    made = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', folder], capture_output=True
    )
    if made.returncode:
        pytest.skip('mounting a file system requires root')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


@pytest.fixture
def make_solver(tmp_path):
    """Build solvers, each in its own experiment: `make_solver('key=value', ..., base=[...])`."""
    entered = []

    def make(*overrides, base=TINY):
        xp = train.main.get_xp([*base, f'dora.dir={tmp_path}/xps', *overrides])
        train.main.init_xp(xp)
        context = xp.enter(stack=True)
        context.__enter__()
        entered.append(context)
        return train.get_solver(xp.cfg)

    yield make
    for context in reversed(entered):
        context.__exit__(None, None, None)


@pytest.fixture
def config_folder(tmp_path, monkeypatch):
    """Copy the configuration files, to add some; `train.main` reads the copy."""
    folder = shutil.copytree(train.main.full_config_path, tmp_path / 'config')
    monkeypatch.setattr(train.main, 'full_config_path', folder)
    return folder


@pytest.fixture
def make_file():
    """Write a file of noise, different for every seed."""

    def make(path, seconds=1.0, sample_rate=16000, channels=1, seed=0, amplitude=0.1, **options):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).standard_normal(
            (round(seconds * sample_rate), channels)
        )
        soundfile.write(path, (amplitude * noise).clip(-1, 1), sample_rate, **options)
        return path

    return make
