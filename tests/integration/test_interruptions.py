"""A run interrupted anywhere ends bit for bit where an uninterrupted one ends."""

import random
import signal
import socket
import subprocess
import time

import pytest
from interruptions import checkpoint_of, fingerprint, finish, interrupted, kill, start

from audiocodec.run import checkpoint

pytestmark = pytest.mark.slow

SHORT = ['optim.epochs=2', 'optim.updates_per_epoch=14']


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < until, 'it took too long'
        time.sleep(0.01)


def position(folder):
    content = checkpoint.load_checkpoint(checkpoint_of(folder))
    return content['epoch'], content['position']['batches']


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    code, text = finish(start(folder, *SHORT))
    assert code == 0, text
    return folder


def test_random_interruptions_leave_no_trace(whole, tmp_path):
    sent = interrupted(tmp_path, SHORT, 3, random.Random(3))
    assert sum(sent.values()) >= 2
    assert fingerprint(checkpoint_of(tmp_path)) == fingerprint(checkpoint_of(whole))


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR2'])
def test_a_signal_inside_an_epoch_saves_and_exits(whole, tmp_path, name):
    """Without periodic checkpoints: what is there was written because of the signal."""
    overrides = [*SHORT, 'checkpoint.every_updates=null']
    process = start(tmp_path, *overrides)
    log = lambda: ''.join(path.read_text() for path in tmp_path.glob('xps/*/solver.log.0'))  # noqa: E731
    wait_for(lambda: 'Train | Epoch 1 | 3/14' in log(), process)
    kill(process, getattr(signal, name))
    code, text = finish(process)
    assert code == 128 + getattr(signal, name)
    assert f'{name}: stopped at epoch 1, after batch' in text
    assert 'Traceback' not in text
    epoch, batches = position(tmp_path)
    assert epoch == 0
    assert 3 <= batches < 14
    code, text = finish(start(tmp_path, *overrides))
    assert code == 0
    assert f'resuming at epoch 1, after batch {batches}' in text
    assert fingerprint(checkpoint_of(tmp_path)) == fingerprint(checkpoint_of(whole))


def test_a_signal_leaves_validation_at_once(tmp_path):
    overrides = ['optim.epochs=1', 'optim.updates_per_epoch=1', 'dataset.valid.num_samples=100000']
    process = start(tmp_path, *overrides)
    log = lambda: ''.join(path.read_text() for path in tmp_path.glob('xps/*/solver.log.0'))  # noqa: E731
    wait_for(lambda: 'Epoch 1 train' in log(), process)
    time.sleep(0.5)
    kill(process, signal.SIGTERM)
    code, text = finish(process, timeout=60)
    assert code == 143
    assert 'stopped at epoch 1, after train' in text
    content = checkpoint.load_checkpoint(checkpoint_of(tmp_path))
    assert list(content['position']['stages']) == ['train']
    averages = content['state']['ema']['averages']  # of one update: the weights themselves
    assert all(content['state']['model'][name].equal(value) for name, value in averages.items())


def test_two_workers_stop_together_and_go_on_as_if_they_had_not(tmp_path):
    overrides = [*SHORT, 'checkpoint.every_updates=null']
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    code, text = finish(start(whole, *overrides, workers=2))
    assert code == 0, text
    process = start(parts, *overrides, workers=2)
    log = lambda: ''.join(path.read_text() for path in parts.glob('xps/*/solver.log.0'))  # noqa: E731
    wait_for(lambda: 'Train | Epoch 1 | 3/14' in log(), process)
    (child,) = subprocess.run(
        ['pgrep', '-P', str(process.pid), '-f', 'dora'], capture_output=True, text=True
    ).stdout.split()[-1:]
    subprocess.run(['kill', '-TERM', child], check=True)  # one of them alone
    code, text = finish(process)
    assert code == 1  # of Dora's launcher
    assert 'SIGTERM: stopped at epoch 1, after batch' in text
    code, text = finish(start(parts, *overrides, workers=2))
    assert code == 0, text
    assert fingerprint(checkpoint_of(parts)) == fingerprint(checkpoint_of(whole))


def test_the_same_experiment_twice_at_once_is_refused(tmp_path):
    overrides = ['optim.epochs=1', 'optim.updates_per_epoch=500']
    process = start(tmp_path, *overrides)
    wait_for(lambda: list(tmp_path.glob('xps/*/checkpoint.th')), process)
    code, text = finish(start(tmp_path, *overrides), timeout=60)
    assert code == 1
    assert f'is already running, by process {process.pid} on {socket.gethostname()}' in text
    assert 'Traceback' not in text
    kill(
        process, signal.SIGKILL
    )  # loading processes may live on for some seconds; the lock does not
    finish(process)
    code, text = finish(start(tmp_path, *overrides[:1], 'optim.updates_per_epoch=500', 'show=true'))
    assert code == 0
    again = start(tmp_path, *overrides)
    (log,) = tmp_path.glob('xps/*/solver.log.0')
    wait_for(lambda: 'resuming at epoch 1' in log.read_text(), again)
    kill(again, signal.SIGKILL)
    finish(again)
