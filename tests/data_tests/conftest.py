from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder


@pytest.fixture
def make_file():
    """Write a file of noise, different for every seed."""
    def make(path, seconds=1.0, sample_rate=16000, channels=1, seed=0, amplitude=0.1, **options):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).standard_normal((round(seconds * sample_rate), channels))
        soundfile.write(path, (amplitude * noise).clip(-1, 1), sample_rate, **options)
        return path
    return make
