"""The queue: order, slots, failures, stopping."""

import logging
import os
import signal
import threading
import time

import pytest
from small_jobs import SmallJob

from audiocodec.grid.queue import Queue
from audiocodec.grid.slots import Slots

SAVES = 'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); '
NOTED = 'import time; print(time.time()); time.sleep(0.3); print(time.time())'


def times(job):
    return [float(line) for line in job.last_lines(2)]


def queue(jobs, slots, show=lambda: None):
    return Queue(jobs, slots, show, 3600.0)


def states(jobs):
    return [job.state() for job in jobs]


def test_jobs_run_in_order_one_after_the_other(tmp_path):
    jobs = [SmallJob(tmp_path, name, NOTED) for name in 'abc']
    queue(jobs, Slots([])).run()
    assert states(jobs) == ['COMPLETED'] * 3
    moments = [moment for job in jobs for moment in times(job)]
    assert moments == sorted(moments)


def test_jobs_run_side_by_side(tmp_path):
    jobs = [SmallJob(tmp_path, name, NOTED) for name in 'ab']
    queue(jobs, Slots([], at_once=2)).run()
    (begin, end), (other_begin, other_end) = (times(job) for job in jobs)
    assert begin < other_end
    assert other_begin < end


def test_a_job_with_many_gpus_is_not_overtaken_for_ever(tmp_path):
    jobs = [SmallJob(tmp_path, name, NOTED, gpus=gpus) for name, gpus in zip('abc', (1, 2, 1))]
    queue(jobs, Slots(['0', '1'])).run()
    assert times(jobs[0])[1] <= times(jobs[1])[0]
    assert times(jobs[1])[1] <= times(jobs[2])[0]


def test_a_failed_job_shows_the_end_of_its_log_and_the_others_go_on(tmp_path, caplog):
    lines = 'for number in range(50): print("line", number)\n1 / 0'
    jobs = [SmallJob(tmp_path, 'bad', lines), SmallJob(tmp_path, 'good', '')]
    queue(jobs, Slots([])).run()
    assert states(jobs) == ['FAILED', 'COMPLETED']
    (message,) = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert message.startswith(f'bad failed; the end of {tmp_path}/bad/grid.log:\n')
    assert 'ZeroDivisionError' in message
    assert 'line 49' in message
    assert 'line 0' not in message


def test_finished_jobs_are_not_started(tmp_path):
    jobs = [SmallJob(tmp_path, 'a', '1 / 0', is_finished=True), SmallJob(tmp_path, 'b', '')]
    queue(jobs, Slots([])).run()
    assert states(jobs) == ['COMPLETED', 'COMPLETED']
    assert not jobs[0].log.exists()


def test_the_table_follows_every_start_and_end(tmp_path):
    jobs = [SmallJob(tmp_path, name, '') for name in 'ab']
    shown = []
    queue(jobs, Slots([]), show=lambda: shown.append(states(jobs))).run()
    assert shown[0] == ['RUNNING', 'PENDING']
    assert ['COMPLETED', 'RUNNING'] in shown
    assert shown[-1] == ['COMPLETED', 'COMPLETED']


def send_after(job, numbers):
    def send():
        while not job.last_lines(1):
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_running_jobs_save_and_starts_no_others(tmp_path, number, caplog):
    jobs = [
        SmallJob(tmp_path, 'a', SAVES + 'print(1, flush=True); time.sleep(60)'),
        SmallJob(tmp_path, 'b', ''),
    ]
    before = signal.getsignal(number)
    send_after(jobs[0], [number])
    queue(jobs, Slots([])).run()
    assert states(jobs) == ['CANCELLED', 'CANCELLED']
    assert not jobs[1].log.exists()
    assert 'running experiments save their state' in caplog.text
    assert signal.getsignal(number) == before


def test_a_second_signal_kills(tmp_path):
    stubborn = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); '
    jobs = [
        SmallJob(tmp_path, name, stubborn + 'print(1, flush=True); time.sleep(60)') for name in 'ab'
    ]
    send_after(jobs[0], [signal.SIGINT, signal.SIGINT])
    begin = time.monotonic()
    queue(jobs, Slots([])).run()
    assert time.monotonic() - begin < 30
    assert states(jobs) == ['CANCELLED', 'CANCELLED']
