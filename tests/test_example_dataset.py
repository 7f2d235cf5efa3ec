import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1] / 'dataset' / 'example'
SPLITS = ('train', 'valid', 'evaluate', 'generate')
AUDIO = {'.ogg', '.flac'}
FIELDS = {'path', 'duration', 'sample_rate', 'channels', 'amplitude', 'weight', 'info_path'}


def entries(split):
    lines = (ROOT / split / 'data.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def table(heading):
    """Return the rows of the table under a heading of the README, without header."""
    section = (
        (ROOT / 'README.md')
        .read_text(encoding='utf-8')
        .split(f'## {heading}\n')[1]
        .split('\n## ')[0]
    )
    rows = [line.strip('|').split('|') for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_folder_stays_small():
    assert sum(path.stat().st_size for path in ROOT.rglob('*') if path.is_file()) <= 5_000_000


def test_every_file_is_in_exactly_one_manifest():
    listed = [
        (ROOT / split / entry['path']).resolve() for split in SPLITS for entry in entries(split)
    ]
    found = [path.resolve() for path in ROOT.rglob('*') if path.suffix in AUDIO]
    assert len(listed) == len(set(listed))
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize('split', SPLITS)
def test_manifest_tells_the_truth(split):
    for entry in entries(split):
        assert set(entry) == FIELDS
        assert entry['amplitude'] is None
        assert entry['weight'] is None
        assert entry['info_path'] is None
        info = soundfile.info(ROOT / split / entry['path'])
        assert entry['duration'] == pytest.approx(info.frames / info.samplerate, abs=1e-6)
        assert entry['sample_rate'] == info.samplerate
        assert entry['channels'] == info.channels
        assert 2.5 <= entry['duration'] <= 15
        assert info.samplerate >= 16_000


@pytest.mark.parametrize('split', SPLITS)
def test_audio_decodes_and_is_neither_silent_nor_clipped(split):
    for entry in entries(split):
        wav, sample_rate = soundfile.read(
            ROOT / split / entry['path'], dtype='float32', always_2d=True
        )
        assert wav.shape == (round(entry['duration'] * sample_rate), entry['channels']), entry[
            'path'
        ]
        assert np.isfinite(wav).all(), entry['path']
        peak = np.abs(wav).max()
        assert 0.2 < peak < 0.95, entry['path']
        # A clipped wave is flat at its peak; a natural one touches it a few times.
        assert np.mean(np.abs(wav) > 0.995 * peak) < 1e-4, entry['path']
        # Each channel carries sound, and no channel silence of more than two seconds.
        seconds = wav[: len(wav) // sample_rate * sample_rate].reshape(
            -1, sample_rate, wav.shape[1]
        )
        loud = np.sqrt((seconds**2).mean(axis=1)) > 1e-3
        assert (loud[:-1] | loud[1:]).all(), entry['path']


def test_full_band_and_stereo_material_in_train_and_generate():
    for split in ('train', 'generate'):
        assert any(
            entry['sample_rate'] == 48_000 and entry['channels'] == 2 for entry in entries(split)
        )
    for entry in entries('train'):
        if not entry['path'].startswith(('music_azum', 'music_metal', 'speech_zh')):
            continue
        wav, sample_rate = soundfile.read(ROOT / 'train' / entry['path'], always_2d=True)
        power = np.abs(np.fft.rfft(wav[:, 0])) ** 2
        above = power[int(9_000 / sample_rate * len(wav)) :].sum() / power.sum()
        assert above > 1e-5, entry[
            'path'
        ]  # a 16 kHz recording raised to this rate would hold nothing above 8 kHz


@pytest.mark.parametrize('split', SPLITS)
def test_each_split_has_speech_and_music(split):
    kinds = {entry['path'].split('_')[0] for entry in entries(split)}
    assert kinds == {'speech', 'music'}


def test_split_durations():
    seconds = {split: sum(entry['duration'] for entry in entries(split)) for split in SPLITS}
    assert 360 <= seconds['train'] <= 480
    assert seconds['valid'] >= 40
    assert seconds['evaluate'] >= 30
    assert 3 <= len(entries('generate')) <= 5


def test_no_two_files_hold_the_same_audio():
    digests = {}
    for path in ROOT.rglob('*'):
        if path.suffix in AUDIO:
            wav, _ = soundfile.read(path, dtype='int16', always_2d=True)
            digests.setdefault(hashlib.sha256(wav.tobytes()).hexdigest(), []).append(path.name)
    assert [names for names in digests.values() if len(names) > 1] == []


def test_no_source_recording_serves_two_splits():
    where = {}
    for file, source, recordings, _ in table('Files'):
        for recording in recordings.split(', '):
            where.setdefault((source, recording), set()).add(file.strip('`').split('/')[0])
    assert len(where) > 50
    assert {key: splits for key, splits in where.items() if len(splits) > 1} == {}


def test_every_file_has_an_origin_and_a_licence_text():
    sources = {row[0]: row for row in table('Sources')}
    origins = [(file.strip('`'), source) for file, source, _, _ in table('Files')]
    listed = [f'{split}/{entry["path"]}' for split in SPLITS for entry in entries(split)]
    assert sorted(file for file, _ in origins) == sorted(listed)
    assert {source for _, source in origins} == set(sources)
    for title, author, origin, licence in (row[1:] for row in sources.values()):
        assert title
        assert author
        assert origin
        texts = re.findall(r'\]\((licences/[^)]+)\)', licence)
        assert texts
        assert all((ROOT / text).stat().st_size > 500 for text in texts)
        assert not re.search(r'GPL|-SA|-NC|-ND', licence)


def test_files_carry_their_attribution():
    authors = {row[0]: row[2] for row in table('Sources')}
    for file, source, _, _ in table('Files'):
        with soundfile.SoundFile(ROOT / file.strip('`')) as sound:
            assert sound.artist == authors[source]
            assert sound.license
            assert sound.comment.startswith('modified: ')
