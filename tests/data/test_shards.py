import gzip
import json
import os

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.data import (
    AudioDataset,
    AudioMeta,
    is_shards,
    load_shards,
    load_source,
    make_loader,
    make_shards,
)
from audiocodec.data.shards import is_address, read_stored


@pytest.fixture
def folder(tmp_path, make_file):
    """Files of several formats, sample rates and channels."""
    audio = tmp_path / 'audio'
    make_file(audio / 'a.wav', 2.0, 24000, seed=1)
    make_file(audio / 'deep' / 'b.flac', 3.1, 44100, 2, seed=2)
    make_file(audio / 'deep' / 'c.ogg', 2.7, 44100, 1, seed=3)
    make_file(audio / 'd.mp3', 4.0, 44100, 2, seed=4)
    make_file(audio / 'e.wav', 1.3, 16000, seed=5)
    return audio


def items(metas, sample_rate=24000, channels=1, number=40, **options):
    dataset = AudioDataset(
        metas, sample_rate, channels, 1.0, number, return_info=True, seed=3, **options
    )
    return [dataset[2, index] for index in range(number)]


def test_the_same_segments_within_half_a_step(tmp_path, folder):
    metas = load_source(folder)
    for place, meta in enumerate(metas):
        meta.weight = 1.0 + place
    report = make_shards(metas, tmp_path / 'shards', 24000, workers=1)
    assert (report.files, report.problems, report.limited) == (5, [], 0.0)
    stored = load_shards(tmp_path / 'shards')
    assert [(meta.duration, meta.weight, meta.sample_rate) for meta in stored] == [
        (meta.duration, meta.weight, meta.sample_rate) for meta in metas
    ]
    for (wav, info), (packed, packed_info) in zip(items(metas), items(stored)):
        assert packed_info.meta.path.endswith(info.meta.path)
        assert (packed_info.seek_time, packed_info.n_frames) == (info.seek_time, info.n_frames)
        # Blocks and segments are filtered at different offsets: the last bit of a float may change
        # the rounding.
        assert (packed - wav).abs().max() <= 0.5 / 32768 + 2e-6
        assert torch.equal(packed * 32768, (packed * 32768).round())


def test_sixteen_bits_at_the_same_rate_come_back_exactly(tmp_path, make_file):
    path = make_file(tmp_path / 'audio' / 'a.flac', 3.0, 24000, 2, amplitude=0.5)
    metas = load_source(tmp_path / 'audio')
    make_shards(metas, tmp_path / 'shards', 24000, 2)
    whole, _ = soundfile.read(path, dtype='int16')
    assert {-32768, 32767} <= set(whole.ravel())  # the limits come back too
    (meta,) = load_shards(tmp_path / 'shards')
    assert np.array_equal((read_stored(meta.path, 0, -1) * 32768).T.numpy(), whole)
    for (wav, _), (packed, _) in zip(items(metas, channels=2), items([meta], channels=2)):
        assert torch.equal(wav, packed)
    for (wav, _), (packed, _) in zip(items(metas), items([meta])):  # mono of stereo shards
        assert torch.equal(wav, packed)


def test_several_processes_and_shards_make_the_same(tmp_path, folder, monkeypatch):
    metas = load_source(folder)
    make_shards(metas, tmp_path / 'one', 24000, workers=1)
    monkeypatch.setattr('audiocodec.data.shards._SHARD_BYTES', (2 * 24000 * 5, 2 * 24000 * 5))
    make_shards(metas, tmp_path / 'many', 24000, workers=2)
    assert len(os.listdir(tmp_path / 'one')) == 3
    assert len(os.listdir(tmp_path / 'many')) == 2 + 4
    for first, second in zip(
        items(load_shards(tmp_path / 'one')), items(load_shards(tmp_path / 'many'))
    ):
        assert torch.equal(first[0], second[0])


def test_blocks_join_without_a_seam(tmp_path, folder, monkeypatch):
    metas = load_source(folder)
    make_shards(metas, tmp_path / 'whole', 24000, workers=1)
    monkeypatch.setattr('audiocodec.data.shards._BLOCK', 12_345)
    make_shards(metas, tmp_path / 'blocks', 24000, workers=1)
    for first, second in zip(load_shards(tmp_path / 'whole'), load_shards(tmp_path / 'blocks')):
        difference = read_stored(first.path, 0, -1) - read_stored(second.path, 0, -1)
        assert difference.abs().max() <= 1 / 32768
        assert (difference != 0).float().mean() < 1e-3


def test_loading_processes_read_them(tmp_path, folder):
    make_shards(load_source(folder), tmp_path / 'shards', 24000)
    batches = []
    for workers in (0, 2):
        dataset = AudioDataset(load_shards(tmp_path / 'shards'), 24000, 1, 1.0, 12, seed=1)
        loader = make_loader(dataset, 4, workers)
        loader.set_epoch(1)
        batches.append(torch.cat(list(loader)))
    assert torch.equal(*batches)


def test_shards_that_do_not_fit_are_refused(tmp_path, make_file):
    make_file(tmp_path / 'audio' / 'a.wav', 1.0, 24000)
    make_shards(load_source(tmp_path / 'audio'), tmp_path / 'shards', 24000)
    stored = load_shards(tmp_path / 'shards')
    for rate, channels in [(16000, 1), (48000, 1), (24000, 2)]:
        with pytest.raises(
            ValueError,
            match=f'have 24000 Hz and 1 .*--sample_rate {rate} --channels {channels}',
        ):
            AudioDataset(stored, rate, channels, 0.5)
    with pytest.raises(ValueError, match='got shards'):
        make_shards(stored, tmp_path / 'again', 24000)


def test_an_unreadable_file_keeps_its_place(tmp_path, make_file):
    for name in 'abc':
        make_file(tmp_path / 'audio' / f'{name}.wav', 2.0, 24000, seed=ord(name))
    metas = load_source(tmp_path / 'audio')
    (tmp_path / 'audio' / 'b.wav').write_bytes(b'no audio')
    report = make_shards(metas, tmp_path / 'shards', 24000)
    assert len(report.problems) == 1
    assert 'b.wav' in report.problems[0]
    for (wav, info), (packed, packed_info) in zip(
        items(metas), items(load_shards(tmp_path / 'shards'))
    ):
        assert torch.equal(wav, packed)
        assert len(info.skipped) == len(packed_info.skipped)
        assert info.seek_time == packed_info.seek_time
    with pytest.raises(ValueError, match='none of the 1 files can be read'):
        make_shards([metas[1]], tmp_path / 'none', 24000)


def test_loud_and_broken_samples(tmp_path):
    (tmp_path / 'audio').mkdir()
    loud = np.array([0.5, 1.0, 1.5, -1.0, -1.2] * 100)
    soundfile.write(tmp_path / 'audio' / 'loud.wav', loud, 24000, subtype='FLOAT')
    soundfile.write(
        tmp_path / 'audio' / 'nan.wav', np.where(loud > 1, np.nan, loud), 24000, subtype='FLOAT'
    )
    report = make_shards(load_source(tmp_path / 'audio'), tmp_path / 'shards', 24000)
    assert report.limited == 0.6  # 1.0, 1.5 and -1.2
    assert 'NaN' in report.problems[0]
    first, _ = load_shards(tmp_path / 'shards')
    assert (read_stored(first.path, 0, 5)[0] * 32768).tolist() == [
        16384,
        32767,
        32767,
        -32768,
        -32768,
    ]


def test_shards_are_written_atomically(tmp_path, folder, monkeypatch):
    metas = load_source(folder)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('audiocodec.data.shards._write_record', interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_shards(metas, tmp_path / 'out' / 'shards', 24000)
    assert os.listdir(tmp_path / 'out') == []
    make_shards(metas, tmp_path / 'out' / 'shards', 24000)
    assert is_shards(tmp_path / 'out' / 'shards')
    with pytest.raises(FileExistsError, match='already exists'):
        make_shards(metas, tmp_path / 'out' / 'shards', 24000)
    monkeypatch.setattr('shutil.disk_usage', lambda path: (2000, 1000, 1000))
    with pytest.raises(OSError, match='GB left'):
        make_shards(metas, tmp_path / 'out' / 'other', 24000)
    monkeypatch.setattr('shutil.disk_usage', lambda path: (0, 0, 0))  # a mount of an object store
    make_shards(metas, tmp_path / 'out' / 'other', 24000)


@pytest.mark.parametrize('damage', ['shard', 'files', 'head', 'gone'])
def test_damaged_shards_are_refused(tmp_path, make_file, damage):
    make_file(tmp_path / 'audio' / 'a.wav', 1.0, 24000)
    out = tmp_path / 'shards'
    make_shards(load_source(tmp_path / 'audio'), out, 24000)
    (shard,) = out.glob('*.s16')
    if damage == 'shard':
        shard.write_bytes(shard.read_bytes()[:-2])
    elif damage == 'files':
        (out / 'files.jsonl.gz').write_bytes(gzip.compress(b''))
    elif damage == 'head':
        (out / 'shards.json').write_text(json.dumps({'format': 'other'}))
    else:
        shard.unlink()
    with pytest.raises(ValueError, match='not a complete folder of shards'):
        load_shards(out)


def test_addresses():
    assert is_address('/data/shards/00000.24000x1.s16/5+10/home/a.wav')
    assert not is_address('/data/a.s16/b.wav')
    with pytest.raises(ValueError, match='cannot be read'):
        read_stored('/nowhere/00000.24000x1.s16/5+10/home/a.wav', 0, 5)
    with pytest.raises(ValueError, match='has 10 samples'):
        read_stored('/nowhere/00000.24000x1.s16/5+10/home/a.wav', 10, 5)
    with pytest.raises(ValueError, match='no files'):
        make_shards([], '/nowhere/out', 24000)
    with pytest.raises(ValueError, match='sample_rate=0'):
        make_shards([AudioMeta('/a.wav', 1.0, 24000)], '/nowhere/out', 0)
