"""Tables: integers only, the same on every machine, at the entropy of their frequencies."""

import os
import subprocess
import sys
from pathlib import Path

import independent_decoder
import numpy as np
import pytest
from streams import CARDINALITY, LEVELS, draw_codes, draw_tables

from audiocodec.bitstream import tables as module
from audiocodec.bitstream.tables import FREQUENCIES, Level, Tables

# of `draw_codes(7)`, and the hash of `draw_tables()`
MESSAGE, HASH = '0d83370a05942a6063', '2beaab0e984bc0e6'


def lists(tables):
    return [tuple(part.tolist() for part in level) for level in tables.levels]


def test_frequencies_are_halved_by_every_octave():
    assert FREQUENCIES[::64].tolist() == [2**power for power in range(20, -1, -1)]
    exact = 2.0 ** (20 - np.arange(1281) / 64)
    assert np.array_equal(FREQUENCIES, np.floor(exact + 1e-9))
    assert [independent_decoder.frequency(step) for step in range(1281)] == FREQUENCIES.tolist()


def test_messages_are_golden():
    tables = draw_tables()
    assert tables.hash.hex() == HASH
    assert tables.encode(draw_codes(7)).hex() == MESSAGE
    assert (tables.decode(bytes.fromhex(MESSAGE), LEVELS, 7) == draw_codes(7)).all()


@pytest.mark.parametrize('levels', range(1, LEVELS + 1))
@pytest.mark.parametrize('frames', [1, 2, 3, 300])
def test_codes_return(levels, frames):
    tables = draw_tables()
    codes = draw_codes(frames)[:levels]
    message = tables.encode(codes)
    assert (tables.decode(message, levels, frames) == codes).all()
    bits = tables.bits(codes)
    assert len(bits) == levels
    assert bits.sum() - 8 <= 8 * len(message) <= bits.sum() + 16


def test_a_decoder_without_floats_finds_the_same():
    tables = draw_tables()
    codes = draw_codes(20)
    message = independent_decoder.Message(tables.encode(codes))
    assert message.frames(20, lists(tables), CARDINALITY) == codes.T.tolist()


def test_many_levels_have_a_context_of_eight():
    rng = np.random.default_rng(0)
    levels = [
        Level(
            rng.integers(-90, 90, (5, 3), np.int8),
            rng.integers(-999, 0, 5, np.int32),
            rng.integers(-90, 90, (2 + min(k, 8), 6, 3), np.int8),
        )
        for k in range(12)
    ]
    tables = Tables(levels, bytes(8))
    codes = rng.integers(0, 5, (12, 6))
    message = tables.encode(codes)
    assert (tables.decode(message, 12, 6) == codes).all()
    assert independent_decoder.Message(message).frames(6, lists(tables), 5) == codes.T.tolist()


def test_any_message_decodes_to_codes_in_range():
    tables = draw_tables()
    for seed in range(20):
        message = np.random.default_rng(seed).bytes(seed)
        codes = tables.decode(message, LEVELS, 10)
        assert codes.shape == (LEVELS, 10)
        assert 0 <= codes.min() <= codes.max() < CARDINALITY


def test_the_context_is_what_the_page_says():
    """Changing a code changes the intervals of: two frames after, and the levels below."""
    tables = draw_tables()
    codes = draw_codes(8)
    changed = codes.copy()
    changed[1, 3] = (codes[1, 3] + 1) % CARDINALITY
    for level, frames in enumerate(([], [3, 4, 5], [3])):
        before, after = (tables._intervals(one, level) for one in (codes, changed))
        assert np.flatnonzero((before != after).any(axis=0)).tolist() == frames


def test_the_largest_factors_stay_exact():
    level = Level(
        np.full((3, 64), -128, np.int8),
        np.array([-(2**31), 2**31 - 1, 0], np.int32),
        np.full((2, 4, 64), -128, np.int8),
    )
    level.codes[0] = 127
    tables = Tables([level], bytes(8))
    codes = np.array([[0, 1, 2, 2, 1, 0]])
    message = independent_decoder.Message(tables.encode(codes))
    assert message.frames(6, lists(tables), 3) == codes.T.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    'environment',
    [
        {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'},
        {'OMP_NUM_THREADS': '5', 'OPENBLAS_NUM_THREADS': '5', 'MKL_NUM_THREADS': '5'},
        {'OPENBLAS_CORETYPE': 'Prescott'},
        {'OPENBLAS_CORETYPE': 'Haswell'},
    ],
    ids=lambda environment: '-'.join(environment.values()),
)
def test_other_threads_and_processors_write_the_same(environment):
    """OpenBLAS has other kernels, which sum in another order, for other processors."""
    code = (
        'from streams import draw_codes, draw_tables\n'
        'print(draw_tables().encode(draw_codes(7)).hex())'
    )
    support = str(Path(__file__).parents[1] / 'support')
    place = os.pathsep.join((support, os.environ.get('PYTHONPATH', '')))
    found = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, **environment, 'PYTHONPATH': place},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == MESSAGE


def test_files_return(tmp_path):
    tables = draw_tables()
    tables.save(tmp_path / 'a.safetensors')
    loaded = Tables.load(tmp_path / 'a.safetensors')
    assert (loaded.hash, loaded.model_hash) == (tables.hash, tables.model_hash)
    assert loaded.encode(draw_codes(7)).hex() == MESSAGE


def test_wrong_files_are_refused(tmp_path):
    tables = draw_tables()
    path = tmp_path / 'a.safetensors'
    with pytest.raises(ValueError, match='no such file; `audiocodec tables` writes it'):
        Tables.load(path)
    tables.save(path)
    data = path.read_bytes()
    for damaged in (data[:100], b'', data.replace(b'audiocodec.tables', b'audiocodec.shelves')):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r'a\.safetensors cannot be read as tables'):
            Tables.load(path)
    first = tables.levels[0]
    for wrong in (
        first._replace(codes=first.codes.astype(np.float32)),
        first._replace(bias=first.bias[1:]),
        first._replace(contexts=first.contexts[:, 1:]),
    ):
        with pytest.raises(ValueError, match='level 0'):
            Tables([wrong], bytes(8))
    with pytest.raises(ValueError, match=str(module.MAX_CARDINALITY)):
        Tables([Level(np.zeros((2**14 + 1, 1), np.int8), first.bias, first.contexts)], bytes(8))
