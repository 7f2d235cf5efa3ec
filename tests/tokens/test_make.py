import contextlib
import copy
import dataclasses
import glob
import json
import multiprocessing
import os
import signal
import tarfile
import time

import pytest
import soundfile
import torch
from items import tiny_model, write_items

from audiocodec.data import load_source, make_shards, read_segment, save_manifest
from audiocodec.models.fingerprint import fingerprint
from audiocodec.tokens import TokenDataset
from audiocodec.tokens import make as make_module
from audiocodec.tokens import shard as shard_module
from audiocodec.utils.errors import RunError

FORK = multiprocessing.get_context('fork')


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_tokens(make, model, audio, tmp_path):
    report = make(tmp_path / 'out')
    head = json.loads((tmp_path / 'out' / 'tokens.json').read_text())
    shards = head.pop('shards')
    assert list(shards) == [f'00000{number}.safetensors' for number in range(4)]
    for name, size in shards.items():
        assert (tmp_path / 'out' / name).stat().st_size == size
    assert {name: head[name] for name in list(head)[2:-5]} == {
        'model': 'tiny',
        'fingerprint': fingerprint(model),
        'sample_rate': 8000,
        'channels': 1,
        'hop_length': 160,
        'frame_rate': 50.0,
        'cardinality': 8,
        'num_codebooks': 3,
        'kbps': 0.45,
        'dtype': 'uint16',
        'format': 'safetensors',
        'shard_minutes': 2 / 60,
    }
    frames = [50, 16, 115, 16, 35, 75, 3]
    assert (head['files'], head['skipped'], head['frames']) == (7, 1, sum(frames))
    index = lines(tmp_path / 'out' / 'index.jsonl')
    assert [entry['frames'] for entry in index] == frames
    assert [entry['path'] for entry in index] == [str(audio / f'item_{i}.wav') for i in range(7)]
    assert [entry['offset'] for entry in index] == [0, 50, 0, 0, 16, 0, 75]
    (skipped,) = lines(tmp_path / 'out' / 'skipped.jsonl')
    assert skipped['path'] == str(audio / 'item_3b.wav')
    assert skipped['reason'] == f'{skipped["path"]}: contains NaN or Inf'
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(
        ['.lock', 'index.jsonl', 'skipped.jsonl', 'tokens.json', *shards]
    )
    assert (report.files, report.frames, report.skipped, report.made) == (7, sum(frames), 1, 8)
    assert report.bytes == sum(shards.values())
    assert report.hours == pytest.approx(6.17 / 3600)


@pytest.mark.parametrize(('minutes', 'expected'), [(0.1, 1.0), (320, 5.0), (6400, 30.0)])
def test_shards_have_a_part_of_the_data(make, audio, tmp_path, monkeypatch, minutes, expected):
    (meta,) = load_source(audio / 'item_1.wav')
    metas = [dataclasses.replace(meta, duration=60 * minutes / 2)] * 2
    monkeypatch.setattr(make_module, 'load_source', lambda source: metas)
    make(tmp_path / 'out', shard_minutes=None)
    head = json.loads((tmp_path / 'out' / 'tokens.json').read_text())
    assert head['shard_minutes'] == expected
    assert len(head['shards']) == (1 if minutes < 1 else 2)
    assert make(tmp_path / 'out', shard_minutes=None).made == 0


def test_an_interrupted_run_goes_on_after_its_last_shard(make, content, tmp_path, monkeypatch):
    out, encode = tmp_path / 'out', shard_module._encode
    make(tmp_path / 'whole', layout='webdataset')

    def fail(model, wav):
        if wav.shape[-1] == 18400:  # in the second of four shards
            raise RuntimeError('no more')
        return encode(model, wav)

    monkeypatch.setattr(shard_module, '_encode', fail)
    with pytest.raises(RunError, match='no more'):
        make(out, layout='webdataset')
    assert [path.name for path in out.glob('*.tar')] == ['000000.tar']
    before = (out / '000000.tar').stat().st_mtime_ns
    for left in (out / '.000001.tar.1.tmp', out / 'unfinished' / '.000001.json.1.tmp'):
        left.write_bytes(b'of a killed process')
    monkeypatch.setattr(shard_module, '_encode', encode)
    assert make(out, layout='webdataset').made == 6
    assert content(out) == content(tmp_path / 'whole')
    assert (out / '000000.tar').stat().st_mtime_ns == before
    names = []
    for path in sorted(out.glob('*.tar')):
        with tarfile.open(path) as archive:
            names += archive.getnames()
    numbers = [0, 1, 2, 3, 5, 6, 7]  # places in the source; the fifth file cannot be read
    assert names == [f'{number:09d}.{kind}' for number in numbers for kind in ('json', 'npy')]


def test_a_complete_folder_is_left_as_it_is(make, content, tmp_path):
    make(tmp_path / 'out')
    before = content(tmp_path / 'out')
    (tmp_path / 'out' / 'unfinished').mkdir()  # killed just before it was removed
    report = make(tmp_path / 'out')
    assert (report.files, report.made) == (7, 0)
    assert content(tmp_path / 'out') == before
    assert not (tmp_path / 'out' / 'unfinished').exists()


def test_processes_make_the_same_files(make, content, tmp_path):
    make(tmp_path / 'one')
    make(tmp_path / 'three', workers=3)
    assert content(tmp_path / 'one') == content(tmp_path / 'three')


@pytest.mark.slow
def test_new_processes_make_the_same_files(make, content, tmp_path, monkeypatch):
    """As on a GPU."""
    make(tmp_path / 'one')
    monkeypatch.setattr(multiprocessing, 'get_all_start_methods', lambda: ['spawn'])
    make(tmp_path / 'two', workers=2)
    assert content(tmp_path / 'one') == content(tmp_path / 'two')


def slowly(folder, make, read):
    """Make tokens in two processes, in a time that allows for being killed."""

    def read_slowly(*args):
        time.sleep(0.01)
        return read(*args)

    shard_module._read = read_slowly
    os.setpgid(0, 0)
    make(folder, workers=2)


@pytest.mark.slow
def test_killed_runs_go_on_where_they_stopped(make, content, tmp_path):
    out, records = tmp_path / 'out', tmp_path / 'out' / 'unfinished'
    source = write_items(tmp_path / 'audio', [0.1 + 0.005 * number for number in range(20)])
    make(tmp_path / 'whole', source, shard_minutes=0.1 / 60)
    seen = {}
    for number in range(5):
        process = FORK.Process(
            target=slowly,
            args=(
                out,
                lambda out, workers: make(out, source, workers=workers, shard_minutes=0.1 / 60),
                shard_module._read,
            ),
        )
        process.start()
        while len(list(records.glob('0*.json'))) < len(seen) + 1:
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(0.005 * number)
        # the other processes end by themselves
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(ValueError, match='tokens are not complete'):
            TokenDataset(out)
        wait_for_group(process.pid)
        for record in records.glob('0*.json'):
            path = out / json.loads(record.read_text())['shard']
            status = path.stat()
            assert seen.setdefault(path, status.st_mtime_ns) == status.st_mtime_ns
    report = make(out, source, shard_minutes=0.1 / 60)
    assert report.files == 20
    assert 0 <= report.made < 20  # none if the last kill came after the last shard
    assert all(path.stat().st_mtime_ns == time for path, time in seen.items())
    assert content(out) == content(tmp_path / 'whole')


def wait_for_group(group):
    """Wait until no process of a group runs; the system may collect the ended ones later."""
    states = ['R']
    while states:
        states = []
        for path in glob.glob('/proc/[0-9]*/stat'):
            with contextlib.suppress(OSError), open(path) as file:
                state, _, found = file.read().rpartition(')')[2].split()[:3]
                states += [state] if int(found) == group and state != 'Z' else []


def test_sources_and_shards_of_audio(make, audio, content, tmp_path):
    make(tmp_path / 'folder')
    metas = load_source(audio)
    save_manifest(metas, tmp_path / 'all.jsonl')
    make(tmp_path / 'manifest', tmp_path / 'all.jsonl')
    assert content(tmp_path / 'folder') == content(tmp_path / 'manifest')
    good = [meta for meta in metas if '3b' not in meta.path]
    make_shards(good, tmp_path / 'shards', 8000)
    make(tmp_path / 'of_shards', tmp_path / 'shards')
    pairs = zip(TokenDataset(tmp_path / 'folder'), TokenDataset(tmp_path / 'of_shards'))
    for (codes, _), (expected, _) in pairs:
        assert torch.equal(codes, expected)
    make_shards(good, tmp_path / 'other_shards', 16000)
    with pytest.raises(ValueError, match='these shards have 16000 Hz'):
        make(tmp_path / 'none', tmp_path / 'other_shards')


def test_scales_of_models_that_renormalize_are_in_the_index(make, audio, tmp_path):
    model = tiny_model(norm='time_group_norm')
    model.renormalize = True
    make(tmp_path / 'out', model=model)
    codes, info = TokenDataset(tmp_path / 'out')[2]
    wav = read_segment(audio / 'item_2.wav', 0, -1, 8000, 1)[None]
    expected, scale = model.for_cpu().encode(wav)
    assert torch.equal(codes, expected[0])
    assert info['scale'] == scale[0].tolist()


def test_many_entries_need_another_type(make, model, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model), 'cardinality', 2**16 + 1)
    make(tmp_path / 'out')
    dataset = TokenDataset(tmp_path / 'out')
    assert dataset.head['dtype'] == 'int32'
    assert dataset[0].codes.max() < 8


def test_other_tokens_are_kept(make, model, audio, tmp_path):
    make(tmp_path / 'out')
    few = copy.deepcopy(model)
    few.set_num_codebooks(2)
    for options, message in (
        ({'layout': 'npy'}, 'format="safetensors", and this command has "npy"'),
        ({'shard_minutes': 1.0}, 'shard_minutes=0.03.*, and this command has 1.0'),
        ({'model': few}, 'kbps=0.45, and this command has 0.3'),
        ({'model': tiny_model(1)}, 'fingerprint="'),
        ({'source': audio / 'item_1.wav'}, 'another list of files: the source has changed'),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / 'out', **options)
    with pytest.raises(ValueError, match=r"has other files, such as \['item_0.wav'\]"):
        make(audio)
    with pytest.raises(ValueError, match=r'item_0.wav is a file: give a folder'):
        make(audio / 'item_0.wav')


def test_a_file_of_another_length_is_another_source(make, tmp_path):
    source = write_items(tmp_path / 'audio', [0.1, 0.2])
    make(tmp_path / 'out', source)
    write_items(source, [0.1, 0.3])
    with pytest.raises(ValueError, match='another list of files: the source has changed'):
        make(tmp_path / 'out', source)


def test_a_process_has_one_thread(make, tmp_path, monkeypatch):
    """As many threads round otherwise; afterwards, the caller has its own number again."""
    encode, threads = shard_module._encode, []

    def count(model, wav):
        threads.append(torch.get_num_threads())
        return encode(model, wav)

    monkeypatch.setattr(shard_module, '_encode', count)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make(tmp_path / 'out')
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_arguments_are_checked_first(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make_module, 'load_source', None)
    for options, message in (
        ({'layout': 'x'}, "format 'x': expected one of safetensors"),
        ({'workers': 0}, 'workers=0: expected at least 1'),
        ({'devices': ('cpu', 'cpu')}, 'workers=1 for 2 devices'),
        ({'devices': ('cuda:77',)}, r"device 'cuda:77': this machine has \d+ usable GPUs"),
        ({'shard_minutes': 0}, 'shard_minutes=0: expected minutes above 0'),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_no_readable_file(make, tmp_path):
    source, out = write_items(tmp_path / 'audio', [0.1]), tmp_path / 'out'
    path = source / 'item_0.wav'
    good = path.read_bytes()
    soundfile.write(path, [float('nan')] * 800, 8000, 'FLOAT')
    with pytest.raises(ValueError, match=r'none of the 1 files can be read; e.g. .*item_0.wav'):
        make(out, source)
    path.write_bytes(good)  # what was wrong, such as a disk that was not mounted, is remedied
    assert make(out, source).files == 1


def test_files_that_the_model_cannot_take(make, audio, tmp_path, monkeypatch):
    encode = shard_module._encode

    def refuse(model, wav):
        if wav.shape[-1] == 400:
            raise error
        return encode(model, wav)

    monkeypatch.setattr(shard_module, '_encode', refuse)
    error = ValueError('too short')
    assert make(tmp_path / 'out').skipped == 2
    reasons = [entry['reason'] for entry in lines(tmp_path / 'out' / 'skipped.jsonl')]
    assert reasons[1] == f'{audio / "item_6.wav"}: too short'
    error = torch.OutOfMemoryError('no memory')
    with pytest.raises(RunError, match=r'item_6.wav \(0.1 s\): cannot be encoded: no memory. Comp'):
        make(tmp_path / 'other')


@pytest.mark.parametrize('layout', ['safetensors', 'npy'])
def test_long_files_are_read_and_encoded_in_parts(make, audio, tmp_path, monkeypatch, layout):
    make(tmp_path / 'whole', layout=layout)
    monkeypatch.setattr(shard_module, '_LONG', 0.4)
    monkeypatch.setattr(shard_module, '_PART', 0.3)
    whole = []
    encode = shard_module._encode
    monkeypatch.setattr(
        shard_module, '_encode', lambda m, wav: whole.append(wav.shape[-1]) or encode(m, wav)
    )
    make(tmp_path / 'parts', layout=layout)
    assert sorted(whole) == [400, 2480, 2480]
    for name in ('index.jsonl', 'skipped.jsonl'):
        assert lines(tmp_path / 'parts' / name) == lines(tmp_path / 'whole' / name)
    found, expected = (TokenDataset(tmp_path / name) for name in ('parts', 'whole'))
    assert len(found) == len(expected) == 7
    different = sum(int((found[i][0] != expected[i][0]).sum()) for i in range(7))
    assert different <= 2  # nearly tied codes may round otherwise


def test_models_that_need_the_whole_signal_get_it(make, audio, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_module, '_LONG', 0.4)
    monkeypatch.setattr(shard_module, '_encode_parts', None)
    model = tiny_model(norm='time_group_norm')
    assert make(tmp_path / 'out', model=model).files == 7


def test_only_one_run_writes(make, tmp_path):
    out = tmp_path / 'out'

    def hold():
        lock = make_module.FolderLock(out, 'test')
        lock.acquire()
        time.sleep(60)

    out.mkdir()
    process = FORK.Process(target=hold)
    process.start()
    try:
        while not (out / '.lock').exists() or not (out / '.lock').read_text():
            time.sleep(0.01)
        with pytest.raises(RunError, match=r'audiocodec tokens into .* is already running'):
            make(out)
    finally:
        process.kill()
        process.join()


def test_an_error_ends_all_processes_at_the_next_file(make, tmp_path, monkeypatch):
    encode = shard_module._encode

    def count_or_fail(model, wav):
        (tmp_path / f'{time.monotonic_ns()}.count').touch()
        if wav.shape[-1] == 400:
            raise RuntimeError('no more')
        time.sleep(0.1)
        return encode(model, wav)

    monkeypatch.setattr(shard_module, '_encode', count_or_fail)
    source = write_items(tmp_path / 'audio', [0.05, *[0.1] * 30])
    with pytest.raises(RunError, match=r'item_0.wav \(0.1 s\): cannot be encoded: no more'):
        make(tmp_path / 'out', source, workers=2, shard_minutes=0.2 / 60)
    assert len(list(tmp_path.glob('*.count'))) < 15


def test_a_process_that_dies_is_an_error(make, tmp_path, monkeypatch):
    def die(*args):
        os._exit(1)

    monkeypatch.setattr(shard_module, '_read', die)
    with pytest.raises(OSError, match='a process died, probably out of memory: use fewer workers'):
        make(tmp_path / 'out', workers=2)
