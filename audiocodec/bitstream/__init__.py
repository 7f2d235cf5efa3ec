"""Codes as a stream of bytes, entropy coded, that survives damage: docs/bitstream.md.

from audiocodec import bitstream
header = bitstream.describe(model, tables)
with open('out.acs', 'wb') as file:
bitstream.encode(model, wav, bitstream.BitstreamWriter(file, header, tables))
with open('out.acs', 'rb') as file:
wav_hat = bitstream.decode(model, bitstream.BitstreamReader(file), tables).wav
"""

from audiocodec.bitstream.codec import (
    PACKET_SECONDS,
    Decoded,
    check_model,
    decode,
    describe,
    encode,
    encode_live,
    hash_of,
)
from audiocodec.bitstream.fit import fit_tables
from audiocodec.bitstream.header import NO_HASH, Header
from audiocodec.bitstream.packets import Packet
from audiocodec.bitstream.reader import BitstreamReader
from audiocodec.bitstream.receiver import Damage
from audiocodec.bitstream.tables import Tables
from audiocodec.bitstream.writer import BitstreamWriter

__all__ = [
    'NO_HASH',
    'PACKET_SECONDS',
    'BitstreamReader',
    'BitstreamWriter',
    'Damage',
    'Decoded',
    'Header',
    'Packet',
    'Tables',
    'check_model',
    'decode',
    'describe',
    'encode',
    'encode_live',
    'fit_tables',
    'hash_of',
]
