"""Header and end of a stream: what it contains, for which model, how long it is, where to seek."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from audiocodec.bitstream.records import FRAME_BYTES, MAX_PAYLOAD

VERSION = 1
HASH_BYTES = 8
NO_HASH = bytes(HASH_BYTES)
MAX_FRAMES = 2**15 - 1  # in a packet
_MAX_CODES = 2**18  # in a packet: bounds the work for a few bytes of a malicious one
_MAX_LOST = 2**24  # codes that are missing in a row: hours, and what a malicious number costs
_MAX_NAME = 255
_FIELDS = struct.Struct('<BBBBIIIHHI8s8s')
_RENORMALIZED = 1  # flag
_END = struct.Struct('<QII')
_SIZE = struct.Struct('<I')
_MAX_ENTRIES = 4096


class DamagedError(ValueError):
    """A record whose CRC is correct contains impossible values."""


@dataclass(frozen=True)
class Header:
    """Description of a stream.

    Attributes:
        sample_rate: of the waveform (Hz).
        channels: of the waveform.
        hop_length: samples per frame.
        num_codebooks: K, codes per frame.
        cardinality: entries of each codebook.
        frames_per_packet: frames in every packet but the last; with overlapping segments, a packet
            is a segment, and more than one may be shorter.
        stride: samples from the start of a packet to that of the next:
            `frames_per_packet * hop_length`, less if segments overlap.
        renormalized: every packet has the divisor of the waveform.
        model_hash: see `hash_of`; eight bytes.
        tables_hash: that of the `Tables`; zeros if codes have a fixed width.
        model: what the encoder called the model.
    """

    sample_rate: int
    channels: int
    hop_length: int
    num_codebooks: int
    cardinality: int
    frames_per_packet: int
    stride: int
    renormalized: bool = False
    model_hash: bytes = NO_HASH
    tables_hash: bytes = NO_HASH
    model: str = ''

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value out of range; the message names it.
        """
        limits = {
            'sample_rate': 2**20,
            'channels': 255,
            'hop_length': 2**20,
            'num_codebooks': 2**10,
            'cardinality': 2**24,
            'frames_per_packet': MAX_FRAMES,
            'stride': 2**31,
        }
        for name, most in limits.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f'{name}={getattr(self, name)}: expected 1 to {most}')
        if self.stride > self.frames_per_packet * self.hop_length:
            raise ValueError(f'stride={self.stride}: longer than the samples of a packet')
        codes = self.frames_per_packet * self.num_codebooks
        if codes > _MAX_CODES or self.max_packet > MAX_PAYLOAD:
            raise ValueError(
                f'frames_per_packet={self.frames_per_packet}: {codes} codes of {self.code_bits} '
                f'bits are too many for a packet, which has at most {MAX_PAYLOAD} bytes and '
                f'{_MAX_CODES} codes: use shorter packets'
            )

    @property
    def frame_rate(self) -> float:
        """Frames per second (Hz)."""
        return self.sample_rate / self.hop_length

    @property
    def code_bits(self) -> int:
        """Bits of a code with a fixed width."""
        return max(1, (self.cardinality - 1).bit_length())

    @property
    def max_packet(self) -> int:
        """Bytes of the largest payload of a packet."""
        codes = self.frames_per_packet * self.num_codebooks
        return 2 + 4 * self.renormalized + math.ceil(codes * self.code_bits / 8)

    @property
    def max_gap(self) -> int:
        """Packets that may be missing in a row; what claims to follow more is damaged."""
        return max(64, _MAX_LOST // (self.frames_per_packet * self.num_codebooks))

    def frames_of(self, number: int, samples: int | None) -> int:
        """Return the number of frames of a packet, given the length of the stream, if known."""
        if samples is None:
            return self.frames_per_packet
        left = -(-(samples - number * self.stride) // self.hop_length)
        return max(0, min(self.frames_per_packet, left))

    def to_bytes(self) -> bytes:
        """Return the payload of a header record."""
        fields = _FIELDS.pack(
            VERSION,
            int(self.tables_hash != NO_HASH),
            _RENORMALIZED * self.renormalized,
            self.channels,
            self.sample_rate,
            self.hop_length,
            self.stride,
            self.frames_per_packet,
            self.num_codebooks,
            self.cardinality,
            self.model_hash,
            self.tables_hash,
        )
        # a cut may divide a character
        return fields + self.model.encode()[:_MAX_NAME].decode(errors='ignore').encode()

    @staticmethod
    def from_bytes(payload: bytes) -> 'Header':
        """Read the payload of a header record.

        Raises:
            DamagedError: impossible values.
            ValueError: a newer version.
        """
        if payload and payload[0] > VERSION:
            raise ValueError(
                f'the stream has version {payload[0]}, this audiocodec reads up to {VERSION}: '
                'upgrade the package'
            )
        if len(payload) < _FIELDS.size:
            raise DamagedError(f'a header of {len(payload)} bytes')
        version, coding, flags, channels, rate, hop, stride, *rest = _FIELDS.unpack_from(payload)
        frames, codebooks, bins, model, tables = rest
        if version == 0 or coding > 1 or flags > 1 or (coding == 0) != (tables == NO_HASH):
            raise DamagedError(f'version {version}, coding {coding}, flags {flags}')
        try:
            name = payload[_FIELDS.size :].decode()
            sizes = (codebooks, bins, frames, stride)
            return Header(rate, channels, hop, *sizes, bool(flags), model, tables, name)
        except ValueError as error:
            raise DamagedError(str(error)) from error


@dataclass(frozen=True)
class End:
    """Last record of a finished stream.

    Attributes:
        samples: length of the waveform.
        step: packets from one entry of `offsets` to the next.
        offsets: positions in the stream, in bytes, of the records of packets 0, step, 2 * step ...
    """

    samples: int
    step: int
    offsets: Sequence[int]

    def to_bytes(self) -> bytes:
        """Return the payload of an end record; its last four bytes are the size of the record."""
        payload = _END.pack(self.samples, self.step, len(self.offsets))
        payload += struct.pack(f'<{len(self.offsets)}Q', *self.offsets)
        return payload + _SIZE.pack(FRAME_BYTES + len(payload) + _SIZE.size)

    @staticmethod
    def from_bytes(payload: bytes) -> 'End':
        """Read the payload of an end record.

        Raises:
            DamagedError: impossible values.
        """
        if len(payload) < _END.size + _SIZE.size:
            raise DamagedError(f'an end of {len(payload)} bytes')
        samples, step, entries = _END.unpack_from(payload)
        if step == 0 or len(payload) != _END.size + 8 * entries + _SIZE.size:
            raise DamagedError(f'an end of {len(payload)} bytes with {entries} entries')
        return End(samples, step, struct.unpack_from(f'<{entries}Q', payload, _END.size))


class SeekTable:
    """Positions of packets, thinned out so that they fit into the end record."""

    def __init__(self, step: int = 16) -> None:
        self.step = step
        self.offsets: list[int] = []

    def add(self, number: int, offset: int) -> None:
        """Note where a packet starts."""
        if number % self.step == 0:
            self.offsets.append(offset)
        if len(self.offsets) > _MAX_ENTRIES:
            self.offsets = self.offsets[::2]
            self.step *= 2
