import faulthandler
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from audio_files import noise, write

from audiocodec.data import (
    AudioMeta,
    doctor,
    load_manifest,
    make_shards,
    read_segment,
    save_manifest,
)
from audiocodec.data.doctor.file import examine

EXAMPLES = str(Path(__file__).parents[3] / 'dataset' / 'example')


def test_duplicates_across_formats(tmp_path):
    wav = (noise() * 32767).round() / 32768
    write(tmp_path / 'a.wav', wav)
    write(tmp_path / 'b.flac', wav)
    write(tmp_path / 'c.wav', wav, subtype='FLOAT')
    write(tmp_path / 'd.wav', wav + 1 / 32768)
    write(tmp_path / 'e.wav', wav, 16000)
    report = doctor.check(tmp_path)
    assert report.counts == {'duplicate': 2}
    first = f'the same samples as {tmp_path}/a.wav'
    assert {
        os.path.basename(file.path): problem.detail
        for file in report.files
        for problem in file.problems
    } == {'b.flac': first, 'c.wav': first}
    kept = report.cleaned(exclude=['duplicate'])
    assert [os.path.basename(meta.path) for meta in kept] == ['a.wav', 'd.wav', 'e.wav']
    assert len(report.cleaned()) == 5


@pytest.fixture
def folder(tmp_path):
    """Two good files, a silent one, a truncated one, and a text file."""
    audio = tmp_path / 'audio'
    (audio / 'deep').mkdir(parents=True)
    write(audio / 'a.wav', noise(1.5))
    write(audio / 'deep' / 'b.flac', noise(3.0, seed=1))
    write(audio / 'deep' / 'silent.wav', np.zeros(24000 * 11))
    write(audio / 'cut.wav', noise(2.0, seed=2))
    (audio / 'cut.wav').write_bytes((audio / 'cut.wav').read_bytes()[:50_000])
    (audio / 'text.wav').write_text('no audio')
    return audio


def test_report_of_a_folder(folder):
    report = doctor.check(folder)
    assert report.has_errors
    assert report.counts == {'unreadable': 1, 'truncated': 1, 'silent': 1}
    assert report.durations()[2:5] == [(1, 2, 2), (2, 5, 1), (5, 10, 0)]
    assert sum(count for _, _, count in report.durations()) == 4
    text = report.show()
    assert text.startswith(
        f'{folder}: 4 files, 0.00 h, sample rates: 24000 Hz (4), channels: 1 (4); 1 more'
    )
    for line in (
        '  text.wav: cannot be read as audio: Format not recognised',
        '  deep/silent.wav: all of its 11.00 s are below -60 dBFS',
        '  cut.wav: has 1.04 of the 2.00 s in its header',
        f'(paths below {folder})',
        '      10 s to 20 s        1 ####################',
    ):
        assert line in text.splitlines()
    assert 'ERROR    truncated            1     0.00  shorter than' in text
    assert report.show(examples=0).count('.wav') == 0
    saved = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (saved['files'], saved['errors'], saved['counts']) == (5, 2, report.counts)
    assert saved['hours'] == pytest.approx((1.5 + 3 + 11 + 49956 / 48000) / 3600)
    assert saved['limits']['silence_db'] == -60
    cut = next(entry for entry in saved['entries'] if entry['path'].endswith('cut.wav'))
    assert cut['problems'] == [
        {'kind': 'truncated', 'level': 'error', 'detail': 'has 1.04 of the 2.00 s in its header'}
    ]


def test_cleaned_manifest_has_only_files_without_errors(folder, tmp_path):
    report = doctor.check(folder)
    kept = report.cleaned()
    assert [os.path.relpath(meta.path, folder) for meta in kept] == [
        'a.wav',
        'deep/b.flac',
        'deep/silent.wav',
    ]
    assert [(meta.duration, meta.sample_rate, meta.channels) for meta in kept[:2]] == [
        (1.5, 24000, 1),
        (3.0, 24000, 1),
    ]
    assert kept[0].amplitude == pytest.approx(abs(noise(1.5)).max(), abs=1e-4)
    save_manifest(report.cleaned(['silent']), folder / 'clean.jsonl')
    assert not doctor.check(folder / 'clean.jsonl').counts
    with pytest.raises(ValueError, match='exclude=quiet: expected any of suffix, silent'):
        report.cleaned(['quiet'])
    with pytest.raises(ValueError, match='no file is left'):
        doctor.check(folder / 'text.wav').cleaned()


def test_manifest_with_wrong_lines_keeps_its_weights(folder, tmp_path):
    metas = [
        AudioMeta(str(folder / 'a.wav'), 9.0, 24000, weight=2.0, info_path='/i.zip:a'),
        AudioMeta(str(folder / 'a.wav'), 1.5, 24000, weight=3.0),
        AudioMeta(str(folder / 'deep' / 'b.flac'), 3.0, 16000),
        AudioMeta(str(folder / 'gone.wav'), 3.0, 24000),
    ]
    save_manifest(metas, folder / 'm.jsonl')
    with open(folder / 'm.jsonl', 'a') as file:
        file.write('{"path": 3}\n')
    report = doctor.check(folder / 'm.jsonl')
    assert report.counts == {'manifest': 1, 'missing': 1, 'truncated': 1, 'mismatch': 1}
    assert f'  {folder}/m.jsonl, line 5: ' in report.show()
    assert [(meta.duration, meta.weight) for meta in report.cleaned()] == [(1.5, 3.0)]
    fixed = report.cleaned(fix=True)
    assert [(meta.sample_rate, meta.weight) for meta in fixed] == [(24000, 3.0), (24000, None)]
    twice = save_manifest([metas[1], metas[1]], folder / 'twice.jsonl')
    assert twice is None
    assert 'a.wav: listed again' in doctor.check(folder / 'twice.jsonl').show()


def test_folder_with_a_manifest_is_checked_as_training_reads_it(folder):
    save_manifest([AudioMeta(str(folder / 'a.wav'), 1.5, 24000)], folder / 'data.jsonl')
    assert [file.path for file in doctor.check(folder).files] == [str(folder / 'a.wav')]
    assert load_manifest(folder / 'data.jsonl')[0].path == str(folder / 'a.wav')


def test_sources_that_cannot_be_checked(tmp_path):
    with pytest.raises(ValueError, match='nowhere: no such file or folder'):
        doctor.check(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='no audio in this folder'):
        doctor.check(tmp_path)
    meta = AudioMeta(write(tmp_path / 'a.wav', noise()), 1.0, 24000)
    make_shards([meta], tmp_path / 'shards', 24000, workers=1)
    with pytest.raises(ValueError, match=r'these are shards.*named in shards\.json'):
        doctor.check(tmp_path / 'shards')


def crashing_examine(item, limits):
    if 'deadly' in item:
        faulthandler.disable()  # its output would clutter the test report
        os.kill(os.getpid(), signal.SIGSEGV)
    return examine(item, limits)


@pytest.mark.slow
def test_file_that_crashes_its_decoder_is_reported_and_the_others_examined(tmp_path, monkeypatch):
    for name in ('a.wav', 'deadly.wav', 'z.wav'):
        write(tmp_path / name, noise(seed=len(name) + ord(name[0])))
    monkeypatch.setattr('audiocodec.data.doctor.report.examine', crashing_examine)
    files = doctor.check(tmp_path).files
    assert [[problem.kind for problem in file.problems] for file in files] == [
        [],
        ['unreadable'],
        [],
    ]
    assert 'the decoding process crashed' in files[1].problems[0].detail


def test_names_that_are_not_text(tmp_path):
    path = os.fsencode(tmp_path) + b'/\xff.wav'
    with open(path, 'wb') as file:
        file.write(b'no audio')
    write(tmp_path / 'a.wav', noise())
    report = doctor.check(tmp_path)
    assert (
        '  \\udcff.wav: cannot be read as audio: Format not recognised'
        in report.show().splitlines()
    )
    json.dumps(report.to_dict())
    os.replace(tmp_path / 'a.wav', path)
    (file,) = doctor.check(tmp_path).files
    assert file.problems == []
    assert read_segment(file.path, 0, 100, 24000).shape == (1, 100)


@pytest.mark.slow
def test_no_false_alarm_on_the_examples():
    report = doctor.check(EXAMPLES, workers=1)
    assert len(report.files) == 73
    assert {
        os.path.basename(file.path): file.problems for file in report.files if file.problems
    } == {}
