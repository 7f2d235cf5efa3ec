"""Whole streams, byte by byte: other machines, NumPys and versions of this package read them.

The codes are those of `draw_codes`, the tables those of `draw_tables`.
"""

import independent_decoder
import pytest
from streams import draw_codes, draw_tables, read, write

CODES = draw_codes(23)
SAMPLES = 3500
STREAMS = {
    'fixed': (
        '894143530d0a1a0ac5482f0000000000f072a01601000001401f0000a0000000400600000a000300'
        '180000003820627974657321000000000000000061206d6f64656cc5501500000000003699e85d0a'
        '800c14e631753c50059ee0550ac344b6a2aea81cc5501500010000005336a0670a80a4e92484e322'
        'ccaa3401ab4669054f6c9a54b0c55008000200000047fbc9430380619ac518a538c5482f00030000'
        '000460929301000001401f0000a0000000400600000a000300180000003820627974657321000000'
        '000000000061206d6f64656cc5451c0003000000a47642f7ac0d0000000000001000000001000000'
        '430000000000000028000000'
    ),
    'tables': (
        '894143530d0a1a0ac5482f0000000000e40adb0701010001401f0000a0000000400600000a000300'
        '1800000038206279746573212beaab0e984bc0e661206d6f64656cc5500f000000000064e9bdbe0a'
        '000d83370a05942a606547631e51c5500f0001000000d3fc101a0a00e2a1ca4e06eec940529cce5a'
        '31c5500600020000005a1099840300777f1d34c5482f00030000001018e98201010001401f0000a0'
        '000000400600000a0003001800000038206279746573212beaab0e984bc0e661206d6f64656cc545'
        '1c0003000000a47642f7ac0d0000000000001000000001000000430000000000000028000000'
    ),
}


@pytest.mark.parametrize('name', STREAMS)
def test_streams_are_golden(name):
    tables = draw_tables() if name == 'tables' else None
    golden = bytes.fromhex(STREAMS[name])
    assert write(CODES, tables, SAMPLES) == golden
    reader, packets = read(golden, tables)
    assert [packet.codes.tolist() for packet in packets] == [
        CODES[:, start : start + 10].tolist() for start in range(0, 23, 10)
    ]
    assert reader.samples == SAMPLES
    assert str(reader.damage) == 'complete'


@pytest.mark.parametrize('name', STREAMS)
def test_a_decoder_after_the_page_reads_them(name):
    levels = [tuple(part.tolist() for part in level) for level in draw_tables().levels]
    frames, samples = independent_decoder.decode(bytes.fromhex(STREAMS[name]), levels)
    assert frames == CODES.T.tolist()
    assert samples == SAMPLES
