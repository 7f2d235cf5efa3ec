"""Runs under launchers other than `dora run`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from interruptions import RECIPE, checkpoint_of

from audiocodec.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def torchrun(folder, module, *arguments):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    return subprocess.run(
        [*command, '-m', *module, *RECIPE, *arguments],
        cwd=ROOT,
        env={**os.environ, 'AUDIOCODEC_DORA_DIR': str(folder), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize('module', [['dora', 'run', '--'], ['audiocodec.train']])
def test_torchrun_starts_the_workers(tmp_path, module):
    done = torchrun(tmp_path, module, 'optim.epochs=1', 'optim.updates_per_epoch=3')
    assert done.returncode == 0, done.stderr
    content = checkpoint.load_checkpoint(checkpoint_of(tmp_path))
    assert content['state']['updates'] == 3
    assert len(content['position']['workers']) == 2


@pytest.mark.slow
def test_what_is_wrong_is_a_message_under_torchrun_too(tmp_path):
    done = torchrun(tmp_path, ['audiocodec.train'], 'optim.lr=-1')
    assert done.returncode == 1
    assert 'optim.lr=-1: expected a learning rate above 0\n' in done.stderr
    assert 'ConfigError' not in done.stderr
