import sys

import numpy as np
import pytest
from reports import write_evaluation, write_run

from audiocodec.cli.main import main
from audiocodec.report.collect import collect
from audiocodec.report.pictures import write_pictures


@pytest.mark.slow
def test_curve_and_spectrograms_are_drawn(tmp_path):
    image = pytest.importorskip('matplotlib.image')
    sources = [str(write_evaluation(tmp_path / 'e')), str(write_run(tmp_path / 'run'))]
    assert main(['report', *sources, '--out', str(tmp_path / 'out'), '--pictures']) == 0
    for name in ('curve.png', 'spectrograms.png'):
        pixels = image.imread(tmp_path / 'out' / name)
        assert pixels.shape[1] > 800
        assert np.unique(pixels[..., :3].reshape(-1, 3), axis=0).shape[0] > 20


def test_what_there_is_nothing_to_draw_of_is_left_out(tmp_path):
    pytest.importorskip('matplotlib')
    content = collect([str(write_evaluation(tmp_path / 'e'))])
    assert [path.name for path in write_pictures(content, tmp_path / 'p')] == ['spectrograms.png']


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    content = collect([str(write_evaluation(tmp_path / 'e'))])
    with pytest.raises(ValueError, match=r"pip install 'audiocodec\[notebook\]'"):
        write_pictures(content, tmp_path / 'p')
