"""Records are found whole, in pieces, and behind damage; never with wrong content."""

import random

import pytest

from audiocodec.bitstream.records import (
    END,
    FRAME_BYTES,
    HEADER,
    MAX_HEADER,
    PACKET,
    Record,
    Scanner,
    to_bytes,
)

RECORDS = [
    Record(HEADER, 0, b'header'),
    Record(PACKET, 0, b'\xc5P\xc5H' * 5),  # markers inside
    Record(PACKET, 1, b''),
    Record(PACKET, 2**32 - 1, bytes(range(256)) * 255),
    Record(END, 3, b'end'),
]
DATA = b''.join(map(to_bytes, RECORDS))


def test_the_bytes_of_a_record():
    assert to_bytes(Record(PACKET, 258, b'abc')).hex() == 'c5500300' + '020100000fd146ad616263'


@pytest.mark.parametrize('size', [1, 7, 1000, 10**6])
def test_pieces_of_any_size(size):
    scanner = Scanner()
    found = []
    for start in range(0, len(DATA), size):
        found += scanner.feed(DATA[start : start + size])
    assert found == RECORDS
    assert scanner.feed(b'', final=True) == []
    assert scanner.skipped == 0


def test_a_record_is_returned_by_its_last_byte():
    scanner = Scanner()
    data = to_bytes(RECORDS[1])
    assert scanner.feed(data[:-1]) == []
    assert scanner.feed(data[-1:]) == [RECORDS[1]]


def test_every_wrong_byte_costs_its_record_only():
    records = RECORDS[:3] + RECORDS[4:]
    parts = [to_bytes(record) for record in records]
    data = b''.join(parts)
    start = 0
    for index, part in enumerate(parts):
        for position in range(start, start + len(part)):
            for wrong in (0x01, 0x80, 0xFF):
                damaged = bytearray(data)
                damaged[position] ^= wrong
                scanner = Scanner()
                assert scanner.feed(bytes(damaged), True) == records[:index] + records[index + 1 :]
                assert scanner.skipped == len(part)
        start += len(part)


def test_inserted_and_missing_bytes():
    rng = random.Random(0)
    data = b''.join(b'%b%b' % (rng.randbytes(rng.randrange(50)), to_bytes(one)) for one in RECORDS)
    assert Scanner().feed(data, True) == RECORDS
    assert Scanner().feed(DATA[3:], True) == RECORDS[1:]
    assert Scanner().feed(DATA[:-1], True) == RECORDS[:-1]


def test_a_damaged_size_delays_no_packet_for_long():
    """Without the limit, the scanner would wait for 65535 bytes, an hour of a slow stream."""
    damaged = bytearray(to_bytes(Record(PACKET, 0, b'abc')))
    damaged[3] = 0xFF
    scanner = Scanner()
    scanner.largest[PACKET] = 3
    assert scanner.feed(bytes(damaged) + to_bytes(RECORDS[2])) == [RECORDS[2]]
    damaged[1:2] = b'H'
    assert MAX_HEADER < 0xFF00
    assert scanner.feed(bytes(damaged) + to_bytes(RECORDS[2])) == [RECORDS[2]]
    assert scanner.skipped == 2 * (FRAME_BYTES + 3)


def test_noise_contains_no_records():
    data = random.Random(1).randbytes(10**5).replace(b'\0', b'\xc5P')
    scanner = Scanner()
    scanner.largest[PACKET] = 1000
    assert scanner.feed(data, True) == []
    assert scanner.skipped == len(data)
