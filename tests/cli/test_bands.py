import json

import pytest

from audiocodec import train
from audiocodec.cli import bands as commands
from audiocodec.report import bands
from audiocodec.report.collect import Run


@pytest.fixture
def band(monkeypatch):
    """A shipped band of `debug` with four epochs, from 1 to 2."""
    sig = train.main.get_xp(['solver=compression/debug']).sig
    made = bands.Band('debug', sig, {}, [1, 2], {'valid/mel': ([1.0, 1.0], [2.0, 2.0])})
    monkeypatch.setattr(bands, 'find', lambda found: made if found == sig else None)
    return made


def experiment(folder, arguments, mel):
    (folder / '.argv.json').write_text(json.dumps(arguments))
    (folder / 'history.json').write_text(json.dumps([{'valid': {'mel': mel}}]))
    return folder


def test_a_run_with_another_seed_or_device_has_the_band(band, tmp_path):
    arguments = ['solver=compression/debug', 'seed=7', 'device=cpu']
    assert commands.band_of(experiment(tmp_path, arguments, 1.5)) is band
    (row,) = commands.band_rows(tmp_path)
    assert row == (
        'band valid/mel',
        'inside the band of debug: 1.5, expected 1 to 2 at 1 updates',
    )


def test_a_run_outside_is_told(band, tmp_path):
    experiment(tmp_path, ['solver=compression/debug'], 2.5)
    ((_, text),) = commands.band_rows(tmp_path)
    assert text.startswith('OUTSIDE the band of debug: 2.5')


def test_another_recipe_has_no_band(band, tmp_path):
    experiment(tmp_path, ['solver=compression/debug', 'optim.lr=0.1'], 1.5)
    assert list(commands.band_rows(tmp_path)) == []
    experiment(tmp_path, ['solver=compression/debug', 'no_such_key=1'], 1.5)
    assert commands.band_of(tmp_path) is None
    (tmp_path / '.argv.json').unlink()
    assert commands.band_of(tmp_path) is None


def test_curves_of_a_run_are_compared(band):
    run = Run('x', [1, 2], {'valid': {'mel': [1.5, 0.5]}})
    (check,) = bands.check(band, run)
    assert not check.is_inside
