import os
from pathlib import Path

import pytest

from audiocodec.data.readers import tar
from audiocodec.utils import paths
from audiocodec.utils.paths import safe_stem

CLONE = Path(__file__).resolve().parents[2]

UNCHANGED = [
    'a',
    'My song (live)',
    '-dash',
    'café',
    'cafe\u0301',
    '音' * 26,
    'हिन्दी',
    '🎵',
    'a.b',
    "it's",
    'x' * 80,
]


@pytest.mark.parametrize('stem', UNCHANGED)
def test_names_that_can_be_stored_stay_as_they_are(stem):
    assert safe_stem(f'/some/where/{stem}.wav') == stem


CHANGED = {
    'caf\udce9': 'caf_',
    'two\nlines': 'two_lines',
    'tab\t': 'tab_',
    'a:b?c*': 'a_b_c_',
    'r\u202etl': 'r_tl',
    'x' * 81: 'x' * 71,
    '音' * 100: '音' * 23,
    'y' * 79 + '\n': 'y' * 71,
    '\ud800': '_',
}


@pytest.mark.parametrize(('stem', 'begin'), CHANGED.items())
def test_other_names_are_cleaned_and_cut_and_end_in_a_hash(stem, begin):
    found = safe_stem(f'/some/where/{stem}.wav')
    assert found[:-9] == begin
    assert found[-9] == '-'
    int(found[-8:], 16)
    assert found.isprintable()
    assert len(os.fsencode(found)) <= 80


def test_different_names_stay_different():
    names = ['x' * 100, 'x' * 101, 'a\nb', 'a\tb', 'a_b', 'caf\udce9', 'caf\udce8']
    assert len({safe_stem(name) for name in names}) == len(names)


def test_a_clone_contains_what_it_needs_wherever_the_working_directory_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('AUDIOCODEC_DORA_DIR', raising=False)
    assert paths.ROOT == CLONE
    assert paths.experiments_folder() == CLONE / 'outputs'
    assert paths.grid_package() == 'grids'
    assert paths.find('dataset/example/train') == CLONE / 'dataset/example/train'


def test_an_installed_package_keeps_experiments_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('AUDIOCODEC_DORA_DIR', raising=False)
    monkeypatch.setattr(paths, 'INSTALLED', True)
    assert paths.experiments_folder() == tmp_path / 'outputs'
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'mine'))
    assert paths.experiments_folder() == tmp_path / 'mine'


def test_an_installed_package_takes_the_grids_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, 'INSTALLED', True)
    assert paths.grid_package() == 'audiocodec.grids'
    (tmp_path / 'grids').mkdir()
    assert paths.grid_package() == 'audiocodec.grids'  # a folder, but not a package
    (tmp_path / 'grids/__init__.py').touch()
    assert paths.grid_package() == 'grids'


def test_config_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(CLONE)
    assert paths.own_config_folder() is None
    monkeypatch.chdir(tmp_path)
    assert paths.own_config_folder() is None
    (tmp_path / 'config').mkdir()
    assert paths.own_config_folder() == tmp_path / 'config'


def test_an_experiment_is_looked_for_beside_in_the_folder_of_all_and_where_it_was_noted(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'all'))
    monkeypatch.chdir(tmp_path)
    assert paths.experiment_places('0a1b2c3d') == [tmp_path / 'all' / 'xps' / '0a1b2c3d']
    paths.note_experiment(Path('caf\udce9/xps/0a1b2c3d'))
    assert paths.experiment_places('0a1b2c3d', tmp_path / 'here') == [
        tmp_path / 'here' / 'xps' / '0a1b2c3d',
        tmp_path / 'all' / 'xps' / '0a1b2c3d',
        tmp_path / 'caf\udce9' / 'xps' / '0a1b2c3d',
    ]
    paths.note_experiment(tmp_path / 'moved' / 'xps' / '0a1b2c3d')
    assert paths.experiment_places('0a1b2c3d')[-1] == tmp_path / 'moved' / 'xps' / '0a1b2c3d'
    assert [path.name for path in (tmp_path / 'all').rglob('*') if path.is_file()] == ['0a1b2c3d']


def test_an_experiment_in_the_folder_of_all_is_not_noted(tmp_path, monkeypatch):
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path))
    paths.note_experiment(tmp_path / 'xps' / '0a1b2c3d')
    assert list(tmp_path.iterdir()) == []


def test_a_note_that_cannot_be_written_is_left_out(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'file'))
    paths.note_experiment(tmp_path / 'other' / 'xps' / '0a1b2c3d')
    assert paths.experiment_places('0a1b2c3d') == [tmp_path / 'file' / 'xps' / '0a1b2c3d']


@pytest.mark.parametrize('url', ['s3://bucket/a-{0..3}.tar', 'https://host/x/a.tar'])
def test_a_url_stays_one_wherever_the_working_directory_is(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = paths.canonical(url)
    assert found == paths.canonical(url)
    assert str(tmp_path) not in found
    assert tar.url_of(paths.find(url)) == url
