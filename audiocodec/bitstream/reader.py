"""Reading a stream: packets of codes in order, whatever happened to it on the way."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, Protocol, cast

import numpy as np

from audiocodec.bitstream import packets
from audiocodec.bitstream.header import NO_HASH, DamagedError, End, Header
from audiocodec.bitstream.packets import Packet
from audiocodec.bitstream.receiver import Damage, Receiver
from audiocodec.bitstream.records import END, FRAME_BYTES, MAX_PAYLOAD, PACKET, Scanner
from audiocodec.bitstream.tables import Tables

_CHUNK = 2**16


class Readable(Protocol):
    """A binary file, a pipe, or `socket.makefile('rb')`."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


class BitstreamReader:
    """Reads a stream, also while it is being written.

        reader = BitstreamReader(file)
        for packet in reader.packets(tables):
            ...

    Args:
        file: any object with `read(size)`; with `read1`, as of a pipe or a socket, packets are
            returned as soon as they arrive.
        patience: packets after a missing one that are waited for, because packets may overtake each
            other, before it is given up; None: until the end.
        join: begin with the first packet that arrives, as a listener of a live stream does, instead
            of packet 0.

    Attributes:
        header: description of the stream.

    Raises:
        ValueError: no header, or a version that this package cannot read.
    """

    def __init__(self, file: Readable, patience: int | None = 8, join: bool = False) -> None:
        self._file = file
        self._patience = patience
        self._read: Callable[[int], bytes] = getattr(file, 'read1', file.read)
        self._receiver = Receiver(patience, None if join else 0)
        self._first: list[tuple[int, bytes | None]] = []  # came with the header
        self._at_end = False
        self._start = 0  # number of the first packet to return
        while self._receiver.header is None:
            self._first += self._receive()
        self.header: Header = self._receiver.header

    @property
    def damage(self) -> Damage:
        """What was wrong with the part that was read."""
        return self._receiver.damage

    @property
    def samples(self) -> int | None:
        """Length of the waveform; None until the end of the stream was read."""
        return None if self._receiver.end is None else self._receiver.end.samples

    def packets(self, tables: Tables | None = None) -> Iterator[Packet]:
        """Yield the packets in order; lost ones are replaced, see `Packet`.

        Args:
            tables: those that the header names, see `Tables`.

        Raises:
            ValueError: other tables, or none for a stream that needs them.
        """
        check_tables(self.header, tables)
        last = np.zeros((self.header.num_codebooks, 1), np.int64)
        due = self._first
        while True:
            for number, payload in due:
                if number < self._start:
                    continue
                packet = self._to_packet(number, payload, tables, last)
                if packet.codes.shape[1]:
                    last = packet.codes[:, -1:]
                    yield packet
            if self._at_end:
                return
            due = self._receive()

    def seek(self, number: int) -> None:
        """Continue with a packet, which starts at sample `number * header.stride`.

        Jumps to a packet before it by the table at the end; without an end, or if the table is
        wrong since bytes were lost, reads from the beginning. `damage` starts anew.

        Args:
            number: place of the packet in the stream.

        Raises:
            OSError: the file cannot seek.
        """
        file = cast(BinaryIO, self._file)
        end = _find_end(file)
        entry = 0 if end is None else min(number // end.step, len(end.offsets) - 1)
        first, offset = 0, 0
        if end is not None and entry >= 0:
            candidate = entry * end.step, end.offsets[entry]
            if _is_packet(file, *candidate):  # not if bytes before it were lost
                first, offset = candidate
        file.seek(offset)
        self._receiver = Receiver(self._patience, first, self.header)
        self._first = []
        self._at_end = False
        self._start = number

    def _receive(self) -> list[tuple[int, bytes | None]]:
        data = self._read(_CHUNK)
        self._at_end = not data
        return self._receiver.feed(data, final=self._at_end)

    def _to_packet(
        self, number: int, payload: bytes | None, tables: Tables | None, last: np.ndarray
    ) -> Packet:
        """Return the packet of a payload, or its replacement."""
        if payload is not None:
            try:
                return packets.from_payload(number, payload, self.header, tables)
            except DamagedError:
                self.damage.lost += 1
        frames = self.header.frames_of(number, self.samples)
        scale = 0.0 if self.header.renormalized else None
        return Packet(number, last.repeat(frames, axis=1), scale, lost=True)


def _find_end(file: BinaryIO) -> End | None:
    """Return the last record of a finished stream."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4))
    last = int.from_bytes(file.read(4), 'little')  # the size of the record
    file.seek(max(0, size - last))
    found = Scanner().feed(file.read(last), final=True) if last <= size else []
    with suppress(DamagedError):
        return next((End.from_bytes(one.payload) for one in found if one.kind == END), None)
    return None


def _is_packet(file: BinaryIO, number: int, offset: int) -> bool:
    """Return whether the first record from a byte on is this packet."""
    file.seek(offset)
    found = Scanner().feed(file.read(FRAME_BYTES + MAX_PAYLOAD), final=True)
    return bool(found) and found[0].kind == PACKET and found[0].number == number


def check_tables(header: Header, tables: Tables | None) -> None:
    """Raise a ValueError if the tables are not those of a stream."""
    if header.tables_hash == NO_HASH:
        return
    if tables and tables.hash == header.tables_hash:
        tables.check(header.num_codebooks, header.cardinality)
        return
    found = f'those given are {tables.hash.hex()}' if tables else 'none were given'
    raise ValueError(
        f'the stream was encoded with the tables {header.tables_hash.hex()}, {found}: use the '
        'tables of the model that encoded it'
    )
