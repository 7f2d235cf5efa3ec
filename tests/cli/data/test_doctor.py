import json

import numpy as np
import pytest
import soundfile

from audiocodec.cli.main import main as audiocodec
from audiocodec.data import load_manifest


def main(arguments):
    return audiocodec(['doctor', *arguments])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'audio').mkdir()
    for seed in range(3):
        wav = 0.1 * np.random.default_rng(seed).standard_normal(24000) if seed else np.zeros(24000)
        soundfile.write(tmp_path / 'audio' / f'{seed}.wav', wav, 24000)
    return tmp_path / 'audio'


def test_summary_report_and_manifest(folder, tmp_path, capsys):
    arguments = [
        str(folder),
        '--json',
        str(tmp_path / 'out' / 'report.json'),
        '--clean',
        str(tmp_path / 'c.jsonl.gz'),
    ]
    assert main(arguments) == 0  # a warning is not an error
    out = capsys.readouterr().out
    assert 'warning  silent               1     0.00  completely silent' in out
    assert f'{tmp_path}/c.jsonl.gz: 3 files, 0.00 h, ' in out
    assert 'channels: 1 (3); 0 files left out' in out
    assert json.loads((tmp_path / 'out' / 'report.json').read_text())['counts'] == {'silent': 1}
    (folder / '1.wav').write_text('no audio')
    assert main([*arguments, '--exclude', 'silent']) == 1
    assert '1 files, ' in capsys.readouterr().out
    assert [meta.path for meta in load_manifest(tmp_path / 'c.jsonl.gz')] == [str(folder / '2.wav')]


def test_limits_from_the_command_line(folder, capsys):
    assert main([str(folder), '--silence_db', '0']) == 0
    assert 'warning  silent               3' in capsys.readouterr().out
    assert main([str(folder), '--sample_rate', '48000']) == 0
    assert (
        'warning  bandwidth            2' in capsys.readouterr().out
    )  # the files end at half of that


def test_what_is_wrong_is_said(folder, tmp_path, capsys):
    assert main([str(tmp_path / 'nowhere')]) == 1
    assert capsys.readouterr().err.startswith(f'error: {tmp_path}/nowhere: no such file or folder')
    with pytest.raises(SystemExit):
        main([str(folder), '--exclude', 'unknown'])
    assert 'invalid choice' in capsys.readouterr().err
