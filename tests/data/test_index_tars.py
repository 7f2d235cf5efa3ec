"""Tar archives as a data source: indexed once, split by name, drawn like files."""

import io
import tarfile
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.data import AudioDataset, load_source, missing_files, split_folder
from audiocodec.data import probe as probing


def wav(seconds=0.5, seed=0):
    content = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, int(16000 * seconds))
    soundfile.write(content, noise, 16000, format='WAV')
    return content.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def shards(tmp_path):
    """A folder of three archives, of four recordings each."""
    folder = tmp_path / 'shards'
    for shard in range(3):
        files = {
            f'speaker_{shard}_{number % 2}/talk_{number}.wav': wav(seed=10 * shard + number)
            for number in range(4)
        }
        write_tar(folder / f'train-{shard:03d}.tar', {**files, 'notes.txt': b'text'})
    return folder


def names(metas):
    return [meta.path.rpartition('/')[2] for meta in metas]


@pytest.mark.parametrize('pattern', ['', 'train-{000..002}.tar', '*.tar'])
def test_a_folder_a_range_and_a_pattern_are_the_same_source(shards, pattern):
    metas = load_source(shards / pattern)
    assert len(metas) == 12
    assert {(meta.duration, meta.sample_rate, meta.channels) for meta in metas} == {(0.5, 16000, 1)}
    assert names(metas) == names(load_source(shards))
    assert missing_files([meta.path for meta in metas]) == []


def test_one_archive_is_a_source(shards):
    assert len(load_source(shards / 'train-001.tar')) == 4


def test_archives_are_read_once_and_again_when_they_change(shards, monkeypatch):
    load_source(shards)
    read = []
    probe_tar = probing.probe_tar
    monkeypatch.setattr(
        probing, 'probe_tar', lambda *args: read.append(args[0]) or probe_tar(*args)
    )
    assert len(load_source(shards)) == 12
    assert read == []
    write_tar(shards / 'train-001.tar', {'new.wav': wav(0.25)})
    metas = load_source(shards)
    assert read == [str(shards / 'train-001.tar')]
    assert len(metas) == 9


def test_members_that_cannot_be_read_are_left_out_and_named(shards, caplog):
    write_tar(shards / 'train-003.tar', {'bad.wav': b'no audio', 'good.wav': wav()})
    assert len(load_source(shards)) == 13
    assert '1 of 14 audio files left out: ' in caplog.text
    assert 'bad.wav: cannot be read as audio' in caplog.text


def test_a_damaged_archive_is_an_error(shards):
    path = shards / 'train-002.tar'
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match=r'train-002\.tar: cannot be read as an uncompressed tar'):
        load_source(shards)


def test_archives_without_audio_are_an_error(tmp_path):
    write_tar(tmp_path / 'a.tar', {'a.txt': b'text'})
    with pytest.raises(ValueError, match=r'a\.tar: no audio in 1 archives; expected members endi'):
        load_source(tmp_path / 'a.tar')


def test_a_folder_with_audio_beside_archives_is_read_as_a_folder(shards):
    (shards / 'a.wav').write_bytes(wav())
    assert names(load_source(shards)) == ['a.wav']


def test_splits_are_by_name_and_stay_when_archives_grow(shards):
    splits = {name: names(split_folder(shards, name)) for name in ('train', 'valid', 'evaluate')}
    assert sum(map(len, splits.values())) == 12
    whole = load_source(shards)
    before = {meta.path.split('+')[-1] for meta in split_folder(shards, 'train')}
    write_tar(shards / 'train-003.tar', {f'x/{number}.wav': wav() for number in range(4)})
    after = {meta.path.split('+')[-1] for meta in split_folder(shards, 'train')}
    assert before <= after
    assert len(whole) == 12


def test_speakers_stay_together(shards):
    sides = Counter()
    for name in ('train', 'valid', 'evaluate'):
        for meta in split_folder(shards, name, group_by='parent'):
            sides[meta.path.split('/')[-2], name] += 1
    assert len({speaker for speaker, _ in sides}) == len(sides) == 6


def test_draws_are_those_of_the_same_files_on_disk(shards, tmp_path):
    metas = load_source(shards)
    disk = []
    for number in range(len(metas)):
        path = tmp_path / 'disk' / f'{number:02d}.wav'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav(seed=10 * (number // 4) + number % 4))
        disk += load_source(path)
    options = {'segment_duration': 0.2, 'num_samples': 20, 'shuffle': True, 'seed': 3}
    packed, plain = (AudioDataset(files, 16000, 1, **options) for files in (metas, disk))
    for index in range(20):
        assert torch.equal(packed[1, index], plain[1, index])
