"""Composition of configurations: files, options, working directory."""

import os
import shutil

import hydra
import pytest

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils.config import ConfigError

TINY = ['solver=compression/debug', 'adversarial=msstftd']


@pytest.fixture
def composed(monkeypatch):
    """List the choices of each call of Hydra's compose."""
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


def test_a_dataset_file_of_audiocraft_is_enough(tmp_path, monkeypatch):
    """It lacks `folder`, a key of this project."""
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


@pytest.mark.parametrize(
    'key',
    [
        'losses.mel.sample_rate',
        'losses.sisnr.sample_rate',
        'encoder.channels',
        'adversarial.discriminators.msstftd.in_channels',
    ],
)
def test_a_copy_of_the_rate_or_the_channels_is_not_set_alone(key):
    with pytest.raises(
        ConfigError, match=rf'{key}=2: must agree with (sample_rate|channels)=\d+; set only \w+'
    ):
        train.main.get_xp([*TINY, f'{key}=2'])


@pytest.mark.parametrize(
    ('choices', 'message'),
    [
        (
            'solver=compression/codec_24khz +training=codec',
            '+training=codec: the recipe has a training already; to replace it, type '
            'training=codec',
        ),
        (
            'solver=compression/debug +schedule=cosine',
            '+schedule=cosine: the recipe has a schedule already; to replace it, type '
            'schedule=cosine',
        ),
        (
            'solver=compression/debug training=codec',
            'training=codec: the recipe has no training to replace; to add it, type '
            '+training=codec',
        ),
        (
            'solver=compression/debug +training=code',
            "+training=code: no such option; did you mean 'codec'? (available: codec)",
        ),
        (
            'solver=compression/debug ++training=codec',
            '++training=codec: type +training=codec for an option of a group',
        ),
    ],
)
def test_what_to_type_for_options_that_are_there_or_not(choices, message):
    with pytest.raises(ConfigError) as caught:
        train.main.get_xp(choices.split())
    assert message in str(caught.value)
