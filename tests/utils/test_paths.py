from pathlib import Path

from audiocodec.utils import paths

CLONE = Path(__file__).resolve().parents[2]


def test_a_clone_holds_what_it_needs_wherever_the_working_directory_is(tmp_path, monkeypatch):
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
    assert paths.grid_package() == 'audiocodec.grids'  # a folder, but no package
    (tmp_path / 'grids/__init__.py').touch()
    assert paths.grid_package() == 'grids'


def test_config_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(CLONE)
    assert paths.own_config_folder() is None
    monkeypatch.chdir(tmp_path)
    assert paths.own_config_folder() is None
    (tmp_path / 'config').mkdir()
    assert paths.own_config_folder() == tmp_path / 'config'
