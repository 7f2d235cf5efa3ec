import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from items import tiny_model, write_items

from audiocodec.cli.codec.tokens import parse_devices
from audiocodec.cli.main import main as audiocodec
from audiocodec.models import pretrained
from audiocodec.models.export import export
from audiocodec.tokens import TokenDataset


@pytest.fixture
def model(tmp_path):
    export(tiny_model(), tmp_path / 'model.bin', 'compact')
    return tmp_path / 'model.bin'


def run(*argv):
    return audiocodec(['tokens', *map(str, argv)])


def test_the_rate_is_that_of_the_command(tmp_path, model, capsys):
    audio = write_items(tmp_path / 'audio')
    assert run(audio, tmp_path / 'out', '--model', model, '--kbps', 0.3, '--workers', 1) == 0
    assert capsys.readouterr().out == (
        f'{tmp_path / "out"}: 3 files, 0.00 h, 190 frames of 2 codes at 0.3 kbps, 0.00 MB\n'
    )
    dataset = TokenDataset(tmp_path / 'out')
    assert (dataset.head['kbps'], dataset.head['num_codebooks']) == (0.3, 2)
    assert dataset.head['model'] == 'model.bin'
    codec = pretrained.load(str(model))
    wav = torch.from_numpy(soundfile.read(audio / 'item_1.wav', dtype='float32')[0])[None, None]
    assert torch.equal(dataset[1].codes, codec.encode(wav)[0][0, :2])


def test_files_that_cannot_be_read_are_listed(tmp_path, model, capsys):
    audio = write_items(tmp_path / 'audio')
    for number in range(21):
        soundfile.write(audio / f'bad_{number:02d}.wav', np.full(80, np.nan), 8000, 'FLOAT')
    assert run(audio, tmp_path / 'out', '--model', model, '--workers', 1) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'21 files could not be read, see {tmp_path / "out" / "skipped.jsonl"}:'
    assert lines[1] == f'  {audio / "bad_00.wav"}: contains NaN or Inf'
    assert lines[21] == '  and 1 more'
    assert ': 3 files, ' in lines[22]
    skipped = (tmp_path / 'out' / 'skipped.jsonl').read_text().splitlines()
    paths = [json.loads(line)['path'] for line in skipped]
    assert [Path(path).name for path in paths] == [f'bad_{number:02d}.wav' for number in range(21)]


def test_a_rate_that_the_model_has_not_is_an_error(tmp_path, model, capsys):
    assert run(tmp_path, tmp_path / 'out', '--model', model, '--kbps', 0.1) == 1
    assert 'below the lowest bandwidth of this model' in capsys.readouterr().err


def test_devices():
    assert parse_devices('cpu') == ('cpu',)
    assert parse_devices('cuda') == ('cuda',)
    assert parse_devices('cuda:0,2') == ('cuda:0', 'cuda:2')
    with pytest.raises(ValueError, match="device 'gpu': expected cpu, cuda"):
        parse_devices('gpu')
