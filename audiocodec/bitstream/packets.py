"""Content of a packet: frames of codes, and the divisor of the waveform if there is one."""

import struct
from typing import NamedTuple

import numpy as np

from audiocodec.bitstream import packing
from audiocodec.bitstream.header import MAX_FRAMES, DamagedError, Header
from audiocodec.bitstream.tables import Tables

_PACKED = 2**15  # flag in the number of frames: codes of a fixed width
_FRAMES = struct.Struct('<H')
_SCALE = struct.Struct('<f')


class Packet(NamedTuple):
    """Consecutive frames of a stream.

    Attributes:
        number: place in the stream, from 0.
        codes: int64 [K, n].
        scale: divisor of the waveform; None if the model does not renormalize. 0 if lost.
        lost: the packet was lost or damaged: the codes are those of the last frame before it.
    """

    number: int
    codes: np.ndarray
    scale: float | None = None
    lost: bool = False


def to_payload(packet: Packet, header: Header, tables: Tables | None) -> bytes:
    """Return the payload of a packet; with tables, unless a fixed width needs fewer bytes."""
    codes = packet.codes
    frames = codes.shape[1]
    scale = b'' if packet.scale is None else _SCALE.pack(packet.scale)
    packed = packing.pack(codes, header.code_bits)
    if tables is not None:
        message = tables.encode(codes)
        if len(message) < len(packed):
            return _FRAMES.pack(frames) + scale + message
    return _FRAMES.pack(frames | _PACKED) + scale + packed


def from_payload(number: int, payload: bytes, header: Header, tables: Tables | None) -> Packet:
    """Read the payload of a packet.

    Raises:
        DamagedError: impossible values.
    """
    start = _FRAMES.size + _SCALE.size * header.renormalized
    if len(payload) < start:
        raise DamagedError(f'a packet of {len(payload)} bytes')
    word = _FRAMES.unpack_from(payload)[0]
    frames = word & MAX_FRAMES
    if not 1 <= frames <= header.frames_per_packet:
        raise DamagedError(f'a packet of {frames} frames')
    scale = _SCALE.unpack_from(payload, _FRAMES.size)[0] if header.renormalized else None
    if scale is not None and not 0 <= scale < float('inf'):
        raise DamagedError(f'a scale of {scale}')
    data = payload[start:]
    if not word & _PACKED:
        if tables is None:
            raise DamagedError('entropy coding in a stream without tables')
        return Packet(number, tables.decode(data, header.num_codebooks, frames), scale)
    if len(data) != -(-frames * header.num_codebooks * header.code_bits // 8):
        raise DamagedError(f'{len(data)} bytes of codes for {frames} frames')
    codes = packing.unpack(data, header.code_bits, header.num_codebooks, frames)
    if codes.max() >= header.cardinality:
        raise DamagedError(f'a code of {codes.max()}')
    return Packet(number, codes, scale)
