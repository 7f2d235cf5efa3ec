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


RUNNING = 'JobState=RUNNING Reason=None\n   PreemptEligibleTime=2026-11-29T02:25:45 PreemptTime='


@pytest.mark.parametrize(
    ('job', 'shown', 'requeued'),
    [
        ('7', f'{RUNNING}2026-11-29T02:25:49', True),  # the grace time of a preemption
        ('7', f'{RUNNING}None', False),  # a signal of the user
        ('7', f'{RUNNING}2026-11-29T02:25:49'.replace('RUNNING', 'COMPLETING'), False),
        ('7', '', False),
        (None, f'{RUNNING}2026-11-29T02:25:49', False),
    ],
)
def test_a_preempted_job_of_slurm_is_requeued_after_it_has_saved(
    tmp_path, monkeypatch, job, shown, requeued
):
    scontrol = tmp_path / 'scontrol'
    text = f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ $1 = requeue ] || echo "{shown}"\n'
    scontrol.write_text(text)
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    if job is not None:
        monkeypatch.setenv('SLURM_JOB_ID', job)
    with Interrupts() as interrupts:
        interrupts.received = signal.SIGTERM
        with pytest.raises(InterruptedRunError) as error:
            interrupts.obey('epoch 1')
    assert error.value.exit_code == 143
    calls = (tmp_path / 'calls').read_text() if (tmp_path / 'calls').exists() else ''
    assert ('requeue 7' in calls) == requeued


def test_a_controller_that_does_not_answer_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    with Interrupts() as interrupts:
        interrupts.received = signal.SIGTERM
        with pytest.raises(InterruptedRunError):
            interrupts.obey('epoch 1')
