import logging
import os
import shutil
from pathlib import Path

import pytest
from encoders import WILD

from audiocodec.data import (
    SPLITS,
    AudioMeta,
    index_folder,
    load_manifest,
    load_source,
    save_manifest,
    split,
    split_folder,
    with_share,
)


def test_index_is_sorted_and_right(folder):
    expected = [
        AudioMeta(str(folder / 'a.OGG'), 1.0, 24000, 1),
        AudioMeta(str(folder / 'a' / 'z.flac'), 0.5, 44100, 2),
        AudioMeta(str(folder / 'b.wav'), 1.5, 16000, 1),
    ]
    assert index_folder(folder, workers=1) == expected
    assert index_folder(folder, workers=8, cache=False) == expected
    assert load_source(folder) == expected


def test_many_files_are_read_in_parallel_to_the_same_result(tmp_path, make_file):
    for number in range(70):
        make_file(tmp_path / f'{number}.wav', 0.01 * (1 + number), seed=number)
    (tmp_path / 'broken.mp3').write_text('no audio')
    single = index_folder(tmp_path, workers=1, cache=False)
    assert [meta.duration for meta in single[:3]] == [0.01, 0.02, 0.11]  # 0, 1, 10
    assert index_folder(tmp_path, workers=4, cache=False) == single


def test_no_environment_is_needed(folder, tmp_path, monkeypatch):
    for name in ('XDG_CACHE_HOME', 'HOME', 'USER'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('pathlib.Path.home', lambda: (_ for _ in ()).throw(RuntimeError('no home')))
    monkeypatch.setattr('tempfile.gettempdir', lambda: str(tmp_path / 'temporary'))
    assert len(index_folder(folder)) == 3
    assert len(list((tmp_path / 'temporary').rglob('d-*.jsonl.gz'))) == 1


def test_bad_files_are_left_out_and_named_once(folder, caplog):
    (folder / 'broken.wav').write_text('not audio')
    cut = folder / 'a' / 'z.flac'
    cut.write_bytes(cut.read_bytes()[:3000])
    with caplog.at_level(logging.WARNING):
        metas = index_folder(folder, min_duration=1.2)
    assert [os.path.basename(meta.path) for meta in metas] == ['b.wav']
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert '3 of 4 audio files left out' in message
    for part in ('broken.wav: cannot be read as audio', 'z.flac: ', 'a.OGG: only 1.000 s long'):
        assert message.count(part) == 1


def test_the_splits_of_a_folder_name_left_out_files_once(folder, caplog):
    (folder / 'broken.wav').write_text('not audio')
    with caplog.at_level(logging.WARNING):
        for name in SPLITS:
            split_folder(folder, name)
        assert len(caplog.records) == 1
        (folder / 'another.wav').write_text('not audio')  # changes the message
        split_folder(folder, 'train')
    assert [record.getMessage().split(':')[1].strip() for record in caplog.records] == [
        '1 of 4 audio files left out',
        '2 of 5 audio files left out',
    ]


def test_empty_folder_says_what_is_accepted(tmp_path):
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(
        ValueError,
        match=rf'{tmp_path}: no audio in this folder; .*\.wav .*\.flac \.ogg .*\.mp3 .*\.m4a',
    ):
        load_source(tmp_path)
    (tmp_path / 'a.wav').write_text('not audio')
    with pytest.raises(ValueError, match=r'none of its 1 audio files can be used; e\.g\. .*a\.wav'):
        load_source(tmp_path)


def test_missing_source_is_named(tmp_path):
    for name in ('nowhere', 'nowhere.jsonl'):
        with pytest.raises(ValueError, match=f'{tmp_path / name}: no such data source'):
            load_source(tmp_path / name)
    with pytest.raises(ValueError, match='no such folder'):
        index_folder(tmp_path / 'nowhere')


def test_folder_with_a_manifest_is_read_from_it(folder):
    save_manifest(index_folder(folder)[:1], folder / 'data.jsonl.gz')
    assert load_source(folder) == load_manifest(folder / 'data.jsonl.gz')
    assert len(load_source(str(folder / 'data.jsonl.gz'))) == 1


def test_one_file_is_a_source(folder):
    assert load_source(folder / 'b.wav') == [AudioMeta(str(folder / 'b.wav'), 1.5, 16000, 1)]


def test_links_in_a_circle_end(folder):
    (folder / 'a' / 'up').symlink_to(folder)
    (folder / 'dangling.wav').symlink_to(folder / 'nothing.wav')
    assert len(index_folder(folder, cache=False)) == 3


def test_amplitude_is_measured(tmp_path, make_file):
    make_file(tmp_path / 'a.wav', amplitude=10)
    assert index_folder(tmp_path, amplitude=True)[0].amplitude == pytest.approx(1.0, abs=1e-3)


def names(metas):
    return {os.path.basename(meta.path) for meta in metas}


@pytest.mark.parametrize('count', [3, 4, 10, 1000])
def test_split_is_a_partition(count):
    metas = [AudioMeta(f'/data/{number // 7}/{number}.wav', 1.0, 16000) for number in range(count)]
    parts = {
        name: names(split(metas, name, '/data'))
        for name in ('train', 'valid', 'evaluate', 'generate')
    }
    assert parts['evaluate'] == parts['generate']
    assert parts['train'] | parts['valid'] | parts['evaluate'] == names(metas)
    assert len(parts['train']) + len(parts['valid']) + len(parts['evaluate']) == count
    assert min(len(part) for part in parts.values()) >= 1
    if count == 1000:
        assert 870 <= len(parts['train']) <= 930
        assert 35 <= len(parts['valid']) <= 65


def test_split_is_stable():
    metas = [AudioMeta(f'/data/{number}.wav', 1.0, 16000) for number in range(1000)]
    moved = [AudioMeta(f'/elsewhere/{number}.wav', 1.0, 16000) for number in range(1000)]
    for name in ('train', 'valid', 'evaluate'):
        before = names(split(metas, name, '/data'))
        assert names(split(moved, name, '/elsewhere')) == names(split(metas[::-1], name)) == before
        assert names(split(metas[:900], name, '/data')) <= before


def test_split_needs_three_files():
    with pytest.raises(ValueError, match='2 audio files cannot be split'):
        split([AudioMeta('/a/1.wav', 1, 1), AudioMeta('/a/2.wav', 1, 1)], 'train')
    with pytest.raises(ValueError, match=r"'testing'.*train, valid, evaluate, generate"):
        split([], 'testing')


def test_split_folder_without_splits(tmp_path, make_file):
    for number in range(5):
        make_file(tmp_path / f'{number}.wav', 0.1, seed=number)
    parts = [names(split_folder(tmp_path, name)) for name in ('train', 'valid', 'evaluate')]
    assert sum(map(len, parts)) == 5
    assert set.union(*parts) == {f'{number}.wav' for number in range(5)}


def test_nothing_cannot_be_split():
    with pytest.raises(ValueError, match='0 audio files cannot be split'):
        split([], 'train')


@pytest.mark.parametrize(
    ('folders', 'expected'),
    [
        (('train', 'valid', 'evaluate', 'generate'), ('train', 'valid', 'evaluate', 'generate')),
        (('train', 'val', 'test'), ('train', 'val', 'test', 'test')),
        (('train', 'dev'), ('train', 'dev', 'dev', 'dev')),
        (('train', 'test'), ('train', 'test', 'test', 'test')),
    ],
)
def test_split_folder_with_splits(tmp_path, make_file, folders, expected):
    for name in folders:
        make_file(tmp_path / name / f'{name}.wav', 0.1)
    found = [
        names(split_folder(tmp_path, name)) for name in ('train', 'valid', 'evaluate', 'generate')
    ]
    assert found == [{f'{name}.wav'} for name in expected]


def test_formats_that_need_the_extra_are_counted_once(tmp_path, make_file, monkeypatch, caplog):
    monkeypatch.setattr('audiocodec.data.readers.libav.version', lambda: None)
    for name in ('a.m4a', 'b.m4a', 'c.webm'):
        (tmp_path / 'music' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'music' / name).touch()
    with pytest.raises(ValueError, match=r'3 of 3 audio files left out \(2 \.m4a, 1 \.webm\)'):
        index_folder(tmp_path / 'music', cache=False)
    make_file(tmp_path / 'music' / 'd.wav')
    for _ in range(2):
        found = index_folder(tmp_path / 'music', cache=False)
    assert [Path(meta.path).name for meta in found] == ['d.wav']
    (record,) = caplog.records
    assert '3 of 4 audio files left out (2 .m4a, 1 .webm)' in record.getMessage()
    assert "pip install 'audiocodec[av]'" in record.getMessage()


def test_all_formats_are_found(tmp_path):
    pytest.importorskip('av')
    for path in WILD.iterdir():
        shutil.copy(path, tmp_path)
    found = index_folder(tmp_path, cache=False)
    lengths = {Path(meta.path).name: round(meta.duration * meta.sample_rate) for meta in found}
    assert lengths == {
        'aac.m4a': 44100,
        'chained.ogg': 88200,
        'layer2.mp2': 44928,
        'piped.flac': 44100,
        'vbr_without_xing.mp3': 45504,
    }


def metas_of(*names):
    return [AudioMeta(f'/data/{name}', 1.0, 16000) for name in names]


def test_a_folder_stays_in_one_split():
    folders = [f'{speaker}/{chapter}' for speaker in range(60) for chapter in 'ab']
    names = [f'{folder}/{name}.wav' for folder in folders for name in 'xy']
    metas = metas_of(*names)
    for group_by, depth in (('parent', 2), ('parent2', 1)):
        splits = {}
        for name in SPLITS[:3]:
            found = split(metas, name, '/data', group_by)
            splits[name] = {'/'.join(meta.path.split('/')[2:][:depth]) for meta in found}
            assert len(found) == (2 if depth == 2 else 4) * len(splits[name])
        assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 60 * depth
    more = metas_of(*names, *(f'new{n}/a/x.wav' for n in range(10)))
    before = {meta.path for meta in split(metas, 'valid', '/data', 'parent2')}
    assert before <= {meta.path for meta in split(more, 'valid', '/data', 'parent2')}


def test_a_key_of_the_manifest_stays_in_one_split(tmp_path):
    lines = [
        f'{{"path": "{n}.wav", "duration": 1, "sample_rate": 16000, "speaker": {n % 20}}}'
        for n in range(200)
    ]
    (tmp_path / '0.wav').touch()
    (tmp_path / 'm.jsonl').write_text('\n'.join(lines))
    numbers = {}
    for name in SPLITS[:3]:
        found = split_folder(tmp_path / 'm.jsonl', name, 'speaker', (0.6, 0.2, 0.2))
        numbers[name] = [int(Path(meta.path).stem) for meta in found]
    speakers = {name: {number % 20 for number in found} for name, found in numbers.items()}
    assert sorted(number for found in numbers.values() for number in found) == list(range(200))
    assert sum(map(len, speakers.values())) == 20
    assert 8 <= len(speakers['train']) <= 16
    for key in ('album', 'parents'):
        with pytest.raises(ValueError, match=rf"0\.wav: has no '{key}' in the manifest"):
            split_folder(tmp_path / 'm.jsonl', 'train', key)
    with pytest.raises(ValueError, match=r'1 groups of files \(by parent\) cannot be split'):
        split_folder(tmp_path / 'm.jsonl', 'train', 'parent')


def test_fractions_are_kept():
    metas = metas_of(*(f'{n}.wav' for n in range(2000)))
    sizes = [len(split(metas, name, '/data', None, (0.5, 0.2, 0.3))) for name in SPLITS[:3]]
    assert sum(sizes) == 2000
    assert sizes == pytest.approx([1000, 400, 600], abs=60)


def test_shares_are_of_the_draws():
    speech = with_share([AudioMeta('a', 10.0, 16000), AudioMeta('b', 30.0, 16000, weight=2.0)], 0.7)
    music = with_share([AudioMeta('c', 500.0, 16000)], 0.3)
    draws = {meta.path: meta.weight * meta.duration for meta in speech + music}
    assert draws == {
        'a': pytest.approx(0.7 / 7),
        'b': pytest.approx(0.7 * 6 / 7),
        'c': pytest.approx(0.3),
    }
    uniform = with_share([AudioMeta('a', 10.0, 16000), AudioMeta('b', 30.0, 16000)], 1, False)
    assert [meta.weight for meta in uniform] == [0.5, 0.5]
    with pytest.raises(ValueError, match='a and others: every weight is 0'):
        with_share([AudioMeta('a', 10.0, 16000, weight=0.0)], 1)
