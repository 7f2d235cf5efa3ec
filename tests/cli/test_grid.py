"""`audiocodec grid`: a grid file on this machine, with real experiments."""

import os
import signal
import time

import forked
import pytest
from forked import Forked
from interruptions import RECIPE, checkpoint_of, fingerprint, finish, start

from audiocodec import train
from audiocodec.cli.main import main
from audiocodec.run import records

GRID = """
from dora import Explorer


@Explorer
def explorer(launcher):
    launcher.slurm_(gpus=8)
    launcher.bind_(solver='compression/debug', device='cpu')
    launcher.bind_({'optim.epochs': 1, 'optim.updates_per_epoch': 2, 'rvq.n_q': 2, 'rvq.bins': 8})
    launcher.bind_({'dataset.batch_size': 2, 'dataset.num_workers': 0, 'valid.every': None})
    launcher.bind_({'dataset.segment_duration': 0.3, 'seanet.n_filters': 2})
    launcher({'evaluate.every': None, 'generate.every': None})
    launcher({'datasource.train': '/no/such/folder'})
"""


INTERRUPTED = """
from dora import Explorer


@Explorer
def explorer(launcher):
    launcher({recipe})
"""
COMMAND = ['-m', 'audiocodec', 'grid', 'mine']


def write_grid(place, text):
    (place / 'grids').mkdir()
    (place / 'grids' / '__init__.py').touch()
    (place / 'grids' / 'mine.py').write_text(text)


def environment(place):
    return {
        **os.environ,
        'AUDIOCODEC_DORA_DIR': str(place / 'outputs'),
        'OMP_NUM_THREADS': '1',
    }


def grid(place, *arguments):
    return forked.run([*COMMAND, *arguments], place, environment(place), timeout=300)


@pytest.mark.slow
def test_experiments_run_one_fails_and_finished_ones_are_not_repeated(tmp_path):
    write_grid(tmp_path, GRID)
    done = grid(tmp_path)
    assert done.returncode == 1, done.stderr
    assert 'failed; the end of' in done.stderr
    assert '/no/such/folder: no such data source' in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'FAI' in done.stdout
    assert 'COM' in done.stdout
    good, bad = sorted((tmp_path / 'outputs' / 'xps').iterdir(), key=lambda xp: not _ended(xp))
    assert (good / 'checkpoint.th').exists()
    assert not (bad / 'checkpoint.th').exists()
    links = (tmp_path / 'outputs' / 'grids' / 'mine').iterdir()
    assert {link.resolve() for link in links} == {good, bad}
    again = grid(tmp_path, '0')
    assert again.returncode == 0, again.stderr
    assert 'COM' in again.stdout
    assert len(records.read(good)) == 1


@pytest.mark.slow
def test_an_interrupted_grid_goes_on_as_if_it_had_not_been(tmp_path):
    recipe = [*RECIPE, 'optim.epochs=2', 'optim.updates_per_epoch=20']
    code, text = finish(start(tmp_path / 'alone', *recipe))
    assert code == 0, text
    alone = checkpoint_of(tmp_path / 'alone')
    write_grid(tmp_path, INTERRUPTED.format(recipe=recipe))
    xp = tmp_path / 'outputs' / 'xps' / alone.parent.name
    running = Forked(COMMAND, tmp_path, environment(tmp_path))
    deadline = time.monotonic() + 120
    while not (xp / 'checkpoint.th').exists() and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    output = running.communicate(timeout=120)
    (record,) = records.read(xp)
    assert 'stopped by SIGTERM at epoch' in record['outcome'], output
    assert running.returncode != 0
    done = grid(tmp_path)
    assert done.returncode == 0, done.stderr
    assert [run['outcome'] for run in records.read(xp)][1:] == [records.FINISHED]
    assert fingerprint(xp / 'checkpoint.th') == fingerprint(alone)


def _ended(xp):
    return [run['outcome'] for run in records.read(xp)] == [records.FINISHED]


def test_a_dry_run_shows_the_table_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    assert main(['grid', 'compression.debug', '--dry-run']) == 0
    shown = capsys.readouterr().out
    assert 'rvq.n_q=4' in shown
    assert 'PEN' in shown
    assert '\x1b' not in shown
    assert not (tmp_path / 'xps').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['compression.debgu'], 'compression.debgu: no such grid in'),
        (['compression.debug', '7'], '7: no such experiment (there are 0 to 2)'),
        (['compression.debug', '--slots', '0'], '--slots 0: expected at least 1'),
        (['compression.debug', '--gpus', '0'], '--gpus 0: expected at least 1'),
        (['compression.debug', '--interval', '0'], '--interval 0.0: expected more than 0'),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    assert main(['grid', *arguments]) == 1
    assert capsys.readouterr().err.startswith(f'error: {message}')
