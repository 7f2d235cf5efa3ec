"""A thousand streams, damaged at random: no crash, no hang, only the damaged time is lost."""

import collections
import random
import time

import pytest
from streams import draw_codes, draw_tables, read, write

from audiocodec.bitstream.records import HEADER, PACKET, Scanner, to_bytes

FRAMES = 200
CODES = draw_codes(FRAMES)


def flip(rng, data):
    """Change bytes."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 2, 10))):
        damaged[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return bytes(damaged)


def burst(rng, data):
    """Overwrite a part by noise."""
    start = rng.randrange(len(data))
    size = min(rng.randrange(1, 100), len(data) - start)
    return data[:start] + rng.randbytes(size) + data[start + size :]


def truncate(rng, data):
    """Cut off the end, or a part of the beginning."""
    return data[: rng.randrange(len(data))] if rng.random() < 0.7 else data[rng.randrange(60) :]


def remove(rng, data):
    """Take bytes out."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 200) :]


def insert(rng, data):
    """Put noise, a part of the stream or markers in."""
    start = rng.randrange(len(data))
    what = rng.choice(
        (rng.randbytes(rng.randrange(1, 200)), data[start : start + 70], b'\xc5P' * 9)
    )
    return data[:start] + what + data[start:]


def exchange(rng, data):
    """Drop, repeat and reorder records."""
    records = [to_bytes(record) for record in Scanner().feed(data, True)]
    for _ in range(rng.choice((1, 2, 5))):
        kind = rng.randrange(3)
        if kind == 0 and len(records) > 5:
            del records[rng.randrange(len(records))]
        elif kind == 1:
            records.insert(rng.randrange(len(records)), rng.choice(records))
        else:
            first, second = rng.randrange(len(records)), rng.randrange(len(records))
            records[first], records[second] = records[second], records[first]
    return b''.join(records)


DAMAGES = (flip, burst, truncate, remove, insert, exchange)


def read_damaged(rng, original, tables):
    """Damage a stream and read it; returns what happened."""
    records = [to_bytes(record) for record in Scanner().feed(original, True)]
    headers = [record for record in records if record[:2] == HEADER]
    packets = [record for record in records if record[:2] == PACKET]
    data = original
    for _ in range(rng.choice((1, 1, 2))):
        data = rng.choice(DAMAGES)(rng, data)
    start = time.process_time()
    try:
        reader, found = read(data, tables, patience=None)
    except ValueError as error:
        if not str(error).startswith('no header'):
            raise
        assert not any(header in data for header in headers)
        return 'no header'
    assert time.process_time() - start < 2
    assert [packet.number for packet in found] == list(range(len(found)))
    good = [packet for packet in found if not packet.lost]
    assert [one.number for one in good] == [n for n in range(20) if packets[n] in data]
    for packet in good:
        assert (packet.codes == CODES[:, 10 * packet.number :][:, :10]).all()
    assert reader.damage.lost == len(found) - len(good)
    return 'some lost' if reader.damage.lost else 'all there'


@pytest.mark.parametrize(
    ('name', 'streams'),
    [
        ('fixed', 100),
        ('tables', 20),
        *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in ('fixed', 'tables')),
    ],
)
def test_damaged_streams(name, streams):
    tables = draw_tables() if name == 'tables' else None
    original = write(CODES, tables)
    results = collections.Counter(
        read_damaged(random.Random(seed), original, tables) for seed in range(streams)
    )
    print(dict(results))
    assert results['some lost'] > streams / 4
    assert results['no header'] < streams / 10
