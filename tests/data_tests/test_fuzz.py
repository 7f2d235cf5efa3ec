"""Damaged audio files and manifests: read, or refused with a message that names the file; never a crash or a hang."""

import gzip
import json
import random

import numpy as np
import pytest
import soundfile

from audiocodec.data import AudioDataset, AudioMeta, audio_info, load_manifest, read_segment
from audiocodec.data.doctor_file import Limits, examine

FORMATS = {'wav': {}, 'float.wav': {'subtype': 'FLOAT'}, 'flac': {}, 'ogg': {}, 'mp3': {}}
AUDIO, MANIFESTS = 100, 200  # of each format; in all


@pytest.fixture(scope='module')
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp('originals')
    wav = 0.1 * np.random.default_rng(0).standard_normal((6000, 1))
    for suffix, options in FORMATS.items():
        soundfile.write(folder / f'a.{suffix}', wav, 24000, **options)
    return {suffix: (folder / f'a.{suffix}').read_bytes() for suffix in FORMATS}


def mutate(data, rng):
    """A few damages: bits, runs, cuts, insertions, numbers in the header."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, place = rng.randrange(6), rng.randrange(max(1, len(data)))
        if kind == 0:
            data[place:place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 40))
        elif kind == 3:
            del data[place:place + rng.randint(1, 200)]
        elif kind == 4:
            place = rng.randrange(min(60, max(1, len(data))))
            data[place:place + 4] = rng.choice([b'\xff' * 4, b'\x00' * 4, b'\xff\xff\xff\x7f', rng.randbytes(4)])
        else:
            length = rng.randint(1, 100)
            data[place:place + length] = rng.randbytes(length)
    return bytes(data)


def refusal(call):
    """The message of the one kind of error that is allowed; None where there was none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize('suffix', FORMATS)
def test_damaged_audio(originals, tmp_path, suffix):
    rng = random.Random(suffix)
    refused = 0
    for number in range(AUDIO):
        path = tmp_path / f'{number}.{suffix}'
        path.write_bytes(mutate(originals[suffix], rng))
        for call in (lambda p=path: audio_info(p), lambda p=path: read_segment(p, 1000, 3000, 16000, 1),
                     lambda p=path: AudioDataset([AudioMeta(str(p), 0.25, 24000)], 16000, segment_duration=0.1)[0]):
            message = refusal(call)
            assert message is None or str(path) in message
            refused += message is not None
        found = examine(str(path), Limits())
        assert all(problem.detail for problem in found.problems)
        json.dumps([found.duration, found.amplitude, found.silence], allow_nan=False)
    assert refused > 0, 'the damage must be enough to be noticed'


def test_damaged_manifests(tmp_path):
    soundfile.write(tmp_path / 'a.wav', np.zeros(2400), 24000)
    good = b''.join(json.dumps({'path': 'a.wav', 'duration': 0.1, 'sample_rate': 24000, 'weight': 1.0,
                                'info_path': None}).encode() + b'\n' for _ in range(4))
    replaced = [b'NaN', b'-1', b'1e400', b'"a"', b'null', b'[]', b'{}', b'true', b'9' * 400, b'"\\u0000"',
                b'"' + b'x' * 300 + b'"']
    rng = random.Random(0)
    outcomes = set()
    for number in range(MANIFESTS):
        kind = rng.randrange(4)
        data = good
        if kind == 0:
            data = mutate(good, rng)
        elif kind == 1:
            key = rng.choice([b'"a.wav"', b'0.1', b'24000', b'1.0'])
            data = good.replace(key, rng.choice(replaced), rng.randint(1, 3))
        elif kind == 2:
            data = rng.choice([b'\xef\xbb\xbf', b'\xff\xfe', b'']) + good.replace(b'\n', b'\r\n')
        path = tmp_path / (f'{number}.jsonl.gz' if kind == 3 else f'{number}.jsonl')
        path.write_bytes(mutate(gzip.compress(good), rng) if kind == 3 else data)
        message = refusal(lambda p=path: load_manifest(p))
        outcomes.add('read' if message is None else 'refused')
        assert message is None or path.name in message
        if message is None:
            metas = load_manifest(path)
            message = refusal(lambda m=metas: AudioDataset(m, 16000, segment_duration=0.05, num_samples=2)[0])
            assert message is None or 'draw' in message
    assert outcomes == {'read', 'refused'}
