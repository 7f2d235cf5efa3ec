"""`dora grid` on a real Slurm of two nodes; `tests/support/slurm.sh` starts one on this machine.

Skipped elsewhere: jobs of these tests would occupy a cluster.
"""

import os
import shutil
import subprocess
import time

import forked
import pytest
from interruptions import RECIPE, ROOT, fingerprint, finish, start

SHORT = ['optim.epochs=2', 'optim.updates_per_epoch=14']
GRID = """
from dora import Explorer


@Explorer
def explorer(launcher):
    launcher.slurm_({slurm})
    launcher.bind_({recipe})
    with launcher.job_array():
        for seed in {seeds}:
            launcher({{'seed': seed}})
"""
ONE = 'gpus=1, cpus_per_gpu=4, mem_per_gpu=4, time=60'
# Dora fills nodes of 8 GPUs; one task on each makes two workers.
TWO_NODES = 'gpus=16, one_task_per_node=True, cpus_per_gpu=1, mem_per_gpu=1, time=60'


def call(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def is_here():
    if shutil.which('sinfo') is None:
        return False
    nodes = subprocess.run(['sinfo', '-h', '-o', '%N %D'], capture_output=True, text=True)
    return 'codec[1-2] 2' in nodes.stdout


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_here(), reason='no Slurm of tests/support/slurm.sh'),
    pytest.mark.timeout(900),
]


def wait_for(condition, what, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f'{what}\n{call("squeue")}'
        time.sleep(0.3)
    return found


class Campaign:
    """A grid of the tests' recipe, its jobs, and the logs of its experiments."""

    def __init__(self, folder, slurm, seeds):
        self.folder = folder
        (folder / 'grids').mkdir()
        (folder / 'grids' / '__init__.py').touch()
        grid = GRID.format(slurm=slurm, recipe=[*RECIPE, *SHORT], seeds=seeds)
        (folder / 'grids' / 'mine.py').write_text(grid)

    def dora(self, *arguments):
        env = {
            **os.environ,
            'AUDIOCODEC_DORA_DIR': str(self.folder / 'outputs'),
            'PYTHONPATH': str(ROOT),
            'OMP_NUM_THREADS': '1',
            'USER': 'root',
        }
        command = ['-m', 'dora', '-P', 'audiocodec', 'grid', 'mine', '--no_monitor', *arguments]
        done = forked.run(command, self.folder, env, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def experiments(self):
        """Folders of the experiments by seed."""
        found = {}
        for folder in (self.folder / 'outputs' / 'xps').iterdir():
            text = (folder / '.argv.json').read_text()
            found[int(text.split('seed=')[1].split('"')[0])] = folder
        return found

    def job_of(self, seed):
        (link,) = (
            link
            for link in (self.folder / 'outputs' / 'by_id').iterdir()
            if link.resolve() == self.experiments()[seed].resolve()
        )
        return link.name

    def log(self, seed):
        path = self.experiments()[seed] / 'solver.log.0'
        return path.read_text() if path.exists() else ''


def state(job):
    return call('squeue', '-h', '-j', job, '-o', '%T') or 'ENDED'


def test_an_array_is_cancelled_preempted_requeued_and_resumed_bit_for_bit(tmp_path):
    place = tmp_path / 'cluster'
    place.mkdir()
    campaign = Campaign(place, ONE, [1, 2])
    assert campaign.dora().count('Scheduled job') == 2
    for seed in (1, 2):
        text = f'seed {seed} does not train'
        wait_for(lambda seed=seed: 'Train | Epoch 1 | 2/14' in campaign.log(seed), text)
    call('scancel', campaign.job_of(2))
    wait_for(lambda: 'stopped at' in campaign.log(2), 'the cancelled run does not save')
    other = call(
        'sbatch', '-p', 'high', '-N2', '--exclusive', '-o', '/dev/null', '--wrap', 'sleep 3'
    )
    wait_for(lambda: 'SIGTERM: stopped at' in campaign.log(1), 'the preempted run does not save')
    wait_for(lambda: state(campaign.job_of(1)) == 'PENDING', 'the preempted run is not requeued')
    wait_for(lambda: state(other.split()[-1]) == 'ENDED', 'the other job does not end')
    call('scontrol', 'update', f'JobId={campaign.job_of(1)}', 'StartTime=now')
    wait_for(lambda: 'done: 2 epochs, 28 updates' in campaign.log(1), 'it is not resumed')
    assert 'resuming at epoch ' in campaign.log(1)
    assert 'done: ' not in campaign.log(2)
    table = campaign.dora()
    assert 'CAN' in table
    assert campaign.dora('--retry').count('Scheduled job') == 1
    wait_for(lambda: 'done: 2 epochs' in campaign.log(2), 'the cancelled run is not resumed')
    for seed in (1, 2):
        code, text = finish(start(tmp_path / f'whole{seed}', *SHORT, f'seed={seed}'))
        assert code == 0, text
        (whole,) = (tmp_path / f'whole{seed}' / 'xps').iterdir()
        resumed = campaign.experiments()[seed]
        assert whole.name == resumed.name
        assert fingerprint(whole / 'checkpoint.th') == fingerprint(resumed / 'checkpoint.th')


def test_an_experiment_over_two_nodes_survives_the_death_of_one(tmp_path):
    place = tmp_path / 'cluster'
    place.mkdir()
    campaign = Campaign(place, TWO_NODES, [1])
    campaign.dora()
    wait_for(lambda: 'Train | Epoch 1 | 2/14' in campaign.log(1), 'it does not train')
    job = campaign.job_of(1)
    assert call('squeue', '-h', '-j', job, '-o', '%N') == 'codec[1-2]'
    call('scontrol', 'update', 'NodeName=codec2', 'State=DOWN', 'Reason=test')
    try:
        wait_for(lambda: state(job) == 'PENDING', 'it is not requeued')
    finally:  # a node that answers comes back by itself
        subprocess.run(['scontrol', 'update', 'NodeName=codec2', 'State=RESUME'])
    call('scontrol', 'update', f'JobId={job}', 'StartTime=now')
    wait_for(lambda: 'done: 2 epochs, 28 updates' in campaign.log(1), 'it is not resumed')
    assert 'resuming at epoch ' in campaign.log(1)
    code, text = finish(start(tmp_path / 'whole', *SHORT, 'seed=1', workers=2))
    assert code == 0, text
    (whole,) = (tmp_path / 'whole' / 'xps').iterdir()
    resumed = campaign.experiments()[1]
    assert whole.name == resumed.name
    assert fingerprint(whole / 'checkpoint.th') == fingerprint(resumed / 'checkpoint.th')
