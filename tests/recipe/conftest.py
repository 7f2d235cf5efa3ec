import shutil

import pytest

from audiocodec import train


@pytest.fixture
def config_folder(tmp_path, monkeypatch):
    """A copy of the configuration's files that `train.main` reads, to add files to."""
    folder = shutil.copytree(train.main.full_config_path, tmp_path / 'config')
    monkeypatch.setattr(train.main, 'full_config_path', folder)
    return folder
