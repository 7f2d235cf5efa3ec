import itertools
import json
import logging
import re

import numpy as np
import pytest
import soundfile

from audiocodec.data import AudioDataset, AudioMeta, BadFiles, SegmentInfo, Skipped, make_loader
from audiocodec.utils import distrib


def dataset(metas, num_samples):
    return AudioDataset(
        metas, 16000, segment_duration=0.5, num_samples=num_samples, return_info=True
    )


def broken(folder, bad, good=1):
    """Return manifest entries of files, some of which are not audio."""
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000)
    for number in range(good):
        soundfile.write(folder / f'good{number}.wav', noise, 16000)
    for number in range(bad):
        (folder / f'bad{number:02d}.wav').write_text('no audio')
    return [AudioMeta(str(path), 1.0, 16000) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_files_are_named_once_and_counted(tmp_path, caplog, workers):
    data = dataset(broken(tmp_path / 'd', 3, 3), num_samples=64)
    loader = make_loader(data, 4, workers)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        with caplog.at_level(logging.WARNING):
            skipped = [one for _, infos in loader for info in infos for one in info.skipped]
        assert len(skipped) > 30
        assert loader.bad_files.metrics() == {'skipped_files': 3.0}
        assert loader.bad_files.state_dict()['shared']['draws'] == 64 + len(skipped)
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(lines) == [
        f'Skipped: {tmp_path}/d/bad0{number}.wav: cannot be read as audio: Format not recognised'
        for number in range(3)
    ]


def test_too_many_bad_files_stop_the_epoch(tmp_path):
    data = dataset(broken(tmp_path / 'd', 20, 20), num_samples=400)
    loader = make_loader(data, 4)
    with pytest.raises(ValueError, match=r'audiocodec doctor') as caught:
        list(loader)
    bad, draws, files = map(
        int,
        re.findall(
            r'^(\d+) of (\d+) draws .* hit unreadable files \((\d+) distinct files\), '
            r'more than dataset\.max_bad_fraction=0\.01',
            str(caught.value),
        )[0],
    )
    state = loader.bad_files.state_dict()['own']
    assert (draws, files) == (state['draws'], len(state['files']))
    assert bad == sum(times for times, _ in state['files'].values())
    assert 10 < files <= bad
    assert len(re.findall(r'bad\d\d\.wav: cannot be read as audio', str(caught.value))) == 5
    loader = make_loader(data, 4, max_bad_fraction=0.9)
    assert len(list(loader)) == 100
    assert loader.bad_files.metrics() == {'skipped_files': 20.0}


def test_few_bad_files_do_not_stop_a_run_unless_none_are_allowed(tmp_path):
    data = dataset(broken(tmp_path / 'd', 10, 10), num_samples=100)
    assert len(list(make_loader(data, 4))) == 25
    with pytest.raises(ValueError, match=r'draws .*max_bad_fraction=0\. Among'):
        list(make_loader(data, 1, max_bad_fraction=0.0))
    with pytest.raises(ValueError, match=r'max_bad_fraction=1\.5: expected a fraction'):
        make_loader(data, 4, max_bad_fraction=1.5)


def test_count_continues_in_the_middle_of_an_epoch(tmp_path):
    data = dataset(broken(tmp_path / 'd', 9, 9), num_samples=40)
    whole, first, second = (make_loader(data, 4) for _ in range(3))
    list(whole)
    for _ in itertools.islice(first, 4):
        pass
    second.set_epoch(0, start=4)
    second.bad_files.load_state_dict(json.loads(json.dumps(first.bad_files.state_dict())))
    list(second)
    assert second.bad_files.state_dict() == whole.bad_files.state_dict()
    whole.set_epoch(1)
    list(whole)
    assert whole.bad_files.state_dict() != second.bad_files.state_dict()


def info(*skipped):
    return SegmentInfo(
        AudioMeta('/good.wav', 1.0, 16000),
        0.0,
        8000,
        8000,
        16000,
        1,
        skipped=tuple(Skipped(path, f'{path}: broken') for path in skipped),
    )


def test_counts_of_workers_are_added_up(monkeypatch, caplog):
    workers = [BadFiles(), BadFiles()]
    workers[0].update([info('/a.wav', '/b.wav'), info()])
    workers[1].update([info('/c.wav'), info('/a.wav')])
    gathered = [worker._own for worker in workers]
    monkeypatch.setattr(distrib, 'all_gather_object', lambda own: gathered)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert workers[0].metrics() == {'skipped_files': 3.0}
    # it has already logged the others
    assert [record.getMessage() for record in caplog.records] == ['Skipped: /c.wav: broken']
    monkeypatch.setattr(distrib, 'is_rank_zero', lambda: False)
    with caplog.at_level(logging.WARNING):
        assert workers[1].metrics() == {'skipped_files': 3.0}
    assert len(caplog.records) == 1
    shared = {
        'draws': 8,
        'files': {
            '/a.wav': [2, '/a.wav: broken'],
            '/b.wav': [1, '/b.wav: broken'],
            '/c.wav': [1, '/c.wav: broken'],
        },
    }
    for worker in workers:
        assert worker.state_dict() == {'shared': shared, 'own': {'draws': 0, 'files': {}}}


def test_counts_of_other_workers_before_an_interruption_are_kept(monkeypatch):
    workers = [BadFiles(), BadFiles()]
    workers[0].update([info('/a.wav')])
    workers[1].update([info('/b.wav')])
    states = [worker.state_dict() for worker in workers]
    resumed = [BadFiles(), BadFiles()]
    for worker, state in zip(resumed, states):
        worker.load_state_dict(state)
    resumed[0].update([info('/c.wav')])
    gathered = [worker._own for worker in resumed]
    monkeypatch.setattr(distrib, 'all_gather_object', lambda own: gathered)
    assert resumed[0].metrics() == {'skipped_files': 3.0}


def test_one_worker_that_resumes_for_several_has_all_their_counts():
    workers = [BadFiles(1.0), BadFiles(1.0)]
    workers[0].update([info('/a.wav')])
    workers[1].update([info('/a.wav', '/b.wav'), info()])
    single = BadFiles(1.0)
    single.load_state_dict(BadFiles.merge([worker.state_dict() for worker in workers]))
    assert single.state_dict()['own']['draws'] == 6
    assert single.metrics() == {'skipped_files': 2.0}


def test_loaders_that_share_the_names_name_a_file_once(caplog):
    named = set()
    first, second = BadFiles(named=named), BadFiles(named=named)
    with caplog.at_level(logging.WARNING):
        first.update([info('/a.wav')])
        second.update([info('/a.wav', '/b.wav')])
    assert [record.getMessage() for record in caplog.records] == [
        'Skipped: /a.wav: broken',
        'Skipped: /b.wav: broken',
    ]
    assert second.metrics() == {'skipped_files': 2.0}
