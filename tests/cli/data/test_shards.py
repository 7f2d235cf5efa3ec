from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.cli.main import main as audiocodec
from audiocodec.data import AudioDataset, load_shards, load_source, split_folder


def main(arguments):
    return audiocodec(['shards', *arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'audio').mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 20000)
        soundfile.write(tmp_path / 'audio' / f'{seed}.wav', noise, 16000)
    return tmp_path / 'audio'


def test_shards_of_a_folder(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / 'shards'), '--sample_rate', '16000']) == 0
    assert (
        '4 files, 0.00 h, 0.00 GB, 0 unreadable, 0.00e+00 of the values' in capsys.readouterr().out
    )
    original, packed = (
        AudioDataset(metas, 16000, 1, 1.0)
        for metas in (load_source(folder), load_shards(tmp_path / 'shards'))
    )
    assert all(torch.equal(original[index], packed[index]) for index in range(4))


def test_one_split(folder, tmp_path):
    assert (
        main([str(folder), str(tmp_path / 'train'), '--sample_rate', '16000', '--split', 'train'])
        == 0
    )
    names = [Path(meta.path).name for meta in load_shards(tmp_path / 'train')]
    assert names == [Path(meta.path).name for meta in split_folder(folder, 'train')]
    assert len(names) == 2


def test_what_is_wrong_is_said(folder, tmp_path, capsys):
    (tmp_path / 'there').mkdir()
    assert main([str(folder), str(tmp_path / 'there'), '--sample_rate', '16000']) == 1
    assert 'already exists' in capsys.readouterr().err
    assert main([str(tmp_path / 'none'), str(tmp_path / 'out'), '--sample_rate', '16000']) == 1
    assert 'no such data source' in capsys.readouterr().err
