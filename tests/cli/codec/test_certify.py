import json

import pytest
import torch
from tiny_codecs import tiny_codec

from audiocodec.cli.main import main as audiocodec
from audiocodec.data import write_audio
from audiocodec.models.export import save_compact
from audiocodec.utils import config


@pytest.fixture
def model(tmp_path):
    """Paths of a model and of audio."""
    torch.manual_seed(0)
    node = tiny_codec(n_q=2, kmeans_init=False, n_residual_layers=1, lstm=0)
    built = config.build(node).eval()
    save_compact(node, built.state_dict(), tmp_path / 'model.bin')
    wav = torch.randn(built.channels, built.sample_rate // 2) * 0.1
    write_audio(tmp_path / 'noise.wav', wav, built.sample_rate)
    return tmp_path / 'model.bin', tmp_path / 'noise.wav'


def run(*argv):
    return audiocodec(['certify', *map(str, argv)])


def test_the_certificate_is_printed_and_written(model, tmp_path, capsys):
    path, audio = model
    out = tmp_path / 'certificate.json'
    assert run(path, '--audio', audio, '--exports', 'compact', 'snac', '--out', out) == 0
    said = capsys.readouterr().out
    assert said.startswith('certificate of model.bin: passed')
    assert 'export compact: equal' in said
    assert 'export snac: not possible' in said
    found = json.loads(out.read_text())
    assert found['comparisons']['export compact']['codes_different'] == 0
    assert found['kbps'] > 0


def test_mistakes_are_told_before_anything_runs(model, capsys):
    path, audio = model
    assert run(path, '--audio', audio, '--kbps', 0.001) == 1
    assert 'is below the lowest bandwidth' in capsys.readouterr().err
