"""The range coder returns what was encoded, at the entropy of the frequencies."""

import math
import random

import pytest

from audiocodec.bitstream import coder

GOLDEN = '45d1a745cfe96f20d22562c9fd94'  # of `test_messages`


def roundtrip(symbols, tables):
    """Encode symbols with one table of frequencies each; returns the message."""
    intervals = [
        (sum(table[:symbol]), table[symbol], sum(table)) for symbol, table in zip(symbols, tables)
    ]
    message = coder.encode(intervals)
    decoder = coder.Decoder(message)
    for (first, count, total), symbol, table in zip(intervals, symbols, tables):
        target = decoder.target(total)
        assert first <= target < first + count, (symbol, table)
        decoder.use(first, count)
    return message


@pytest.mark.parametrize('seed', range(20))
def test_random_symbols_return_at_their_entropy(seed):
    rng = random.Random(seed)
    size = rng.choice((1, 2, 3, 100))
    high = rng.choice((1, 5, 2**20))
    tables = [[rng.randint(1, high) for _ in range(size)] for _ in range(rng.randrange(300))]
    symbols = [rng.choices(range(size), table)[0] for table in tables]
    message = roundtrip(symbols, tables)
    bits = sum(math.log2(sum(table) / table[one]) for table, one in zip(tables, symbols))
    assert bits - 16 <= 8 * len(message) <= bits + 10


@pytest.mark.parametrize(('symbol', 'size'), [(0, 0), (1, 1), (2, 200 * 35 // 8 + 1)])
def test_extreme_frequencies(symbol, size):
    table = [1, 2**35, 1]
    assert len(roundtrip([symbol] * 200, [table] * 200)) == pytest.approx(size, abs=1)


def test_carries_run_through_the_whole_message():
    # always the last of many slots: the low end stays just below a carry; `roundtrip` compares
    message = roundtrip([1] * 500 + [0] + [1] * 500, [[2**20 - 1, 1]] * 1001)
    assert len(message) == pytest.approx(1000 * 20 / 8, abs=2)
    assert message[:1250] == b'\xff' * 1250
    assert len(roundtrip([1] * 1000, [[1, 2**36 - 1]] * 1000)) <= 2


def test_messages():
    assert coder.encode([]) == b''
    assert coder.encode([(0, 1, 256)] * 9) == b''
    assert coder.encode([(one, 1, 256) for one in b'text']) == b'text'
    intervals = [(3, 5, 11), (0, 7, 2**20), (1, 2, 3), (2**20 - 1, 1, 2**20)] * 3
    assert coder.encode(intervals).hex() == GOLDEN


def test_any_bytes_decode():
    rng = random.Random(0)
    for size in range(40):
        decoder = coder.Decoder(rng.randbytes(size))
        for _ in range(50):
            target = decoder.target(1000)
            assert 0 <= target < 1000
            decoder.use(target, 1)
