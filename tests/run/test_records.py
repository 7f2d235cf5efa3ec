"""The record of each start: what ran, where, and how it ended."""

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from audiocodec.run import records
from audiocodec.utils import paths

CFG = OmegaConf.create({'optim': {'epochs': 2}})
RUN = SimpleNamespace(device=torch.device('cpu'), updates=7)


def record(folder, cfg=CFG, error=None):
    with records.recorded(folder, cfg, RUN):
        if error is not None:
            raise error


def git(folder, *arguments):
    identity = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
    subprocess.run(['git', '-C', str(folder), *identity, *arguments], check=True)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A repository with a commit and a change, in place of the project's, and its commit."""
    folder = tmp_path / 'code'
    folder.mkdir()
    (folder / 'a.py').write_text('one\n')
    git(folder, 'init', '-q')
    git(folder, 'add', '.')
    git(folder, 'commit', '-qm', 'first')
    (folder / 'a.py').write_text('two\n')
    (folder / 'new.py').write_text('three\n')
    monkeypatch.setattr(paths, 'ROOT', folder)
    monkeypatch.setattr(paths, 'INSTALLED', False)
    monkeypatch.chdir(tmp_path)
    head = ['git', '-C', str(folder), 'rev-parse', 'HEAD']
    return folder, subprocess.run(head, capture_output=True, text=True).stdout.strip()


def test_a_run_is_recorded_from_its_start_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    monkeypatch.setenv('SLURM_JOB_ID', '17')
    monkeypatch.setenv('AUDIOCODEC_API_KEY', 'hidden')
    monkeypatch.setenv('HOME_OF_OTHERS', 'not of interest')
    with records.recorded(tmp_path, CFG, RUN):
        (begun,) = records.read(tmp_path)
        assert begun['outcome'] is None
    (ended,) = records.read(tmp_path)
    assert (ended['outcome'], ended['updates']) == (records.FINISHED, 7)
    assert ended['environment'].items() >= {'OMP_NUM_THREADS': '3', 'SLURM_JOB_ID': '17'}.items()
    assert 'hidden' not in json.dumps(ended)
    assert 'HOME_OF_OTHERS' not in ended['environment']
    assert ended['packages']['torch'] == torch.__version__
    assert ended['hardware']['device'] == 'cpu'


def test_every_start_has_its_own_record_and_its_error(tmp_path):
    record(tmp_path)
    with pytest.raises(ValueError, match='bad'):
        record(tmp_path, error=ValueError('bad'))
    record(tmp_path)
    outcomes = [run['outcome'] for run in records.read(tmp_path)]
    assert outcomes == [records.FINISHED, 'ValueError: bad', records.FINISHED]


def test_commit_and_changes_of_the_code_are_kept(tmp_path, code):
    folder, commit = code
    record(tmp_path)
    (run,) = records.read(tmp_path)
    assert run['code'][str(folder)] == {'commit': commit, 'changed': [' M a.py', '?? new.py']}
    diff = (tmp_path / records.FOLDER / '1.diff').read_text()
    assert '-one\n+two\n' in diff
    git(folder, 'checkout', '-q', 'a.py')
    record(tmp_path)
    assert not (tmp_path / records.FOLDER / '2.diff').exists()


def test_no_repository_and_no_git_are_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, 'ROOT', tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')
    record(tmp_path)
    (run,) = records.read(tmp_path)
    assert list(run['code']) == ['audiocodec']


def test_finished_is_a_run_that_ended_with_the_same_configuration(tmp_path):
    assert not records.is_finished(tmp_path, CFG)
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, error=KeyboardInterrupt())
    assert not records.is_finished(tmp_path, CFG)
    record(tmp_path)
    assert records.is_finished(tmp_path, CFG)
    longer = OmegaConf.merge(CFG, {'optim': {'epochs': 3}})
    assert not records.is_finished(tmp_path, longer)
    record(tmp_path, OmegaConf.merge(CFG, {'execute_only': 'evaluate'}))
    assert records.is_finished(tmp_path, CFG)


def test_a_record_that_cannot_be_written_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / records.FOLDER).write_text('in the way')
    record(tmp_path)
    assert 'the record of this run failed' in caplog.text
    assert records.read(tmp_path) == []


def test_a_damaged_record_is_left_out(tmp_path):
    record(tmp_path)
    record(tmp_path)
    (tmp_path / records.FOLDER / '1.json').write_text('{')
    assert len(records.read(tmp_path)) == 1
