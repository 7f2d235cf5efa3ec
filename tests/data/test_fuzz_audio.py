"""Damaged audio files are read, or refused with a ValueError that names them.

They never cause a crash, a hang or excessive memory use.

A larger campaign with other seeds: `python tests/data/test_fuzz_audio.py SEED COUNT`.
"""

import os
import re
import resource
import signal
import struct
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from audiocodec.data import AudioDataset, AudioMeta, audio_info, read_segment
from audiocodec.data.doctor.file import Examined, Limits, examine
from audiocodec.data.pool import map_files

pytestmark = pytest.mark.slow

KINDS = {
    'wav': {'subtype': 'PCM_16'},
    'float.wav': {'subtype': 'FLOAT'},
    'flac': {},
    'ogg': {'subtype': 'VORBIS'},
    'opus': {'format': 'OGG', 'subtype': 'OPUS'},
    'mp3': {},
    'aiff': {},
}
FIELDS = [
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    2**31 - 1,
    2**31,
    2**32 - 1,
]
RATE, FRAMES = 24000, 8000
SECONDS, MEGABYTES = 20, 300  # for one file, and for all of them above what the process had


def originals(folder):
    """Write small files of every kind; return their bytes by channels and suffix."""
    time = np.arange(FRAMES) / RATE
    wav = 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)) + 0.05 * np.random.default_rng(
        0
    ).standard_normal(FRAMES)
    files = {}
    for channels in (1, 2):
        for suffix, options in KINDS.items():
            path = folder / f'{channels}.{suffix}'
            soundfile.write(path, np.stack([wav] * channels, 1), RATE, **options)
            files[channels, suffix] = path.read_bytes()
    return files


def mutated(data, rng, other):
    """Return the bytes with one to three damages."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        head = int(rng.integers(1, 1 + min(len(data), 200))) if rng.random() < 0.6 else len(data)
        at, length = int(rng.integers(head)), int(2 ** rng.uniform(0, 12))
        kind = rng.integers(9)
        if kind == 0:
            for place in rng.integers(head, size=rng.integers(1, 20)):
                data[place] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
        elif kind == 2:
            value, form = (
                int(rng.choice(FIELDS)),
                str(rng.choice(['<H', '>H', '<I', '>I', '<Q', '>Q'])),
            )
            size = struct.calcsize(form)
            data[at : at + size] = struct.pack(form, value % 256**size)
        elif kind == 3:
            del data[int(rng.integers(len(data))) :]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 7:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = other[at : at + length]
        if not data:
            break
    return bytes(data)


def call(path, function, *args):
    """Return 'read', 'refused' if a ValueError names the file, or another error as text."""
    try:
        function(*args)
        return 'read'
    except ValueError as error:
        return (
            'refused'
            if str(error).startswith(f'{path}: ')
            else f'ValueError without the name: {error}'
        )
    except Exception as error:
        return f'{type(error).__name__}: {error}'


def draw(path, good):
    """Draw segments and whole files of a set of a damaged and a good file."""
    metas = [AudioMeta(path, 10.0, RATE, weight=0.2), AudioMeta(good, FRAMES / RATE, RATE)]
    for duration in (0.2, None):
        data = AudioDataset(metas, 16000, segment_duration=duration, return_info=True)
        for index in range(2):
            wav, info = data[0, index]
            assert wav.isfinite().all()
            assert wav.shape == (1, info.total_frames)
            assert info.total_frames > 0
            assert duration is None or info.total_frames == 3200
            assert all(
                one.path == path and one.reason.startswith(f'{path}: ') for one in info.skipped
            )


def attempt(item, good):
    """Return the outcome of every reader on a file."""
    path, data = item
    with open(path, 'wb') as file:
        file.write(data)
    signal.alarm(SECONDS)  # kills this process, also within a decoder
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [
        call(path, audio_info, path),
        call(path, audio_info, path, True),
        call(path, draw, path, good),
    ]
    outcomes += [call(path, read_segment, path, start, 3000, 16000, 1) for start in (0, 2500, 5000)]
    outcomes.append(call(path, read_segment, path, 0, -1, 16000))
    outcomes.append(call(path, lambda: isinstance(examine(path, Limits()), Examined)))
    signal.alarm(0)
    os.unlink(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return [*outcomes, 'read' if grown < MEGABYTES else f'{grown} MB more']


def campaign(folder, seed, count):
    """Count the outcomes of many damaged files, and collect the unexpected ones."""
    files = originals(folder)
    keys = sorted(files)
    items = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        key, other = (keys[place] for place in rng.integers(len(keys), size=2))
        path = folder / f'damaged{number}.{key[1] if rng.random() < 0.9 else other[1]}'
        items.append((str(path), mutated(files[key], rng, files[other])))
    function = partial(attempt, good=str(folder / '1.wav'))
    outcomes = map_files(function, items, 1, 'Fuzzing', lambda item: ['died'], at_least=1)
    counts = Counter(one for outcome in outcomes for one in outcome)
    wrong = {
        item: outcome
        for item, outcome in zip(items, outcomes)
        if not set(outcome) <= {'read', 'refused'}
    }
    return counts, wrong


def test_damaged_files_are_read_or_refused_by_name(tmp_path):
    counts, wrong = campaign(tmp_path, seed=0, count=300)
    assert {path: outcome for (path, _), outcome in wrong.items()} == {}
    assert counts.total() == 300 * 9
    assert counts['refused'] > 300  # damages have an effect
    assert counts['read'] > 900  # but are not always fatal


def test_undamaged_files_are_read(tmp_path):
    for (channels, suffix), data in originals(tmp_path).items():
        assert set(
            attempt((str(tmp_path / f'copy{channels}.{suffix}'), data), str(tmp_path / '1.wav'))
        ) == {'read'}


if __name__ == '__main__':
    import tempfile
    from pathlib import Path

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        counts, wrong = campaign(Path(name), int(sys.argv[1]), int(sys.argv[2]))
    print(counts)
    for (path, data), outcome in wrong.items():
        print(
            re.sub(r'.*/', '', path),
            len(data),
            [one for one in outcome if one not in ('read', 'refused')],
        )
        Path(f'/tmp/fuzz-{sys.argv[1]}-{os.path.basename(path)}').write_bytes(data)
