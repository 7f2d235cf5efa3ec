"""Jobs: states, logs, signals."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
from small_jobs import SmallJob

from audiocodec.grid.jobs import Job

WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("ready", flush=True)
time.sleep(60)
"""


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def finish(job):
    wait_until(job.poll)
    return job.state()


@pytest.mark.parametrize(
    ('program', 'state'),
    [
        ('', 'COMPLETED'),
        ('1 / 0', 'FAILED'),
        ('exit(143)', 'CANCELLED'),
        ('import os; os.kill(os.getpid(), 9)', 'FAILED'),  # as when memory runs out
    ],
)
def test_the_state_follows_from_the_exit_code(tmp_path, program, state):
    job = SmallJob(tmp_path, 'a', program)
    assert (job.state(), job.current_job_id, job.is_done()) == ('PENDING', '', False)
    job.start({})
    assert job.state() == 'RUNNING'
    assert finish(job) == state
    assert job.is_done()
    assert not job.poll(), 'an end is told once'


def test_output_and_errors_are_appended_to_the_log(tmp_path):
    for text in ('one', 'two'):
        job = SmallJob(tmp_path, 'a', f'import sys; print("{text}"); print("err", file=sys.stderr)')
        job.start({})
        finish(job)
    assert sorted(job.last_lines(20)) == ['err', 'err', 'one', 'two']
    assert job.last_lines(1) == [job.log.read_text().splitlines()[-1]]
    assert SmallJob(tmp_path, 'never', '').last_lines(5) == []


def test_variables_are_added_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('KEPT', '1')
    job = SmallJob(tmp_path, 'a', 'import os; print(os.environ["KEPT"], os.environ["NEW"])')
    job.start({'NEW': '2'})
    finish(job)
    assert job.last_lines(1) == ['1 2']


def test_a_job_that_is_stopped_may_save_its_state(tmp_path):
    job = SmallJob(tmp_path, 'a', WAITS)
    job.start({})
    wait_until(lambda: job.last_lines(1) == ['ready'])
    job.stop()
    assert finish(job) == 'CANCELLED'
    assert job.last_lines(1) == ['saved']


def test_killing_ends_the_processes_that_a_job_started(tmp_path):
    program = (
        'import subprocess, sys, time\n'
        'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])\n'
        'print(child.pid, flush=True)\ntime.sleep(60)'
    )
    job = SmallJob(tmp_path, 'a', program)
    job.start({})
    wait_until(lambda: job.last_lines(1))
    job.kill()
    assert finish(job) == 'CANCELLED'
    child = int(job.last_lines(1)[0])
    wait_until(lambda: not _runs(child))


def _runs(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_jobs_that_do_not_run_need_no_process(tmp_path):
    done = SmallJob(tmp_path, 'a', '', is_finished=True)
    assert done.state() == 'COMPLETED'
    done.stop()
    done.kill()
    assert done.state() == 'COMPLETED'
    waiting = SmallJob(tmp_path, 'b', '')
    waiting.stop()
    assert waiting.state() == 'CANCELLED'


def test_an_experiment_with_several_workers_is_started_by_torchrun(tmp_path):
    xp = SimpleNamespace(sig='a', folder=tmp_path, argv=['solver=x', 'optim.lr=1'])
    alone = [sys.executable, '-m', 'audiocodec.train', 'solver=x', 'optim.lr=1']
    assert Job(xp, 1, 1).command() == alone
    several = Job(xp, 8, 4).command()
    assert several[:3] == [sys.executable, '-m', 'torch.distributed.run']
    assert '--nproc-per-node=4' in several
    assert several[-4:] == alone[1:]
    assert os.path.basename(Job(xp, 1, 1).log) == 'grid.log'
