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
