import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from audiocodec.data import (
    AudioDataset,
    AudioMeta,
    index_folder,
    load_manifest,
    missing_files,
    read_audio,
    save_manifest,
    summarize,
)

FIXTURES = Path(__file__).parents[1] / 'fixtures'


@pytest.mark.parametrize('name', ['m.jsonl', 'm.jsonl.gz'])
def test_saved_manifest_loads_back(tmp_path, make_file, name):
    metas = [
        AudioMeta(str(make_file(tmp_path / 'sub' / 'ä b.wav')), 1.0, 16000),
        AudioMeta(
            str(make_file(tmp_path / 'c.wav')),
            2.5,
            24000,
            2,
            0.75,
            3.0,
            str(tmp_path / 'i.zip:a.json'),
        ),
    ]
    save_manifest(metas, tmp_path / name)
    assert load_manifest(tmp_path / name) == metas
    data = (tmp_path / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith('.gz') else data).decode()
    assert [json.loads(line)['path'] for line in text.splitlines()] == ['sub/ä b.wav', 'c.wav']
    save_manifest(metas, tmp_path / name)
    assert (tmp_path / name).read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == sorted([name, 'c.wav', 'sub'])


def test_folder_can_move(tmp_path, make_file):
    meta = AudioMeta(str(make_file(tmp_path / 'one' / 'a.wav')), 1.0, 16000)
    save_manifest([meta], tmp_path / 'one' / 'm.jsonl')
    save_manifest([meta], tmp_path / 'one' / 'absolute.jsonl', relative=False)
    (tmp_path / 'one').rename(tmp_path / 'two')
    assert load_manifest(tmp_path / 'two' / 'm.jsonl')[0].path == str(tmp_path / 'two' / 'a.wav')
    with pytest.raises(ValueError, match=str(meta.path)):
        load_manifest(tmp_path / 'two' / 'absolute.jsonl')


def test_files_elsewhere_are_written_absolute(tmp_path, make_file):
    meta = AudioMeta(str(make_file(tmp_path / 'audio' / 'a.wav')), 1.0, 16000)
    save_manifest([meta], tmp_path / 'new' / 'm.jsonl')
    assert json.loads((tmp_path / 'new' / 'm.jsonl').read_text())['path'] == meta.path


def test_audiocraft_manifest_loads_as_it_is(tmp_path, make_file, monkeypatch):
    # written in the root of the repository, with paths from there and all keys
    wav = make_file(tmp_path / 'repo' / 'dataset' / 'example' / 'electro_1.wav')
    entry = {
        'path': 'dataset/example/electro_1.wav',
        'duration': 1.0,
        'sample_rate': 16000,
        'amplitude': None,
        'weight': None,
        'info_path': None,
    }
    manifest = tmp_path / 'repo' / 'egs' / 'example' / 'data.jsonl'
    manifest.parent.mkdir(parents=True)
    lines = [
        entry,
        {**entry, 'info_path': 'infos.zip:electro_1.json', 'weight': 2},
        {**entry, 'unknown': [1]},
    ]
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    metas = load_manifest(manifest)
    assert metas[0] == metas[2] == AudioMeta(str(wav), 1.0, 16000)
    assert metas[1].weight == 2.0
    assert metas[1].info_path == str(tmp_path / 'repo' / 'infos.zip:electro_1.json')
    moved = tmp_path / 'elsewhere.jsonl'
    moved.write_text(json.dumps(entry))
    monkeypatch.chdir(tmp_path / 'repo')
    assert load_manifest(moved)[0].path == str(wav)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('nonsense', "not JSON .*'nonsense'"),
        ('{"path": "a.wav", "duration": 1', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('\udcff', 'not JSON'),
        ('[1, 2]', r'expected an object .* got \[1, 2\]'),
        ('{"path": "a.wav", "offset": 1}', "'offset' needs the 'duration' of the part"),
        ('{"path": "a.wav", "offset": -1, "duration": 1}', "'offset' must be a number from 0"),
        ('{"duration": 1, "sample_rate": 16000}', "'path' is missing"),
        (
            '{"path": "a.wav", "duration": NaN, "sample_rate": 16000}',
            "'duration' must be a number from 0 to .*got nan",
        ),
        (
            '{"path": "a.wav", "duration": -1, "sample_rate": 16000}',
            "'duration' must be a number from 0 to .*got -1",
        ),
        ('{"path": "a.wav", "duration": "long", "sample_rate": 16000}', "'duration' .*'long'"),
        ('{"path": "a.wav", "duration": true, "sample_rate": 16000}', "'duration' .*True"),
        (
            '{"path": "a.wav", "duration": 1, "sample_rate": 0}',
            "'sample_rate' must be an integer from 1 to 768000; got 0",
        ),
        (
            '{"path": "a.wav", "duration": 1, "sample_rate": 16000, "channels": 1.5}',
            "'channels' .*1.5",
        ),
        ('{"path": "a.wav", "duration": 1, "sample_rate": 16000, "weight": -2}', "'weight' .*-2"),
        (
            '{"path": "a.wav", "duration": 1e9, "sample_rate": 16000}',
            "'duration' must be a number .*got 1000000000",
        ),
        ('{"path": "a.wav", "duration": 1, "sample_rate": 1e300}', "'sample_rate' .*got 1e\\+300"),
        ('{"path": 3, "duration": 1, "sample_rate": 16000}', "'path' must be a path, got 3"),
        ('{"path": "", "duration": 1, "sample_rate": 16000}', "'path' must be a path"),
        ('{"path": "a\\u0000", "duration": 1, "sample_rate": 16000}', "'path' must be a path"),
        ('{"path": "\\ud800", "duration": 1, "sample_rate": 16000}', "'path' must be a path"),
    ],
)
def test_wrong_line_is_named_with_its_number(tmp_path, make_file, line, message):
    make_file(tmp_path / 'a.wav')
    good = '{"path": "a.wav", "duration": 1, "sample_rate": 16000}\n'
    (tmp_path / 'm.jsonl').write_text(
        good + '\n' + good + line + '\n' + good, errors='surrogateescape'
    )
    with pytest.raises(ValueError, match=rf'm\.jsonl, line 4: .*{message}'):
        load_manifest(tmp_path / 'm.jsonl')


def test_missing_empty_and_damaged_manifests_are_named(tmp_path):
    (tmp_path / 'empty.jsonl').write_text('\n\n')
    (tmp_path / 'plain.jsonl.gz').write_text('{}')
    (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(b'{}' * 1000)[:-9])
    for name, message in (
        ('nowhere.jsonl', 'no such manifest'),
        ('empty.jsonl', 'no entries'),
        ('plain.jsonl.gz', 'cannot be read'),
        ('cut.jsonl.gz', 'cannot be read'),
    ):
        with pytest.raises(ValueError, match=rf'{tmp_path / name}.*{message}'):
            load_manifest(tmp_path / name)


def test_info_path_as_a_dictionary():
    entry = {
        'path': 'a',
        'duration': 1,
        'sample_rate': 16000,
        'info_path': {'zip_path': 'b.zip', 'file_path': 'c'},
    }
    assert AudioMeta.from_dict(entry).info_path == 'b.zip:c'


def test_summary():
    metas = [
        AudioMeta('a', 1800, 24000, 1),
        AudioMeta('b', 1800, 16000, 1),
        AudioMeta('c', 3600, 24000),
    ]
    assert str(summarize(metas)) == (
        '3 files, 2.00 h, sample rates: 16000 Hz (1), 24000 Hz (2), channels: unknown (1), 1 (2)'
    )
    assert summarize(metas).sample_rates == {16000: 1, 24000: 2}


def test_missing_files_are_found_in_order(tmp_path, make_file, monkeypatch):
    monkeypatch.setattr('audiocodec.data.manifest._LOOKED_UP', (2, 4))
    paths = [str(tmp_path / f'{number}.wav') for number in range(9)]
    for number in (0, 3, 4, 8):
        make_file(paths[number])
    (tmp_path / '5.wav').mkdir()  # a folder is not a file
    assert missing_files(paths) == [paths[number] for number in (1, 2, 5, 6, 7)]
    assert missing_files([]) == []


@pytest.mark.parametrize('others', [0, 50])
def test_files_of_a_large_folder_are_found_by_listing_it(tmp_path, monkeypatch, others):
    """Unless it contains much else: then they are looked up."""
    monkeypatch.setattr('audiocodec.data.manifest._LISTED', 4)
    for number in range(others):
        (tmp_path / f'{number}.txt').touch()
    for name in ('a', 'b', 'c'):
        (tmp_path / name).touch()
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to('a')
    (tmp_path / 'dangling').symlink_to('nowhere')
    looked_up = []
    plain = os.path.isfile
    monkeypatch.setattr(os.path, 'isfile', lambda path: looked_up.append(path) or plain(path))
    paths = [
        f'{tmp_path}/{name}'
        for name in ('none', 'a', 'b', 'folder', 'link', 'dangling', 'c', 'a', 'none#t=0,1')
    ]
    gone = ['none', 'folder', 'dangling', 'none#t=0,1']
    assert missing_files(paths) == [f'{tmp_path}/{name}' for name in gone]
    if not others:
        assert set(looked_up) == {f'{tmp_path}/{name}' for name in gone[:3]}


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def audio(tmp_path, make_file):
    for number in range(3):
        make_file(tmp_path / 'a' / f'{number}.wav', 2.0 + number, 16000, seed=number)
    return tmp_path


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('m.jsonl', '{"path": "a/0.wav"}\n{"path": "a/1.wav"}\n'),
        ('m.json', '[{"path": "a/0.wav"}, {"path": "a/1.wav"}]'),
        (
            'nemo.json',
            '{"audio_filepath": "a/0.wav", "duration": 9, "text": "x"}\n'
            '{"audio_filepath": "a/1.wav"}',
        ),
        ('m.csv', '\ufeffid,file_name,text\n1,a/0.wav,"a, b"\n2,a/1.wav,c\n'),
        ('m.tsv', 'path\tspeaker\na/0.wav\t1\na/1.wav\t2\n'),
        ('wav.scp', 'one a/0.wav\ntwo  a/1.wav\n'),
        ('m.txt', 'a/0.wav\n\na/1.wav\n'),
        ('m.lst', 'a/0.wav\na/1.wav'),
    ],
)
def test_what_a_manifest_lacks_is_read_from_the_files(audio, name, text):
    assert load_manifest(write(audio, name, text)) == [
        AudioMeta(str(audio / 'a' / '0.wav'), 2.0, 16000, 1),
        AudioMeta(str(audio / 'a' / '1.wav'), 3.0, 16000, 1),
    ]


def test_a_part_of_a_file_is_read(audio):
    path = write(audio, 'm.jsonl', '{"path": "a/2.wav", "offset": 1.0, "duration": 1.5}')
    (meta,) = load_manifest(path)
    assert meta == AudioMeta(f'{audio}/a/2.wav#t=1,2.5', 1.5, 16000, 1)
    whole, _ = read_audio(audio / 'a' / '2.wav')
    assert torch.equal(read_audio(meta.path)[0], whole[:, 16000:40000])
    dataset = AudioDataset([meta], 16000, segment_duration=1.0, num_samples=20, return_info=True)
    for index in range(20):
        wav, info = dataset[index]
        start = 16000 + round(16000 * info.seek_time)
        assert 16000 <= start < 40000
        assert torch.equal(wav[:, : info.n_frames], whole[:, start:40000][:, :16000])
    assert AudioDataset([meta], 16000)[0].shape == (1, 24000)
    assert missing_files([meta.path]) == []
    save_manifest([meta], audio / 'again.jsonl')
    assert load_manifest(audio / 'again.jsonl') == [meta]


def test_files_that_cannot_be_read_are_left_out_and_named(audio, caplog):
    (audio / 'a' / '1.wav').write_text('no audio')
    path = write(audio, 'm.txt', 'a/0.wav\na/1.wav\na/none.wav\n')
    found = load_manifest(path)
    assert [meta.path for meta in found] == [f'{audio}/a/0.wav', f'{audio}/a/none.wav']
    assert missing_files([meta.path for meta in found]) == [f'{audio}/a/none.wav']
    (record,) = caplog.records
    assert '1.wav: cannot be read as audio' in record.getMessage()


def test_other_lists_are_refused_by_name(audio):
    for name, text, problem in [
        ('m.csv', 'id,sound\n1,a/0.wav', r"expected one of path, .*, got \['id', 'sound'\]"),
        ('wav.scp', 'one sox a.sph -t wav - |', 'a command in place of a path'),
        ('wav.scp', 'one', "expected an identifier and a path, got 'one'"),
        ('m.jsonl', '{"audio": "a/0.wav"}', "'path' is missing"),
    ]:
        with pytest.raises(ValueError, match=problem):
            load_manifest(write(audio, name, text))


@pytest.fixture
def lhotse(tmp_path, make_file):
    """Manifests that lhotse 1.33.0 wrote, next to their audio."""
    make_file(tmp_path / 'audio' / 'a.wav', 2.0, 16000)
    make_file(tmp_path / 'audio' / 'b.flac', 2.0, 24000, channels=2)
    return shutil.copytree(FIXTURES / 'lhotse', tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize('name', ['recordings', 'cuts'])
def test_whole_files_of_lhotse(lhotse, name):
    found = load_manifest(lhotse / f'{name}.jsonl')
    assert found == index_folder(lhotse / 'audio', cache=False)


def test_cuts_of_lhotse_are_parts_of_files(lhotse):
    first, second = load_manifest(lhotse / 'trimmed.jsonl', 'speaker')
    assert first.path == f'{lhotse}/audio/a.wav#t=0.5,1.5'
    assert (first.duration, first.sample_rate, first.channels) == (1.0, 16000, 1)
    assert second.path == f'{lhotse}/audio/b.flac'
    assert (first.group, second.group) == ('anna', 'ben')
    whole = read_audio(lhotse / 'audio' / 'a.wav')[0]
    assert torch.equal(read_audio(first.path)[0], whole[:, 8000:24000])


def test_what_lhotse_would_compute_is_refused_by_name(lhotse):
    lines = (lhotse / 'refused.jsonl').read_text().splitlines()
    problems = [
        'a cut of lhotse with channel 1 of [0, 1]: save its audio',
        'MixedCut of lhotse, which is not the part of one recording',
        'a recording of lhotse with transforms (Resample)',
        'a supervision of lhotse, which is not the part of one recording',
        'a recording of lhotse in a url, not in a file',
        'a recording of lhotse in 2 files: save its audio',
    ]
    several = json.loads((lhotse / 'recordings.jsonl').read_text().splitlines()[0])
    several['sources'] *= 2
    lines.append(json.dumps(several))
    for line, problem in zip(lines, problems, strict=True):
        with pytest.raises(ValueError, match=re.escape(problem)):
            load_manifest(write(lhotse, 'one.jsonl', line))
    for sources in ('[{}]', '[]', '3'):
        broken = f'{{"id": "x", "recording": {{"sources": {sources}}}, "type": "MonoCut"}}'
        with pytest.raises(ValueError, match='not as lhotse writes it'):
            load_manifest(write(lhotse, 'one.jsonl', broken))
