"""Stop signals: recorded by handlers, and turned into the end of a run."""

import os
import signal
import threading

import pytest

from audiocodec.run import interrupts
from audiocodec.run.interrupts import SIGNALS, Interrupts
from audiocodec.utils import distrib
from audiocodec.utils.errors import InterruptedRunError


@pytest.fixture
def handlers():
    """Handlers of the signals, restored after the test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_is_recorded_and_the_handlers_are_restored(handlers, number):
    with Interrupts() as received:
        assert received.received == 0
        os.kill(os.getpid(), number)
        assert received.received == number
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_other_threads_change_no_handlers(handlers):
    found = {}

    def enter():
        with Interrupts():
            found.update({number: signal.getsignal(number) for number in SIGNALS})

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == handlers


def test_the_end_is_an_error_with_the_exit_code_of_the_signal(handlers):
    with Interrupts() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(
            InterruptedRunError, match=r'^stopped by SIGTERM at update 3; .* resumes from there$'
        ) as error:
            received.obey('update 3')
    assert error.value.exit_code == 143


def test_the_signal_of_another_worker_ends_this_one_too(handlers, monkeypatch):
    monkeypatch.setattr(distrib, 'all_gather_object', lambda own: [own, int(signal.SIGUSR1)])
    with Interrupts() as received, pytest.raises(InterruptedRunError, match='SIGUSR1') as error:
        received.obey('update 3')
    assert error.value.signal == signal.SIGUSR1


@pytest.mark.parametrize(
    ('number', 'expected'), [(signal.SIGUSR2, [signal.SIGUSR2]), (signal.SIGTERM, [])]
)
def test_the_launcher_requeues_the_job_on_its_own_signal_only(
    handlers, monkeypatch, number, expected
):
    calls = []
    monkeypatch.setattr(interrupts.time, 'sleep', lambda seconds: None)
    signal.signal(number, lambda number, frame: calls.append(number))
    with Interrupts() as received:
        os.kill(os.getpid(), number)
        assert calls == []
        with pytest.raises(InterruptedRunError):
            received.obey('update 3')
    assert calls == expected
