"""Header and end: their bytes, their limits, and what impossible values do."""

import struct

import pytest
from streams import describe

from audiocodec.bitstream.header import DamagedError, End, Header, SeekTable

GOLDEN = (
    '01000101401f0000a0000000400600000a000300180000003820627974657321000000000000000061206d6f64656c'
)


def test_bytes_of_a_header():
    header = describe(renormalized=True)
    assert header.to_bytes().hex() == GOLDEN
    assert Header.from_bytes(header.to_bytes()) == header
    long = describe(model='ä' * 300)
    assert len(long.to_bytes()) == 40 + 254
    assert Header.from_bytes(long.to_bytes()).model == 'ä' * 127


def test_derived_figures():
    header = describe(renormalized=True)
    assert header.frame_rate == 50
    assert header.code_bits == 5
    assert header.max_packet == 2 + 4 + 19  # 10 frames of 3 codes of 5 bits: 18.75 bytes
    assert [describe(cardinality=n).code_bits for n in (1, 2, 3, 1024, 1025)] == [1, 1, 2, 10, 11]
    # 3300 samples: two packets of ten frames, and 100 samples in a last frame
    assert [header.frames_of(number, 3300) for number in range(4)] == [10, 10, 1, 0]
    assert header.frames_of(9, None) == 10
    assert header.max_gap == 2**24 // 30
    assert describe(frames_per_packet=15000, stride=1).max_gap == 2**24 // 45000


@pytest.mark.parametrize(
    'wrong',
    [
        {'sample_rate': 0},
        {'channels': 256},
        {'hop_length': 2**20 + 1},
        {'num_codebooks': 0},
        {'cardinality': 2**24 + 1},
        {'frames_per_packet': 2**15},
        {'stride': 1601},
        {'num_codebooks': 1000, 'frames_per_packet': 300},
    ],
)
def test_limits(wrong):
    with pytest.raises(ValueError, match=f'{list(wrong)[-1]}={list(wrong.values())[-1]}'):
        describe(**wrong)


def test_impossible_headers_are_damaged():
    data = describe().to_bytes()
    for place, value in ((0, 0), (1, 1), (1, 2), (2, 2), (3, 0), (12, 0xFF), (23, 255)):
        wrong = bytearray(data)
        wrong[place] = value
        with pytest.raises(DamagedError):
            Header.from_bytes(bytes(wrong))
    for wrong in (b'', data[:39], data[:40] + b'\xff'):
        with pytest.raises(DamagedError):
            Header.from_bytes(wrong)
    with pytest.raises(ValueError, match='version 2, this audiocodec reads up to 1: upgrade'):
        Header.from_bytes(b'\2' + data[1:])


def test_bytes_of_the_end():
    end = End(2**40, 16, (8, 2**33))
    data = end.to_bytes()
    assert data == struct.pack('<QIIQQI', 2**40, 16, 2, 8, 2**33, 12 + 36)
    assert End.from_bytes(data) == end
    for wrong in (b'', data[:-1], data + b'\0', bytes(36), data[:12] + b'\xff' + data[13:]):
        with pytest.raises(DamagedError):
            End.from_bytes(wrong)


def test_the_seek_table_stays_small():
    table = SeekTable(step=2)
    for number in range(20000):
        table.add(number, 10 * number)
    assert table.step == 8
    assert table.offsets == [10 * number for number in range(0, 20000, 8)]
