"""The functions of `audiocodec.train` that users call."""

import errno
import json
import os
import shutil
from pathlib import Path

import hydra
import pytest

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils import paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError


def test_an_unknown_signature_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    with pytest.raises(
        ConfigError, match=f"no experiment with signature 'abc' under {tmp_path}/xps"
    ):
        train.get_solver_from_sig('abc')


def test_a_signature_leads_back_to_its_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    xp = train.main.get_xp(['solver=compression/debug', 'optim.lr=0.5'])
    train.main.init_xp(xp)
    assert json.loads((tmp_path / 'xps' / xp.sig / '.argv.json').read_text()) == xp.argv
    again = train.main.get_xp_from_sig(xp.sig)
    assert (again.sig, again.cfg.optim.lr) == (xp.sig, 0.5)


def test_an_unknown_override_of_a_solver_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    xp = train.main.get_xp(['solver=compression/debug'])
    with pytest.raises(
        ConfigError, match=r"no key 'dataset.bach_size'; did you mean 'dataset.batch_size'"
    ):
        train.get_solver_from_xp(xp, {'dataset': {'bach_size': 2}})


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


@pytest.fixture
def composed(monkeypatch):
    """What Hydra composes from now on: a list for each time."""
    found = []
    compose = hydra.compose
    monkeypatch.setattr(
        hydra, 'compose', lambda name, choices: found.append(choices) or compose(name, choices)
    )
    return found


def test_files_are_composed_once_and_every_experiment_has_its_own(composed, monkeypatch, tmp_path):
    folder = shutil.copytree(train.main.full_config_path, tmp_path / 'config')
    monkeypatch.setattr(train.main, 'full_config_path', folder)
    argv = ['solver=compression/debug', 'seed=1234321']
    first = train.main.get_xp(argv)
    first.cfg.seed = 0
    second = train.main.get_xp(argv)
    other = train.main.get_xp([*argv, 'optim.lr=1e-5'])
    assert composed == [['~solver'], ['solver=compression/debug']]
    assert second.cfg.seed == 1234321
    assert (second.sig, second.argv, second.delta) == (first.sig, first.argv, first.delta)
    assert (other.cfg.optim.lr, second.cfg.optim.lr) == (1e-5, 6e-3)
    assert other.sig != first.sig


@pytest.mark.slow
def test_files_that_were_edited_are_composed_again(composed, monkeypatch, tmp_path):
    folder = shutil.copytree(train.main.full_config_path, tmp_path / 'config')
    monkeypatch.setattr(train.main, 'full_config_path', folder)
    argv = ['solver=compression/debug']
    assert train.main.get_xp(argv).cfg.optim.lr == 6e-3
    recipe = folder / 'solver/compression/debug.yaml'
    recipe.write_text(recipe.read_text().replace('lr: 6.0e-3', 'lr: 7.0e-3'))
    assert train.main.get_xp(argv).cfg.optim.lr == 7e-3
    (folder / 'solver/compression/mine.yaml').write_text(
        recipe.read_text().replace('lr: 7.0e-3', 'lr: 8.0e-3')
    )
    assert train.main.get_xp(['solver=compression/mine']).cfg.optim.lr == 8e-3
    assert len(composed) == 6


@pytest.mark.parametrize(
    'values',
    [{'dataset.batch_size': 3, 'optim.lr': 0.25}, {'dataset': {'batch_size': 3}, 'optim.lr': 0.25}],
)
def test_overrides_of_a_solver_may_be_dotted(tmp_path, values):
    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}', 'device=cpu'])
    solver = train.get_solver_from_xp(xp, values)
    assert (solver.cfg.dataset.batch_size, solver.cfg.optim.lr) == (3, 0.25)
    assert solver.optimizer.param_groups[0]['lr'] == 0.25


def test_a_home_folder_is_found_wherever_experiments_are_told_to_live(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert (
        train.main.get_xp(['solver=compression/debug', 'dora.dir=~/runs']).folder.parent
        == tmp_path / 'runs' / 'xps'
    )
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', '~/others')
    assert paths.experiments_folder() == tmp_path / 'others'


def test_a_dataset_file_of_audiocraft_is_enough(tmp_path, monkeypatch):
    """It has no `folder`, which is ours."""
    folder = shutil.copytree(train.main.full_config_path, tmp_path / 'config')
    monkeypatch.setattr(train.main, 'full_config_path', folder)
    (folder / 'dset' / 'audio' / 'theirs.yaml').write_text(
        '# @package _global_\n\ndatasource:\n  max_sample_rate: 44100\n  max_channels: 2\n\n'
        '  train: egs/train\n  valid: egs/valid\n  evaluate: egs/eval\n  generate: egs/gen\n'
    )
    cfg = train.main.get_xp(['solver=compression/debug', 'dset=audio/theirs']).cfg
    build_parts(cfg)
    assert (cfg.datasource.train, cfg.datasource.folder) == ('egs/train', None)


def test_a_recipe_in_the_working_directory_is_one_of_the_options(tmp_path, monkeypatch):
    recipe = tmp_path / 'config/solver/compression/mine.yaml'
    recipe.parent.mkdir(parents=True)
    recipe.write_text('# @package _global_\noptim:\n  lr: 0.125\n')
    with pytest.raises(ConfigError, match=r'solver=compression/mine: no such option'):
        train.main.get_xp(['solver=compression/mine'])
    monkeypatch.chdir(tmp_path)
    assert train.main.get_xp(['solver=compression/mine']).cfg.optim.lr == 0.125
    recipe.write_text('# @package _global_\noptim:\n  lr: 0.25\n')
    os.utime(recipe, ns=(1, 1))
    assert train.main.get_xp(['solver=compression/mine']).cfg.optim.lr == 0.25


def test_the_projects_recipes_are_not_replaced_by_those_of_the_working_directory(
    tmp_path, monkeypatch
):
    before = train.main.get_xp(['solver=compression/debug'])
    recipe = tmp_path / 'config/solver/compression/debug.yaml'
    recipe.parent.mkdir(parents=True)
    recipe.write_text('# @package _global_\noptim:\n  lr: 0.125\n')
    monkeypatch.chdir(tmp_path)
    after = train.main.get_xp(['solver=compression/debug'])
    assert (after.sig, after.cfg.optim.lr) == (before.sig, before.cfg.optim.lr)
