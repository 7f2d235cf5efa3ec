"""The data doctor finds what is wrong, and only that."""

import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.data import AudioMeta, doctor, load_manifest, resample, save_manifest
from audiocodec.data.doctor_file import examine

ROOT = Path(__file__).resolve().parents[2]
RATE = 24000


def noise(seconds=1.0, rate=RATE, channels=1, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels)).clip(-3, 3)


def kinds(report):
    return {os.path.basename(file.path): sorted(problem.kind for problem in file.problems) for file in report.files}


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])


def test_sound_files_of_every_format_are_fine(tmp_path):
    for seed, (name, options) in enumerate({
            'a.wav': {}, 'b.wav': {'subtype': 'FLOAT'}, 'c.flac': {}, 'd.ogg': {}, 'e.mp3': {}}.items()):
        soundfile.write(tmp_path / name, noise(2.0, seed=seed), RATE, **options)
    report = doctor.check(tmp_path)
    assert kinds(report) == {name: [] for name in ('a.wav', 'b.wav', 'c.flac', 'd.ogg', 'e.mp3')}
    assert not report.has_errors
    assert report.to_dict()['hours'] == pytest.approx(10 / 3600, rel=0.02)


@pytest.mark.parametrize('name', ['a.wav', 'a.flac', 'a.ogg', 'a.mp3'])
def test_truncated(tmp_path, name):
    soundfile.write(tmp_path / name, noise(3.0), RATE)
    meta = AudioMeta(str(tmp_path / name), 3.0, RATE, 1)
    cut(tmp_path / name, 0.6)
    save_manifest([meta], tmp_path / 'data.jsonl')
    assert 'truncated' in kinds(doctor.check(tmp_path))[name]


def test_each_problem_has_its_name(tmp_path):
    def write(name, wav, rate=RATE, **options):
        soundfile.write(tmp_path / name, wav, rate, **options)

    (tmp_path / 'unreadable.wav').write_bytes(b'not audio at all')
    (tmp_path / 'zero.wav').write_bytes(b'')
    write('empty.wav', np.zeros((0, 1)))
    bad = noise(seed=1)
    bad[5], bad[9] = np.nan, np.inf
    write('nonfinite.wav', bad, subtype='FLOAT')
    write('suffix.wav', noise(seed=2), format='FLAC')
    write('silent.wav', np.full((RATE, 1), 1e-5))
    write('mostly.wav', np.concatenate([noise(0.1, seed=3), np.zeros((RATE, 1))]))
    write('clipping.wav', (20 * noise(seed=4)).clip(-1, 1))
    low = resample(torch.from_numpy(noise(2.0, 8000, seed=5).T).float(), 8000, RATE)
    write('upsampled.wav', low.T.numpy())
    same = (32767 * noise(seed=6)).astype(np.int16)
    write('first.wav', same)
    write('second.flac', same)
    assert kinds(doctor.check(tmp_path)) == {
        'unreadable.wav': ['unreadable'], 'zero.wav': ['empty'], 'empty.wav': ['empty'], 'nonfinite.wav': ['nonfinite'],
        'suffix.wav': ['suffix'], 'silent.wav': ['silent'], 'mostly.wav': ['mostly_silent'],
        'clipping.wav': ['clipping'], 'upsampled.wav': ['bandwidth'], 'first.wav': [], 'second.flac': ['duplicate']}


def test_manifest_against_files(tmp_path):
    for seed, name in enumerate(['rate', 'longer', 'fine']):
        soundfile.write(tmp_path / f'{name}.wav', noise(seed=seed), RATE)
    metas = [AudioMeta(str(tmp_path / 'rate.wav'), 1.0, 16000, 2), AudioMeta(str(tmp_path / 'longer.wav'), 0.5, RATE),
             AudioMeta(str(tmp_path / 'fine.wav'), 1.0, RATE, 1, weight=3.0),
             AudioMeta(str(tmp_path / 'gone.wav'), 1, RATE)]
    save_manifest(metas, tmp_path / 'm.jsonl')
    with open(tmp_path / 'm.jsonl', 'a') as file:
        file.write('{"path": 3}\n')
    report = doctor.check(tmp_path / 'm.jsonl')
    assert kinds(report) == {'rate.wav': ['header'], 'longer.wav': ['header'], 'fine.wav': [], 'gone.wav': ['missing']}
    assert len(report.lines) == 1
    assert 'line 5' in report.lines[0]
    assert [os.path.basename(meta.path) for meta in report.cleaned()] == ['fine.wav']
    mended = report.cleaned(mend=True)
    assert [(meta.sample_rate, meta.channels, meta.duration) for meta in mended] == [(RATE, 1, 1.0)] * 3
    assert mended[-1].weight == 3.0


def test_the_example_recordings_have_no_errors():
    report = doctor.check(ROOT / 'dataset/example/train')
    assert not report.has_errors
    assert report.counts.keys() <= {'bandwidth', 'clipping', 'mostly_silent'}
    fine = sum(not file.problems for file in report.files)
    assert fine > len(report.files) / 3


def test_command_line_writes_report_and_manifest(tmp_path, capsys):
    soundfile.write(tmp_path / 'a.wav', noise(), RATE)
    (tmp_path / 'b.wav').write_bytes(b'broken')
    main = runpy.run_path(str(ROOT / 'scripts/doctor.py'))['main']
    out, cleaned = tmp_path / 'report.json', tmp_path / 'clean.jsonl'
    assert main([str(tmp_path), '--json', str(out), '--clean', str(cleaned)]) == 1
    text = capsys.readouterr().out
    assert 'ERROR    unreadable' in text
    assert '1 files left out' in text
    report = json.loads(out.read_text())
    assert report['errors'] == 1
    assert [row['files'] for row in report['durations'] if row['files']] == [1]
    assert [meta.path for meta in load_manifest(cleaned)] == [str(tmp_path / 'a.wav')]
    assert main([str(cleaned)]) == 0
    assert main([str(tmp_path / 'nowhere')]) == 1
    assert 'no such file or folder' in capsys.readouterr().err


def test_a_file_that_kills_the_decoder_is_one_line_of_the_report(tmp_path, monkeypatch):
    for seed in range(3):
        soundfile.write(tmp_path / f'{seed}.wav', noise(0.1, seed=seed), RATE)
    monkeypatch.setattr(doctor, 'examine', _deadly)
    report = doctor.check(tmp_path)
    assert kinds(report)['1.wav'] == ['unreadable']
    assert 'the process that decoded it died' in report.files[1].problems[0].detail
    assert kinds(report)['0.wav'] == kinds(report)['2.wav'] == []


def _deadly(item, limits):
    if str(item).endswith('1.wav'):
        os.abort()
    return examine(item, limits)


def test_the_worst_come_first(tmp_path):
    for seed, share in enumerate([0.9, 0.3, 0.6]):
        path = tmp_path / f'{seed}.wav'
        soundfile.write(path, noise(seed=seed), RATE)
        cut(path, share)
    shutil.copy(tmp_path / '0.wav', tmp_path / '3.wav')
    text = doctor.check(tmp_path).show(examples=2)
    worst = [line.split(':')[0].strip() for line in text.splitlines() if 'holds' in line]
    assert worst == ['1.wav', '2.wav']
