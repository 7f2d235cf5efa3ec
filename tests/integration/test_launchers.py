"""Runs under launchers other than `dora run`."""

import json
import os
import socket
from pathlib import Path

import forked
import pytest
from forked import Forked
from interruptions import RECIPE, checkpoint_of, fingerprint, finish, start
from items import write_items

from audiocodec.cli.main import main
from audiocodec.evaluation.rows import RowFile
from audiocodec.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def torchrun(folder, module, *arguments, recipe=RECIPE, workers=2):
    command = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={workers}']
    env = {**os.environ, 'AUDIOCODEC_DORA_DIR': str(folder), 'OMP_NUM_THREADS': '1'}
    return forked.run([*command, '-m', *module, *recipe, *arguments], ROOT, env, timeout=300)


@pytest.mark.slow
def test_torchrun_starts_the_workers_by_dora_too(tmp_path):
    module = ['dora', 'run', '--']
    done = torchrun(tmp_path, module, 'optim.epochs=1', 'optim.updates_per_epoch=3')
    assert done.returncode == 0, done.stderr
    content = checkpoint.load_checkpoint(checkpoint_of(tmp_path))
    assert content['state']['updates'] == 3
    assert len(content['position']['workers']) == 2


@pytest.mark.slow
def test_what_is_wrong_is_a_message_under_torchrun_too(tmp_path):
    done = torchrun(tmp_path, ['audiocodec.train'], 'optim.lr=-1', workers=1)
    assert done.returncode == 1
    assert 'optim.lr=-1: expected a learning rate above 0\n' in done.stderr
    assert 'ConfigError' not in done.stderr


@pytest.mark.slow
def test_the_workers_of_torchrun_divide_an_evaluation(tmp_path):
    write_items(tmp_path / 'items')
    arguments = ['--data', str(tmp_path / 'items'), '--opus', '6', '12', '--metrics', 'mel', 'snr']
    assert main(['evaluate', *arguments, '--out', str(tmp_path / 'one'), '--workers', '1']) == 0
    out = ['--out', str(tmp_path / 'two')]
    module = ['audiocodec', 'evaluate']
    done = torchrun(tmp_path, module, *arguments, *out, recipe=())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('6 rows in') == 1
    names = {path.name for path in (tmp_path / 'one').iterdir()}
    assert {path.name for path in (tmp_path / 'two').iterdir()} == names
    one, two = (summary_of(tmp_path / name) for name in ('one', 'two'))
    assert one == two
    rows = RowFile(tmp_path / 'two' / 'rows.jsonl').rows
    assert sorted(row['item'] for row in rows.values()) == [0, 0, 1, 1, 2, 2]


def summary_of(folder):
    rows = json.loads((folder / 'summary.json').read_text())
    return [{name: row[name] for name in row if 'speed' not in name} for row in rows]


@pytest.mark.slow
def test_two_nodes_under_torchrun_equal_dora_run(tmp_path):
    """Four workers on two "nodes" of this machine: same signature, folder and checkpoint."""
    short = ['optim.epochs=1', 'optim.updates_per_epoch=2', 'dataset.num_workers=0']
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    launcher = ['-m', 'torch.distributed.run', '--nnodes=2', '--nproc_per_node=2']
    meeting = ['--master_addr=127.0.0.1', f'--master_port={port}']
    recipe = ['-m', 'audiocodec.train', *RECIPE, *short]
    nodes = [
        Forked(
            [*launcher, *meeting, f'--node_rank={node}', *recipe],
            cwd=ROOT,
            env={**os.environ, 'AUDIOCODEC_DORA_DIR': str(tmp_path / 'a'), 'OMP_NUM_THREADS': '1'},
        )
        for node in range(2)
    ]
    for node in nodes:
        output = node.communicate(timeout=400)[1]
        assert node.returncode == 0, output
    code, text = finish(start(tmp_path / 'b', *short, workers=4))
    assert code == 0, text
    one, two = (checkpoint_of(tmp_path / name) for name in 'ab')
    assert one.parent.name == two.parent.name
    assert fingerprint(one) == fingerprint(two)
