import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'plot_curves.py'


@pytest.mark.slow
def test_picture_of_two_curves(tmp_path):
    pytest.importorskip('matplotlib')
    curve = {'update': [1, 2], 'mel': [2.0, 1.0], 'codebook_usage_min': [0.1, 0.9]}
    curve['sisnr'] = [-3.0, 1.0]
    for name in ('a', 'b', 'c'):
        (tmp_path / f'{name}.json').write_text(f'text\n{json.dumps({"curve": curve})}\n')
    out = tmp_path / 'out.png'
    files = [f'ours={tmp_path}/a.json,{tmp_path}/b.json', f'peer={tmp_path}/c.json']
    subprocess.run([sys.executable, SCRIPT, out, *files], check=True)
    assert out.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_mistakes_are_told(tmp_path):
    pytest.importorskip('matplotlib')
    for name, updates in (('a', [1, 2]), ('b', [1, 3])):
        curve = {'update': updates, 'mel': [2, 1], 'codebook_usage_min': [0, 1], 'sisnr': [0, 1]}
        (tmp_path / f'{name}.json').write_text(json.dumps({'curve': curve}))

    def error(*argv):
        found = subprocess.run(
            [sys.executable, SCRIPT, *argv], cwd=tmp_path, capture_output=True, text=True
        )
        assert found.returncode == 2
        return found.stderr

    assert 'not validated after the same updates' in error('o.png', 'x=a.json,b.json')
    assert 'a.json: expected NAME=FILE,...' in error('o.png', 'a.json')
    assert 'c.json: not a result of `benchmark.py curve`' in error('o.png', 'x=c.json')
    assert '7 curves: expected at most 6' in error('o.png', *['x=a.json'] * 7)
    assert '. is a folder: give a file' in error('.', 'x=a.json')
