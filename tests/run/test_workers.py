"""Parts of `WorkerWatch` in one process; tests/solvers/test_solver_workers.py tests whole runs."""

import socket

import pytest

from audiocodec.run import workers
from audiocodec.run.launch import Place
from audiocodec.run.workers import WorkerWatch, _receive, _send
from audiocodec.utils.errors import InterruptedRunError


@pytest.fixture
def connect():
    """Make pairs of connected sockets, which are closed after the test."""
    made = []

    def make():
        pair = socket.socketpair()
        made.extend(pair)
        return pair

    yield make
    for link in made:
        link.close()


@pytest.fixture
def watch(connect):
    """Make the watch of a worker without its thread, and the other end of its connection."""

    def make(rank=0):
        found = WorkerWatch(Place(0, 1, 0, 1), 1.0)
        found.place = Place(rank, 2, rank, 2)
        own, other = connect()
        found._links = {1 - rank: own}
        return found, other

    return make


def test_a_text_is_received_whole_and_the_end_of_a_process_is_empty(connect):
    own, other = connect()
    text = 'worker 1: ä' * 20_000
    other.settimeout(10)
    sender = workers.threading.Thread(target=_send, args=(own, text))
    sender.start()
    assert _receive(other) == text
    sender.join()
    own, other = connect()
    own.close()
    assert _receive(other) == ''
    _send(other, 'nobody reads this')


def test_a_single_worker_raises_its_own_error_and_connects_to_nobody():
    single = WorkerWatch(Place(0, 1, 0, 1), 1.0)
    with pytest.raises(ValueError, match='wrong'), single.ending_together():
        raise ValueError('wrong')
    single.finish()
    assert single._links == {}


def test_worker_zero_forwards_the_first_error_and_raises_it(watch):
    found, other = watch()
    found._has_error.wait = lambda timeout: False
    with pytest.raises(ValueError, match='wrong'), found.ending_together():
        raise ValueError('wrong')
    assert _receive(other) == 'worker 0: wrong'
    found._settle('worker 1: later')
    assert found._first_error == 'worker 0: wrong'


def test_an_error_after_that_of_another_worker_is_its_consequence(watch):
    found, _ = watch()
    found._settle('worker 1: the cause')
    with pytest.raises(SystemExit) as end, found.ending_together():
        raise RuntimeError('connection closed by peer')
    assert end.value.code == 1
    assert found._first_error == 'worker 1: the cause'


def test_other_workers_report_their_error_with_a_traceback_to_worker_zero(watch, monkeypatch):
    monkeypatch.setattr(workers, '_CONSEQUENCE', 0.0)
    monkeypatch.setattr(workers, '_GRACE', 0.0)
    found, other = watch(rank=1)
    with pytest.raises(KeyError), found.ending_together():
        raise KeyError('bug')
    text = _receive(other)
    assert text.startswith('worker 1: Traceback')
    assert text.endswith("KeyError: 'bug'")


def test_an_interruption_is_not_reported(watch):
    found, other = watch()
    with pytest.raises(InterruptedRunError), found.ending_together():
        raise InterruptedRunError('stopped', 15)
    found._close()
    assert _receive(other) == ''
