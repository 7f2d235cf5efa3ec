"""An installed wheel, without a clone: training, grids, recipes of a user, export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SHORT

ROOT = Path(__file__).resolve().parents[2]
EXPORT = """
import sys
from audiocodec.utils import export
export.export_encodec(sys.argv[1], sys.argv[2])
"""
LOAD = """
import sys, torch
from audiocodec.models import CompressionModel
model = CompressionModel.get_pretrained(sys.argv[1])
codes, scale = model.encode(torch.zeros(1, 1, 3200))
print(list(codes.shape), list(model.decode(codes, scale).shape))
"""
BOTH = """
from audiocodec.cli.main import main
assert main({evaluate}) == 0
assert main({report}) == 0
"""
LEARNING_RATE = """
import sys
from audiocodec import train
print(train.main.get_xp_from_sig(sys.argv[1]).cfg.optim.lr)
"""
GRID = """
from audiocodec.grid.table import CompressionExplorer


@CompressionExplorer
def explorer(launcher):
    launcher.bind_(solver='compression/mine')
    launcher({'rvq.n_q': 3})
"""
RECIPE = """
# @package _global_
defaults:
  - compression/debug
optim:
  lr: 0.125
"""
pytestmark = pytest.mark.slow


def call(folder, *command):
    """Run Python in a folder; return its output."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('AUDIOCODEC_', 'DORA_'))
    }
    own = {
        'PYTHONPATH': str(folder.parent / 'site'),
        'OMP_NUM_THREADS': '1',
        'XDG_CACHE_HOME': str(folder.parent / 'cache'),
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**kept, **own},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dora(folder, *arguments):
    return call(folder, '-m', 'dora', '-P', 'audiocodec', *arguments)


def files(folder):
    found = (path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
    return sorted(str(path) for path in found if path.parent.name != '__pycache__')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Create an empty folder next to the folder `site`, where the wheel is installed."""
    folder = tmp_path_factory.mktemp('wheel') / 'empty'
    folder.mkdir()
    call(
        folder,
        '-m',
        'pip',
        'install',
        '-q',
        '--no-build-isolation',
        '--no-index',
        '--no-deps',
        '--no-compile',
        '--target',
        str(folder.parent / 'site'),
        str(ROOT),
    )
    return folder


def test_nothing_but_the_package_is_installed(place):
    names = sorted(path.name.split('-')[0] for path in (place.parent / 'site').iterdir())
    assert names == ['audiocodec', 'audiocodec', 'bin']  # its metadata, and the command
    assert files(place.parent / 'site' / 'bin') == ['audiocodec']
    installed = place.parent / 'site' / 'audiocodec'
    for folder in ('config', 'grids', 'dataset/example'):
        cloned = files(ROOT / folder)
        assert files(installed / folder) == cloned
        assert cloned


def test_it_trains_in_an_empty_folder_and_its_export_loads_in_another(place):
    installed = files(place.parent / 'site')
    dora(place, 'run', '--', 'solver=compression/debug', 'device=cpu', 'optim.epochs=1', *SHORT)
    assert files(place.parent / 'site') == installed
    (checkpoint,) = place.glob('outputs/xps/*/checkpoint.th')
    command = place.parent / 'site' / 'bin' / 'audiocodec'
    assert 'EncodecModel, experiment' in call(place, str(command), 'info', str(checkpoint))
    data = place.parent / 'site/audiocodec/dataset/example/evaluate'
    options = ['--items', '2', '--seconds', '1', '--workers', '1', '--out', 'scores']
    evaluate = ['evaluate', str(checkpoint), '--data', str(data), *options]
    report = ['report', 'scores', str(checkpoint.parent), '--out', 'page']
    call(place, '-c', BOTH.format(evaluate=evaluate, report=report))
    assert (place / 'page' / 'static' / 'report.js').is_file()
    other = place.parent / 'other'
    other.mkdir()
    call(place, '-c', EXPORT, str(checkpoint), str(other / 'model.bin'))
    assert call(other, '-c', LOAD, 'model.bin').strip() == '[1, 8, 10] [1, 1, 3200]'


def test_its_model_loads_in_an_empty_folder(place):
    name = 'audiocodec/small_24khz'
    assert call(place, '-c', LOAD, name).strip() == '[1, 8, 10] [1, 1, 3200]'


def test_its_grids_are_the_projects(place):
    dora(place, 'grid', 'compression.debug', '--dry_run', '--init')
    commands = [path.read_text() for path in place.glob('outputs/xps/*/.argv.json')]
    assert '["solver=compression/debug", "rvq.n_q=4"]' in commands


def test_recipes_and_grids_of_the_working_directory(place):
    own = place.parent / 'own'
    for name, text in {
        'grids/__init__.py': '',
        'grids/mine.py': GRID,
        'config/solver/compression/mine.yaml': RECIPE,
    }.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text.lstrip())
    dora(own, 'grid', 'mine', '--dry_run', '--init')
    (experiment,) = own.glob('outputs/xps/*')
    commands = (experiment / '.argv.json').read_text()
    assert commands == '["solver=compression/mine", "rvq.n_q=3"]'
    assert call(own, '-c', LEARNING_RATE, experiment.name).strip() == '0.125'
