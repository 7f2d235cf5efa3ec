"""Damaged manifests are read, or refused with a ValueError that names them.

Entries that are read make a data set, or an error that says why.

A larger campaign with other seeds: `python tests/data/test_fuzz_manifest.py SEED COUNT`.
"""

import codecs
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocodec.data import (
    AudioDataset,
    AudioMeta,
    load_manifest,
    missing_files,
    save_manifest,
    summarize,
)
from audiocodec.data.doctor.report import check
from audiocodec.data.manifest import read_manifest

ODD = [
    None,
    True,
    -1,
    0,
    1e-300,
    1e300,
    10**400,
    2**63,
    float('nan'),
    float('inf'),
    'NaN',
    '',
    'x' * 10_000,
    '\0',
    '\ud800',
    'ä',
    '.',
    '..',
    '/',
    '/etc/passwd',
    'a.wav/',
    [],
    [1],
    {},
    {'zip_path': 1, 'file_path': None},
    [[[[]]]],
]


def entries(folder):
    """Return the entries of a manifest of three files, with every key."""
    for name in 'abc':
        soundfile.write(
            folder / f'{name}.wav', np.random.default_rng(ord(name)).uniform(-0.1, 0.1, 4000), 16000
        )
    return [
        {
            'path': f'{name}.wav',
            'duration': 0.25,
            'sample_rate': 16000,
            'channels': 1,
            'amplitude': 0.1,
            'weight': 2.0,
            'info_path': f'infos.zip:{name}.json',
        }
        for name in 'abc' * 3
    ]


def mutated(lines, rng):
    """Return the bytes of a manifest with up to four damages, of its values or its text."""
    lines = [dict(line) for line in lines]
    for _ in range(rng.integers(0, 3)):
        line = lines[rng.integers(len(lines))]
        line[str(rng.choice([*line, 'more']))] = ODD[rng.integers(len(ODD))]
    ends = [b'\n', b'\r\n', b'\r', b'\n\n', b'', b'\x00', b' \n ']
    end = ends[rng.integers(len(ends))] if rng.random() < 0.3 else b'\n'
    data = bytearray(
        b''.join(
            json.dumps(line, ensure_ascii=bool(rng.integers(2))).encode('utf-8', 'replace') + end
            for line in lines
        )
    )
    for _ in range(rng.integers(0, 3)):
        at, length = int(rng.integers(len(data))), int(2 ** rng.uniform(0, 9))
        kind = rng.integers(7)
        if kind == 0:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del data[at + 1 :]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at:at] = bytes(rng.choice(list(b'[]{}",:\\-.0123456789eE'), length).tolist())
        else:
            data = bytearray(
                data.decode('utf-8', 'replace').encode(
                    str(rng.choice(['utf-16', 'utf-8-sig', 'utf-32']))
                )
            )
        data = data or bytearray(b'{')
    return bytes(data)


def draw(metas):
    """Draw from a data set of the entries: a valid segment, or a ValueError."""
    try:
        wav, info = AudioDataset(metas, 16000, segment_duration=0.1, return_info=True)[0]
    except ValueError as error:
        return 'refused' if str(error) else 'without a message'
    assert wav.shape == (1, 1600)
    assert info.meta in metas
    return 'drawn'


def attempt(path, data):
    """Read a manifest and draw from its entries: 'refused' or 'drawn'."""
    path.write_bytes(gzip.compress(data, 1) if path.suffix == '.gz' else data)
    try:
        metas, problems = read_manifest(path)
        if problems:
            assert all(
                problem.startswith(f'{path}, line ') and len(problem) < 500 for problem in problems
            )
            with pytest.raises(ValueError, match=f'^{path}, line '):
                load_manifest(path)
        if not metas:
            return 'refused'
        assert all(isinstance(meta, AudioMeta) and Path(meta.path).is_absolute() for meta in metas)
        assert str(summarize(metas)).startswith(f'{len(metas)} files')
        assert set(missing_files([meta.path for meta in metas])) < {meta.path for meta in metas}
        save_manifest(metas, path.with_name('again.jsonl'))
        assert len(load_manifest(path.with_name('again.jsonl'))) == len(metas)
        return draw(metas)
    except ValueError as error:
        named = str(error).startswith(str(path)) and len(str(error)) < 1000
        return 'refused' if named else f'ValueError without the name, or too long: {error}'
    finally:
        path.unlink()


def campaign(folder, seed, count):
    """Count the outcomes of many damaged manifests, and collect the unexpected ones."""
    lines = entries(folder)
    counts = Counter()
    wrong = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        data = mutated(lines, rng)
        try:
            outcome = attempt(folder / ('m.jsonl.gz' if rng.random() < 0.2 else 'm.jsonl'), data)
        except Exception as error:
            outcome = f'{type(error).__name__}: {error}'
        counts[outcome[:60]] += 1
        if outcome not in ('refused', 'drawn'):
            wrong.append((number, outcome, data))
    return counts, wrong


@pytest.mark.slow
def test_damaged_manifests_are_read_or_refused_by_name(tmp_path):
    counts, wrong = campaign(tmp_path, seed=0, count=300)
    assert wrong == []
    assert counts['refused'] > 20
    assert counts['drawn'] > 150


@pytest.mark.parametrize('is_cut', [True, False])
def test_damaged_archives_are_refused(tmp_path, is_cut):
    packed = gzip.compress(
        b''.join(json.dumps(line).encode() + b'\n' for line in entries(tmp_path))
    )
    path, refused = tmp_path / 'm.jsonl.gz', 0
    for number in range(50):
        rng = np.random.default_rng(number)
        at = int(rng.integers(1, len(packed)))
        path.write_bytes(packed[:at] + (b'' if is_cut else rng.bytes(2) + packed[at + 2 :]))
        try:
            # gzip does not check everything, for example the time
            assert len(load_manifest(path)) == 9
        except ValueError as error:
            refused += str(error).startswith(f'{path}: cannot be read: ')
    assert refused == 50 if is_cut else refused > 40


GOOD = '{"path": "a.wav", "duration": 0.25, "sample_rate": 16000}'


@pytest.mark.parametrize(
    'data',
    [
        codecs.BOM_UTF8 + GOOD.encode(),
        GOOD.encode() + b'\r\n' + GOOD.encode() + b'\r\n\x1a'[:2],
        # the last of equal keys counts
        GOOD.replace('"duration": 0.25', '"duration": 9, "duration": 0.25').encode(),
        GOOD.replace('}', ', "more": {"nested": [{"deep": null}]}}').encode(),
    ],
)
def test_odd_manifests_are_read(tmp_path, data):
    entries(tmp_path)
    (tmp_path / 'm.jsonl').write_bytes(data)
    assert all(
        meta == AudioMeta(str(tmp_path / 'a.wav'), 0.25, 16000)
        for meta in load_manifest(tmp_path / 'm.jsonl')
    )


@pytest.mark.parametrize(
    'line',
    [
        GOOD.replace('a.wav', 'ä.wav').encode('latin-1'),
        GOOD.replace('0.25', 'NaN').encode(),
        GOOD.replace('0.25', '-0.25').encode(),
        GOOD.replace('16000', '1' + '0' * 400).encode(),
        GOOD.replace('16000', '1' + '0' * 5000).encode(),
        GOOD.replace('a.wav', 'a\\u0000.wav').encode(),
        GOOD.replace('a.wav', 'a\0.wav').encode(),
        b'{"path": ' * 10_000,
    ],
)
def test_odd_lines_are_refused_and_the_others_kept(tmp_path, line):
    entries(tmp_path)
    path = tmp_path / 'm.jsonl'
    path.write_bytes(GOOD.encode() + b'\n' + line + b'\n' + GOOD.encode())
    with pytest.raises(ValueError, match=rf'^{path}, line 2: ') as caught:
        load_manifest(path)
    assert len(str(caught.value)) < 500
    metas, problems = read_manifest(path)
    assert len(metas) == 2
    assert problems[0].startswith(f'{path}, line 2: ')


def test_folders_are_neither_manifests_nor_audio(tmp_path):
    entries(tmp_path)
    (tmp_path / 'd.wav').mkdir()
    with pytest.raises(ValueError, match=f'^{tmp_path}: cannot be read'):
        load_manifest(tmp_path)
    path = tmp_path / 'm.jsonl'
    path.write_text(GOOD + '\n' + GOOD.replace('a.wav', 'd.wav'))
    metas = load_manifest(path)
    assert missing_files([meta.path for meta in metas]) == [str(tmp_path / 'd.wav')]
    assert check(path).counts == {'unreadable': 1}


if __name__ == '__main__':
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        counts, wrong = campaign(Path(name), int(sys.argv[1]), int(sys.argv[2]))
    print(counts)
    for number, outcome, data in wrong:
        print(number, outcome, data[:300])
