import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from items import dataset_of, tiny_model, write_items

from audiocodec.data import read_audio
from audiocodec.evaluation import Codec, Opus
from audiocodec.evaluation.runner import Evaluation
from audiocodec.metrics import PESQ, SISNR, MelDistance, Metric
from audiocodec.utils.errors import RunError

TIMES = ('encode_seconds', 'decode_seconds')


@pytest.fixture
def items(tmp_path):
    return dataset_of(write_items(tmp_path / 'items'))


def systems(seed=0, kbps=(0.15, 0.45)):
    return [Codec('tiny', tiny_model(seed), kbps), Opus([6])]


def metrics():
    return {'sisnr': SISNR(), 'mel': MelDistance()}


def make(folder, items, found=None, measured=None, **options):
    found = systems() if found is None else found
    measured = metrics() if measured is None else measured
    return Evaluation(folder, items, found, measured, {'source': 'items'}, **options)


def without_times(rows):
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def test_channels_that_a_system_cannot_take_are_refused_before_anything_runs(tmp_path):
    stereo = dataset_of(write_items(tmp_path / 'items'), channels=2)
    with pytest.raises(ValueError, match='Opus has rates from 12 kbps with 2 channels, not 6'):
        make(tmp_path / 'out', stereo)
    assert not (tmp_path / 'out').exists()


def test_there_is_a_row_for_each_item_system_and_rate(tmp_path, items):
    rows = make(tmp_path / 'out', items).run()
    keys = [(row['item'], row['system'], row['rate']) for row in rows]
    rates = [('tiny', 0.15), ('tiny', 0.45), ('Opus', 6.0)]
    assert keys == [(item, *rate) for item in range(3) for rate in rates]
    assert [row['seconds'] for row in rows[::3]] == [1.0, 0.5, 2.3]
    wav, info = items[2]
    codec = systems()[0]
    second = list(codec.reconstruct(wav[None], 8000))[1]
    row = rows[7]
    assert row['path'] == info.meta.path
    assert row['sisnr'] == pytest.approx(SISNR().score(second.wav[0], wav, 8000).item(), abs=1e-3)
    assert row['mel'] == pytest.approx(MelDistance().score(second.wav[0], wav, 8000).item())
    assert {'stable_shift', 'stable_context', 'stable_recode'} <= row.keys()
    assert 'stable_shift' not in rows[6]
    table = (tmp_path / 'out' / 'rows.csv').read_text().splitlines()
    assert len(table) == 10


@pytest.mark.slow
def test_results_do_not_depend_on_the_processes_or_interruptions(tmp_path, items):
    expected = without_times(make(tmp_path / 'whole', items).run())

    class InterruptedError(Exception):
        pass

    def stop(done):
        raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            make(tmp_path / 'parts', items).run(stop)
    lines = (tmp_path / 'parts' / 'rows.jsonl').read_text().splitlines()
    assert len(lines) == 6
    with open(tmp_path / 'parts' / 'rows.jsonl', 'a') as file:
        file.write('{"system": "tiny", "rate"')  # of a kill
    last = make(tmp_path / 'parts', items)
    assert last.remaining() == [2]
    assert without_times(last.run()) == expected
    assert last.remaining() == []


@pytest.mark.slow
def test_two_processes_give_the_same_rows(tmp_path, items):
    expected = without_times(make(tmp_path / 'one', items).run())
    rows = make(tmp_path / 'two', items, workers=2).run()
    assert without_times(rows) == expected


def test_systems_and_rates_can_be_added(tmp_path, items):
    folder = tmp_path / 'out'
    make(folder, items, [Codec('tiny', tiny_model(), [0.15])]).run()
    before = (folder / 'rows.jsonl').read_text()
    rows = make(folder, items).run()
    assert len(rows) == 9
    assert (folder / 'rows.jsonl').read_text().startswith(before)
    info = json.loads((folder / 'evaluation.json').read_text())
    assert info['systems']['tiny']['rates'] == [0.15, 0.45]
    assert info['metrics']['sisnr']['higher_is_better'] is True
    assert info['data']['items'] == 3


@pytest.mark.slow
def test_other_data_metrics_or_weights_need_another_folder(tmp_path, items):
    folder = tmp_path / 'out'
    make(folder, items).run()
    before = (folder / 'rows.jsonl').read_bytes()
    with pytest.raises(ValueError, match=r'evaluation with metrics=.* use another folder'):
        make(folder, items, measured={'sisnr': SISNR()})
    fewer = dataset_of(tmp_path / 'items', num_samples=2)
    with pytest.raises(ValueError, match=r'with data=.*"items": 3.*this one has .*"items": 2'):
        make(folder, fewer)
    with pytest.raises(ValueError, match="results of another model called 'tiny'"):
        make(folder, items, systems(seed=1))
    with pytest.raises(ValueError, match="the name of a system is part of file names, 'a/b'"):
        make(folder, items, [Codec('a/b', tiny_model())])
    with pytest.raises(ValueError, match="two systems are called 'tiny'"):
        make(folder, items, [*systems(), *systems()])
    assert (folder / 'rows.jsonl').read_bytes() == before


def test_audio_of_the_first_items_is_kept(tmp_path, items):
    make(tmp_path / 'out', items, listen=2).run()
    folders = sorted((tmp_path / 'out' / 'audio').iterdir())
    assert [folder.name for folder in folders] == ['000_item_0', '001_item_1']
    names = {path.name for path in folders[0].iterdir()}
    assert names == {'reference.flac', 'tiny@0.15.flac', 'tiny@0.45.flac', 'Opus@6.flac'}
    wav, rate = read_audio(folders[1] / 'reference.flac')
    assert rate == 8000
    torch.testing.assert_close(wav, items[1][0], rtol=0, atol=1e-4)
    assert soundfile.info(folders[1] / 'Opus@6.flac').frames == 4000


def test_codes_are_kept_and_counted(tmp_path, items):
    evaluation = make(tmp_path / 'out', items)
    evaluation.run()
    files = sorted((tmp_path / 'out' / 'codes' / 'tiny').iterdir())
    assert [np.load(file).shape for file in files] == [(3, 50), (3, 25), (3, 115)]
    assert np.load(files[0]).dtype == np.uint16
    found = {rate: figures for _, rate, figures in evaluation.token_statistics()}
    assert list(found) == [0.15, 0.45]
    assert found[0.45]['frames'] == 190
    assert len(found[0.45]['usage']) == 3
    assert found[0.45]['usage'][:1] == found[0.15]['usage']


class Broken(Metric):
    def score(self, estimate, reference, sample_rate):
        raise IndexError('a bug')


def test_what_has_no_score_is_null_with_its_reason(tmp_path):
    pytest.importorskip('pesq')
    items = dataset_of(write_items(tmp_path / 'items', [0.1, 1.0]))
    found = [Codec('tiny', tiny_model())]
    rows = make(tmp_path / 'out', items, found, {'pesq': PESQ('nb'), 'broken': Broken()}).run()
    assert rows[0]['pesq'] is None
    assert rows[0]['unscored'] == {
        'pesq': 'it is 0.10 s long, shorter than the 0.25 s needed',
        'broken': 'IndexError: a bug',
    }
    lines = (tmp_path / 'out' / 'rows.jsonl').read_text().splitlines()
    assert len([json.loads(line, parse_constant=pytest.fail) for line in lines]) == 2
    assert os.path.exists(tmp_path / 'out' / 'rows.csv')


def test_an_item_that_a_system_cannot_take_leaves_out_its_rows(tmp_path, items, monkeypatch):
    codec, opus = systems()
    plain = codec.reconstruct

    def reconstruct(wav, sample_rate):
        for rendition in plain(wav, sample_rate):
            if wav.shape[-1] == 4000 and rendition.rate > 0.2:
                raise torch.OutOfMemoryError('too long')
            yield rendition

    monkeypatch.setattr(codec, 'reconstruct', reconstruct)
    evaluation = make(tmp_path / 'out', items, [codec, opus])
    rows = evaluation.run()
    assert len(rows) == 8
    assert [row['rate'] for row in rows if row['item'] == 1] == [0.15, 6.0]
    ((kind, reason),) = evaluation.failures.reasons.items()
    assert kind.endswith('item_1.wav')
    assert 'too long' in reason
    assert evaluation.remaining() == [1]


def test_a_file_that_cannot_be_read_is_named(tmp_path, items):
    (tmp_path / 'items' / 'item_1.wav').write_text('no audio')
    evaluation = make(tmp_path / 'out', items, [Opus([6])])
    evaluation.run()
    assert 'item_1.wav' in evaluation.failures.reasons['reading a file']


def test_two_processes_do_not_write_into_one_folder(tmp_path, items):
    folder = tmp_path / 'out'
    folder.mkdir()
    code = (
        'import sys, time; from pathlib import Path; from audiocodec.run.lock import FolderLock\n'
        'lock = FolderLock(Path(sys.argv[1]), "x"); lock.acquire()\n'
        'print("held", flush=True); time.sleep(60)'
    )
    command = [sys.executable, '-c', code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'held\n'
        with pytest.raises(RunError, match=r'evaluation into .*out is already running, by process'):
            make(folder, items, [Opus([6])]).run()
        other.kill()
    assert not (folder / 'rows.jsonl').exists()
    assert len(make(folder, items, [Opus([6])]).run()) == 3


def test_codes_of_a_higher_rate_are_kept(tmp_path, items):
    folder = tmp_path / 'out'
    make(folder, items, [Codec('tiny', tiny_model(), [0.45])]).run()
    make(folder, items, [Codec('tiny', tiny_model(), [0.15])]).run()
    assert np.load(folder / 'codes' / 'tiny' / '00000.npy').shape == (3, 50)
