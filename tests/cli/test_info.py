import platform

import pytest
import torch
import yaml
from tiny_codecs import tiny_codec

from audiocodec import __version__
from audiocodec.cli.main import main
from audiocodec.run import checkpoint
from audiocodec.utils import config

MODEL = tiny_codec(causal=True, lstm=0)


def facts(capsys, *argv):
    assert main(['info', *map(str, argv)]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        name, text = line.split('  ', 1)
        rows[name] = text.strip()
    return rows


def test_a_model(tmp_path, capsys):
    path = tmp_path / 'model.bin'
    content = {
        'format': checkpoint.MODEL_FORMAT,
        'version': 1,
        'sig': '0a1b2c3d',
        'epoch': 4,
        'config': yaml.safe_dump({'model': MODEL}),
        'state': config.build(MODEL).state_dict(),
    }
    checkpoint.save(content, path)
    found = facts(capsys, path)
    assert found['source'] == 'EncodecModel, experiment 0a1b2c3d, epoch 4'
    assert found['file'] == f'{path}, {path.stat().st_size / 1e6:.1f} MB'
    assert found['sample rate'] == '8000 Hz, mono'
    assert found['frame rate'] == '50 Hz'
    assert found['bandwidth'] == 'in kbps, with (codebooks): 0.15 (1), 0.3 (2), 0.45 (3)'
    assert found['latency'].startswith('20 ms, 160 samples: ')


def test_the_installation(capsys):
    found = facts(capsys)
    assert found['audiocodec'].startswith(f'{__version__} in ')
    assert found['python'].startswith(platform.python_version())
    assert found['torch'] == torch.__version__
    assert 'cores' in found['cpu']


@pytest.mark.parametrize('name', ['nothing.bin', '//pretrained/nothing here', 'deadbeef'])
def test_what_does_not_exist_is_one_line(name, capsys):
    assert main(['info', name]) == 1
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('error: ')
    assert printed.err.count('\n') == 1
