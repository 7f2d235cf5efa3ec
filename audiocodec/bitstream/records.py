"""Records, the pieces of a stream: framing with checksums, and a scanner that survives damage.

A stream is a sequence of records. Each has a marker, so that a reader finds the next one after
damaged bytes, and a CRC, so that it never uses damaged ones. docs/bitstream.md has the layout.
"""

import struct
import zlib
from typing import NamedTuple

MAGIC = b'\x89ACS\r\n\x1a\n'  # start of a file; shows a transfer that changed line ends
_FIRST = b'\xc5'  # first byte of every marker: not ASCII, not UTF-8
HEADER, PACKET, END = b'\xc5H', b'\xc5P', b'\xc5E'
_MARKERS = (HEADER, PACKET, END)
# marker, bytes of the payload, number, CRC-32 of all of these and the payload
_FRAME = struct.Struct('<2sHII')
FRAME_BYTES = _FRAME.size
MAX_PAYLOAD = 2**16 - 1
MAX_HEADER = 2**9
_CHECKED = 8  # bytes of the frame before the CRC


class Record(NamedTuple):
    """A record as it was found.

    Attributes:
        kind: HEADER, PACKET or END.
        number: of a packet: its place in the stream; of a header: that of the next packet; of the
            end: how many packets there are.
        payload: the content, with a correct CRC.
    """

    kind: bytes
    number: int
    payload: bytes


def to_bytes(record: Record) -> bytes:
    """Return the bytes of a record."""
    assert record.kind in _MARKERS
    assert len(record.payload) <= MAX_PAYLOAD
    start = _FRAME.pack(record.kind, len(record.payload), record.number, 0)[:_CHECKED]
    return start + struct.pack('<I', zlib.crc32(record.payload, zlib.crc32(start))) + record.payload


class Scanner:
    """Finds records in bytes that arrive in pieces of any size, and skips what is damaged.

    Attributes:
        largest: size of a payload of each kind, above which a record is taken as damaged; whoever
            knows the header lowers that of packets, so that a damaged size does not make the
            scanner wait for bytes that never come.
        skipped: bytes so far that belong to no record.
    """

    def __init__(self) -> None:
        self.largest = {HEADER: MAX_HEADER, PACKET: MAX_PAYLOAD, END: MAX_PAYLOAD}
        self.skipped = 0
        self._buffer = bytearray()

    def feed(self, data: bytes, final: bool = False) -> list[Record]:
        """Return the records that are complete after these bytes.

        Args:
            data: the next bytes of the stream.
            final: no more bytes will follow: a record that is not complete is damaged.
        """
        self._buffer += data
        records = []
        position = 0  # end of what was used or skipped
        while True:
            start = self._buffer.find(_FIRST, position)
            if start < 0:
                start = len(self._buffer)
            self.skipped += start - position
            position = start
            if position == len(self._buffer):
                break
            size = self._size(position)
            if size is None and not final:
                break  # the rest of the record may follow
            record = self._read(position, size) if size else None
            if record is None:
                self.skipped += 1
                position += 1
            else:
                assert size is not None
                records.append(record)
                position += size
        del self._buffer[:position]
        return records

    def _size(self, start: int) -> int | None:
        """Return the size of the record at a marker; None if not complete, 0 if it is none."""
        marker = bytes(self._buffer[start : start + 2])
        if len(marker) == 2 and marker not in _MARKERS:
            return 0
        if len(self._buffer) - start < FRAME_BYTES:
            return None
        size = FRAME_BYTES + int.from_bytes(self._buffer[start + 2 : start + 4], 'little')
        if size - FRAME_BYTES > self.largest[marker]:
            return 0
        return size if start + size <= len(self._buffer) else None

    def _read(self, start: int, size: int) -> Record | None:
        """Return the record of this size; None if its CRC is wrong."""
        kind, _, number, crc = _FRAME.unpack_from(self._buffer, start)
        payload = bytes(self._buffer[start + FRAME_BYTES : start + size])
        checked = bytes(self._buffer[start : start + _CHECKED])
        if zlib.crc32(payload, zlib.crc32(checked)) != crc:
            return None
        return Record(kind, number, payload)
