import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder


@pytest.fixture
def folder(tmp_path, make_file):
    """A folder with three recordings, and files that are none."""
    make_file(tmp_path / 'd' / 'b.wav', 1.5, 16000)
    make_file(tmp_path / 'd' / 'a' / 'z.flac', 0.5, 44100, channels=2)
    make_file(tmp_path / 'd' / 'a.OGG', 1.0, 24000, format='OGG')
    make_file(tmp_path / 'd' / '.hidden' / 'h.wav')
    make_file(tmp_path / 'd' / '._b.wav')
    (tmp_path / 'd' / 'readme.txt').write_text('not audio')
    return tmp_path / 'd'
