"""Every command and program of docs/first_hour.md and of its notebook runs, in order.

The notebook has the commands of the page, which run once; trainings are shortened.
"""

import json
import os
import re
import shutil
from pathlib import Path

import forked
import matplotlib
import pytest
import yaml
from tiny import SHORT

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / 'docs' / 'first_hour.md').read_text()
SMALL = [*SHORT, 'seanet.n_filters=4']
BLOCKS = re.findall(r'^```(bash|python)\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
NOTEBOOK = json.loads((ROOT / 'docs' / 'first_hour.ipynb').read_text())
CELLS = [''.join(cell['source']) for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the user's audio."""
    folder = tmp_path_factory.mktemp('hour')
    (folder / 'my_audio').mkdir()
    (folder / 'grids').mkdir()
    (folder / 'grids' / '__init__.py').touch()
    for index, path in enumerate(sorted((ROOT / 'dataset/example/train').glob('*.ogg'))[:8]):
        shutil.copy(path, folder / 'my_audio' / (f'{index}.ogg' if index else 'talk.ogg'))
    return folder


def run(place, line):
    if line.startswith('dora run '):
        line = line.replace('dora run ', f'dora run {" ".join(SMALL)} ')
    if 'SIGNATURE' in line:
        # that of the first command, the only one with the recipe's own learning rate
        experiments = (place / 'outputs' / 'xps').glob('*/.argv.json')
        (first,) = (path.parent for path in experiments if 'optim.lr' not in path.read_text())
        line = line.replace('SIGNATURE', first.name)
    env = {
        **os.environ,
        'AUDIOCODEC_DORA_DIR': str(place / 'outputs'),
        'XDG_CACHE_HOME': str(place / 'cache'),
        'PYTHONPATH': str(ROOT),
        'DORA_PACKAGE': 'audiocodec',
        'OMP_NUM_THREADS': '1',
    }
    done = forked.shell(line, place, env, timeout=500)
    assert done.returncode == 0, f'{line}\n{done.stdout}{done.stderr}'
    return done.stdout + done.stderr


def in_grid(code):
    """The grid of the page with two shorter experiments."""
    pairs = (option.split('=') for option in SMALL)
    values = {key: yaml.safe_load(text) for key, text in pairs} | {'optim.epochs': 1}
    return code.replace("'optim.epochs': 4}", repr(values)[1:]).replace(', 3e-3', '')


def test_the_notebook_has_the_commands_and_the_grid_of_the_page():
    lines = '\n'.join(cell for cell in CELLS if cell.startswith('!'))
    lines = lines.replace('\\\n    ', '').replace('{signature}', 'SIGNATURE')
    commands = [text for language, text in BLOCKS if language == 'bash']
    assert [line[1:] for line in lines.splitlines()] == ''.join(commands).splitlines()
    (grid,) = (text for language, text in BLOCKS if 'explorer' in text)
    assert sum(grid in cell for cell in CELLS) == 1
    assert all(not cell.get('outputs') for cell in NOTEBOOK['cells'])


def test_the_page_from_top_to_bottom(place, monkeypatch):
    monkeypatch.chdir(place)
    output = ''
    for language, text in BLOCKS:
        if language == 'bash':
            for line in text.splitlines():
                output += run(place, line)
        elif 'explorer' in text:
            (place / 'grids' / 'first.py').write_text(in_grid(text))
        else:
            exec(compile(text, 'first_hour.md', 'exec'), {})
    assert 'resuming at epoch 5' in output
    assert output.count('done: ') == 2
    assert len(list((place / 'outputs' / 'xps').iterdir())) == 3
    for name in ('report/index.html', 'codec.safetensors', 'codes.npy', 'decoded.wav'):
        assert (place / name).is_file()


def test_the_cells_of_the_notebook_on_what_the_commands_made(place, monkeypatch):
    """After the page: the folder of the notebook is the one where its commands ran."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    matplotlib.use('Agg')
    Path('first_hour').symlink_to(place)
    found = {}
    for cell in CELLS:
        if not cell.startswith('!'):
            exec(compile(cell, 'first_hour.ipynb', 'exec'), found)
    curves = matplotlib.pyplot.gca().get_lines()
    assert [len(curve.get_xdata()) for curve in curves] == [len(found['history'])] * 2
    matplotlib.pyplot.close('all')
    assert (place / 'outputs/xps' / found['signature'] / 'checkpoint.th').is_file()
    assert found['codes'].shape[1] == found['model'].total_codebooks
    for name in ('original.wav', 'decoded_1.wav', 'grids/first.py'):
        assert (place / name).is_file()
