import os
import signal

import pytest

from audiocodec.data import index_folder
from audiocodec.data import probe as module
from audiocodec.data.probe import FoundFile, probe, probe_all


@pytest.fixture
def probed(monkeypatch):
    """Names of the files that were opened."""
    names = []

    def probe(path, amplitude=False, inner=module.probe):
        names.append(path.name)
        return inner(path, amplitude)

    monkeypatch.setattr(module, 'probe', probe)
    return names


def killed(folder, amplitude, file):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_process_is_explained(tmp_path, make_file, monkeypatch):
    for number in range(40):
        make_file(tmp_path / f'{number}.wav', 0.01)
    monkeypatch.setattr(module, '_read', killed)
    with pytest.raises(
        ValueError, match=r'0\.wav: the process reading it crashed \(bad file, or out of memory\)'
    ):
        index_folder(tmp_path, workers=2)


def test_index_is_cached_and_follows_changes(folder, probed, make_file, cache_folder):
    first = index_folder(folder)
    assert sorted(probed) == ['a.OGG', 'b.wav', 'z.flac']
    assert len(list(cache_folder.glob('audiocodec/index/d-*.jsonl.gz'))) == 1
    probed.clear()
    assert index_folder(folder) == first
    assert probed == []
    make_file(folder / 'b.wav', 3.0, 16000)
    make_file(folder / 'new.wav', 1.0)
    (folder / 'a.OGG').unlink()
    assert [meta.duration for meta in index_folder(folder)] == [0.5, 3.0, 1.0]
    assert sorted(probed) == ['b.wav', 'new.wav']
    probed.clear()
    os.utime(folder / 'b.wav', ns=(1, 1))  # rewritten with the same size
    index_folder(folder)
    assert probed == ['b.wav']


def test_damaged_or_unwritable_cache_does_no_harm(folder, cache_folder, probed, monkeypatch):
    first = index_folder(folder)
    cached = next(cache_folder.glob('audiocodec/index/d-*.gz'))
    for data in (b'', b'nonsense', cached.read_bytes()[:-20]):
        cached.write_bytes(data)
        assert index_folder(folder) == first
    monkeypatch.setattr(module, '_cache_file', lambda folder: None)
    probed.clear()
    assert index_folder(folder) == first
    assert len(probed) == 3


def test_an_entry_is_what_a_manifest_needs(folder):
    assert probe(folder / 'a' / 'z.flac') == {
        'duration': 0.5,
        'sample_rate': 44100,
        'channels': 2,
    }
    assert 0 < probe(folder / 'b.wav', amplitude=True)['amplitude'] <= 1


def test_unusable_files_have_a_reason(folder):
    files = [FoundFile('b.wav', 1, 1), FoundFile('readme.txt', 1, 1), FoundFile('none.wav', 1, 1)]
    found = probe_all(folder, files, cache=False)
    assert found['b.wav']['duration'] == 1.5
    assert found['readme.txt'].endswith(
        'readme.txt: cannot be read as audio: Format not recognised'
    )
    assert found['none.wav'].endswith('none.wav: no such file')
