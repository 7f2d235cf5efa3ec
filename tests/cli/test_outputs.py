"""Outputs that cannot be written are refused before anything else happens."""

import pytest

from audiocodec.cli.main import main

FOLDER = 'is a folder: give a file'
FILE = 'is a file: give a folder'
COMMANDS = [
    ('manifest MISSING OUT', FOLDER),
    ('doctor MISSING --json OUT', FOLDER),
    ('doctor MISSING --clean OUT', FOLDER),
    ('shards MISSING OUT --sample_rate 24000', FILE),
    ('export MISSING OUT --format compact', FOLDER),
    ('export MISSING OUT --format hf', FILE),
    ('certify MISSING --out OUT', FOLDER),
    ('encode MISSING OUT --model MISSING', FOLDER),
    ('encode MISSING OUT --model MISSING --stream', FOLDER),
    ('decode MISSING OUT', FOLDER),
    ('tables MISSING MISSING --out OUT', FOLDER),
    ('tokens MISSING OUT --model MISSING', FILE),
    ('evaluate MISSING --data MISSING --out OUT', FILE),
    ('report MISSING --out OUT', FILE),
]


@pytest.mark.parametrize(('command', 'expected'), COMMANDS)
def test_something_else_stands_there(tmp_path, command, expected, capsys):
    out = tmp_path / 'out'
    if expected == FOLDER:
        out.mkdir()
    else:
        out.write_text('mine')
    assert main([str(out) if word == 'OUT' else word for word in command.split()]) == 1
    assert f'{out} {expected}\n' in capsys.readouterr().err


@pytest.mark.parametrize('command', [command for command, _ in COMMANDS])
def test_a_file_stands_where_a_folder_would_be(tmp_path, command, capsys):
    above = tmp_path / 'out'
    above.write_text('mine')
    out = above / 'deep' / 'x.wav'
    assert main([str(out) if word == 'OUT' else word for word in command.split()]) == 1
    assert f'{out} cannot be created: {above} is a file\n' in capsys.readouterr().err
    assert above.read_text() == 'mine'
