"""Experiments: signature, folder, overrides, Slurm options, and all problems in one message."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils import paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError


def test_a_signature_leads_back_to_its_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    xp = train.main.get_xp(['solver=compression/debug', 'optim.lr=0.5'])
    train.main.init_xp(xp)
    assert json.loads((tmp_path / 'xps' / xp.sig / '.argv.json').read_text()) == xp.argv
    again = train.main.get_xp_from_sig(xp.sig)
    assert (again.sig, again.cfg.optim.lr) == (xp.sig, 0.5)


def test_dora_dir_moves_the_experiment(tmp_path):
    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}/elsewhere'])
    assert xp.folder == tmp_path / 'elsewhere' / 'xps' / xp.sig
    assert xp.sig == train.main.get_xp(['solver=compression/debug']).sig


def test_a_signature_finds_an_experiment_of_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'all'))
    monkeypatch.chdir(tmp_path)
    xp = train.main.get_xp(['solver=compression/debug', 'optim.lr=0.25', 'dora.dir=mine'])
    train.main.init_xp(xp)
    (tmp_path / 'far').mkdir()
    monkeypatch.chdir(tmp_path / 'far')  # the override is a relative path
    found = train.main.get_xp_from_sig(xp.sig)
    assert (found.folder, found.sig, found.cfg.optim.lr) == (
        tmp_path / 'mine' / 'xps' / xp.sig,
        xp.sig,
        0.25,
    )
    assert found.cfg.dora.dir == str(tmp_path / 'mine')
    shutil.move(tmp_path / 'mine', tmp_path / 'moved')
    with pytest.raises(
        ConfigError,
        match=f'under .* or {tmp_path}/mine/xps: run it first, or set AUDIOCODEC_DORA_DIR',
    ):
        train.main.get_xp_from_sig(xp.sig)
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'moved'))
    assert train.main.get_xp_from_sig(xp.sig).folder == tmp_path / 'moved' / 'xps' / xp.sig


def test_a_folder_that_cannot_be_written_to_is_a_message(tmp_path, monkeypatch):
    def refused(path, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}'])
    monkeypatch.setattr(Path, 'mkdir', refused)
    with pytest.raises(
        RunError,
        match=rf'^cannot write in {xp.folder}: Read-only file system: {tmp_path} is mounted '
        'read-only; choose another folder$',
    ):
        train.main.init_xp(xp)


def test_the_clusters_default_partition_is_taken(tmp_path, monkeypatch):
    sinfo = tmp_path / 'sinfo'
    sinfo.write_text('#!/bin/sh\nprintf "short\\nlong*\\n"\n')
    sinfo.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    assert train.main.get_slurm_config().partition == 'long'


def test_names_are_the_overrides_that_count():
    xps = [
        train.main.get_xp(['solver=compression/debug', f'optim.lr={lr}', 'device=cpu'])
        for lr in (1e-3, 1e-4)
    ]
    names, base = train.main.get_names(xps)
    assert names == ['opt.lr=0.001', 'opt.lr=0.0001']
    assert base == 'solver=compression/debug'


def test_a_home_folder_is_found_wherever_experiments_are_told_to_live(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert (
        train.main.get_xp(['solver=compression/debug', 'dora.dir=~/runs']).folder.parent
        == tmp_path / 'runs' / 'xps'
    )
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', '~/others')
    assert paths.experiments_folder() == tmp_path / 'others'


@pytest.mark.parametrize(
    'argv',
    [
        ['optim.lr=1,2'],
        ['+optim.lr=1'],
        ['dset@foo=audio/example'],
        ['=3'],
        ['optim.lr=???'],
        ['optim.lr=${foo}'],
        ['model=seanet'],
        ['solver=[a,b]'],
        ['seed=' + '9' * 400],
    ],
)
def test_command_lines_that_cannot_be_read_are_refused_too(argv):
    with pytest.raises(ConfigError) as error:
        build_parts(train.main.get_xp(['solver=compression/debug', *argv]).cfg)
    assert argv[0].split('=')[0].split('.')[-1].split('@')[0].strip('+') in str(error.value)


def test_unknown_keys_and_wrong_values_of_a_command_line_come_together():
    with pytest.raises(ConfigError) as error:
        train.main.get_xp(
            [
                'solver=compression/debug',
                'optm.lr=1',
                'optim.lr=-1',
                'rvq.nq=3',
                '~losses.l7',
                'word',
                'seanet.ratios=[1,0]',
                'adversarial=msdd',
                'logging.level=[x',
            ]
        )
    expected = [
        "optm.lr=1: there is no key 'optm.lr'; did you mean 'optim.lr'?",
        "rvq.nq=3: there is no key 'rvq.nq'; did you mean 'rvq.n_q'?",
        "~losses.l7: there is no key 'losses.l7'; did you mean 'losses.l2'?",
        "override 'word': expected key=value",
        "adversarial=msdd: no such option; did you mean 'msd'?",
        "override 'logging.level=[x' cannot be read",
        'optim.lr=-1: expected a learning rate above 0',
        'seanet.ratios=[1, 0]: expected a non-empty list of integers >= 1',
    ]
    assert len(error.value.problems) == len(expected)
    for start, problem in zip(expected, error.value.problems):
        assert problem.startswith(start)


def test_values_are_not_blamed_for_keys_that_are_unknown():
    with pytest.raises(ConfigError) as error:
        train.main.get_xp(
            [
                'solver=compression/debug',
                'sampl_rate=96000',
                'losses.mel.n_mels=3',
                'datasource.max_sample_rate=20000',
            ]
        )
    assert len(error.value.problems) == 1
