"""Runs of Weights & Biases: continued, offline without a connection, warnings."""

import os
import subprocess
import sys

import pytest
import torch
import tracked
from tracked import start


def test_a_run_is_continued_and_a_cleared_folder_begins_another(wandb, tmp_path):
    for _ in range(2):
        assert not start(wandb, tmp_path).failures.counts
    (tmp_path / '.wandb_id').unlink()  # as `dora run --clear` does
    start(wandb, tmp_path)
    ids = [run_id for run_id, _ in wandb.begun]
    assert ids[0] == ids[1] != ids[2]
    assert all(run_id.startswith('sig-') for run_id in ids)
    assert (os.environ['WANDB_LOGIN_TIMEOUT'], os.environ['WANDB_FINISH_TIMEOUT']) == ('60', '600')


def test_points_of_wandb_are_on_the_axis_of_updates(wandb, tmp_path):
    tracker = start(wandb, tmp_path)
    tracker.scalars('valid', {'mel': 2.0}, 40, 2)
    tracker.audio('a', torch.rand(2, 2048), 16000, 40, 2)
    tracker.close()
    assert wandb.axes == [(('updates',), {}), (('*',), {'step_metric': 'updates'})]
    assert wandb.points == [
        {'valid/mel': 2.0, 'updates': 40, 'epoch': 2},
        {
            'a/audio': ('audio', (2048, 2), 16000),
            'a/spectrogram': ('image', (168, 800, 3)),
            'updates': 40,
            'epoch': 2,
        },
    ]
    assert wandb.finished == 1


def test_a_run_deleted_on_the_server_gets_a_new_one(wandb, tmp_path, caplog):
    start(wandb, tmp_path)
    ((deleted, _),) = wandb.begun
    wandb.refuse = lambda run_id: (
        f'run me/p/{run_id} was previously created and deleted' if run_id == deleted else None
    )
    for _ in range(2):
        start(wandb, tmp_path)
    _, (second, mode), third = wandb.begun
    assert third == (second, mode) == (second, 'online')
    assert second != deleted
    assert [record.getMessage() for record in caplog.records] == [
        f'Weights & Biases: the run {deleted} was deleted on the server; starting a new one'
    ]


def test_without_login_or_network_the_run_is_kept_offline(wandb, tmp_path, caplog):
    wandb.refuse = lambda run_id: 'No API key configured. Use `wandb login` to log in.'
    tracker = start(wandb, tmp_path)
    tracker.scalars('valid', {'mel': 2.0}, 40, 2)
    assert [mode for _, mode in wandb.begun] == ['offline']
    assert len(wandb.points) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f'Weights & Biases cannot be reached, the run is stored in {tmp_path}/wandb (`wandb sync` '
        'uploads '
        'it): No API key configured. Use `wandb login` to log in.'
    )
    wandb.refuse = lambda run_id: None
    start(wandb, tmp_path)  # the same run, once there is a connection
    assert wandb.begun == [(wandb.begun[0][0], 'offline'), (wandb.begun[0][0], 'online')]


def test_an_unanswered_prompt_is_offline_but_the_environment_is_respected(
    wandb, tmp_path, monkeypatch
):
    wandb.disabled = True  # as after the prompt has timed out
    start(wandb, tmp_path)
    assert [mode for _, mode in wandb.begun] == ['online', 'offline']
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    start(wandb, tmp_path)
    assert [mode for _, mode in wandb.begun] == ['online', 'offline', 'online']


def test_a_wandb_that_cannot_begin_at_all_is_a_warning(wandb, tmp_path, caplog):
    (tmp_path / '.wandb_id').mkdir()
    tracker = start(wandb, tmp_path)
    tracker.scalars('train', {'a': 1.0}, 10, 1)
    assert tracker.failures.counts == {'Weights & Biases': 1}
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_the_package_itself_without_login(tmp_path):
    pytest.importorskip('wandb')
    code = (
        'import sys, torch; sys.path.insert(0, sys.argv[1]); from pathlib import Path; '
        'from tracked import *; '
        'tracker = Tracker(config(wandb=True), Path(sys.argv[2]), "sig", 0); '
        'tracker.scalars("valid", {"mel": 2.}, 40, 2); tracker.audio("a", torch.rand(1, 9000), '
        '16000, 40, 2); '
        'tracker.close(); assert not tracker.failures.counts'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith('WANDB')}
    done = subprocess.run(
        [sys.executable, '-c', code, os.path.dirname(tracked.__file__), str(tmp_path)],
        timeout=120,
        env={**kept, 'HOME': str(tmp_path)},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('Weights & Biases cannot be reached') == 1
    (run,) = (tmp_path / 'wandb').glob('offline-run-*')
    assert run.name.endswith((tmp_path / '.wandb_id').read_text())
    assert len(list(run.rglob('*.wav'))) == 1
    assert len(list(run.rglob('*.png'))) == 1
