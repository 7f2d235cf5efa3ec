"""Writing a stream packet by packet; what is written can be decoded at once."""

from typing import Protocol

import numpy as np
import torch

from audiocodec.bitstream import packets, records
from audiocodec.bitstream.header import NO_HASH, End, Header, SeekTable
from audiocodec.bitstream.packets import Packet
from audiocodec.bitstream.records import Record
from audiocodec.bitstream.tables import Tables

HEADER_EVERY = 64  # packets: who joins a live stream waits for the next header


class Writable(Protocol):
    """A binary file, a pipe, or `socket.makefile('wb')`."""

    def write(self, data: bytes, /) -> object:
        """Write all bytes."""


class BitstreamWriter:
    """Writes codes as a stream.

        writer = BitstreamWriter(file, header, tables)
        for codes in ...:
            writer.write(codes)
        writer.finish(samples)

    Args:
        file: any object with `write(bytes)`; its `flush()`, if any, is called after each packet.
        header: the description of the stream.
        tables: for entropy coding, those that `header.tables_hash` names; None: a fixed width.

    Attributes:
        bytes: bytes written so far.
        samples: length of the waveform in samples; 0 until `finish`.

    Raises:
        ValueError: tables other than those of the header.
    """

    def __init__(self, file: Writable, header: Header, tables: Tables | None = None) -> None:
        if header.tables_hash != (NO_HASH if tables is None else tables.hash):
            raise ValueError('the header names other tables than those given')
        self.header = header
        self.bytes = 0
        self.samples = 0
        self._file = file
        self._tables = tables
        self._frames = np.empty((header.num_codebooks, 0), np.int64)  # of the unfinished packet
        self._seek = SeekTable()
        self._packets = 0
        self._write(records.MAGIC)
        self._write_header()
        self._flush()

    def write(self, codes: torch.Tensor | np.ndarray) -> None:
        """Append frames [K, n] or [1, K, n]; full packets are written.

        Raises:
            ValueError: another shape, or codes out of range.
        """
        self._frames = np.concatenate((self._frames, self._checked(codes)), axis=1)
        size = self.header.frames_per_packet
        while self._frames.shape[1] >= size:
            self.write_packet(self._frames[:, :size])
            self._frames = self._frames[:, size:]

    def write_packet(self, codes: torch.Tensor | np.ndarray, scale: float | None = None) -> None:
        """Append a packet of frames [K, n] or [1, K, n], such as a segment, with its scale.

        Raises:
            ValueError: another shape, or codes out of range.
        """
        codes = self._checked(codes)
        if (scale is None) == self.header.renormalized:
            raise ValueError(f'scale={scale}, but renormalized={self.header.renormalized}')
        if not 1 <= codes.shape[1] <= self.header.frames_per_packet:
            raise ValueError(
                f'a packet of {codes.shape[1]} frames: expected 1 to '
                f'{self.header.frames_per_packet}'
            )
        self._write_packet(codes, scale)

    def finish(self, samples: int) -> None:
        """Write what is left, and the end: the length in samples and the seek table."""
        if self._frames.shape[1]:
            self.write_packet(self._frames)
            self._frames = self._frames[:, :0]
        self._write_header()
        self.samples = samples
        end = End(samples, self._seek.step, self._seek.offsets)
        self._write(records.to_bytes(Record(records.END, self._packets, end.to_bytes())))
        self._flush()

    def _checked(self, codes: torch.Tensor | np.ndarray) -> np.ndarray:
        if isinstance(codes, torch.Tensor):
            codes = codes.cpu().numpy()
        codes = codes[0] if codes.ndim == 3 and len(codes) == 1 else codes
        if codes.ndim != 2 or len(codes) != self.header.num_codebooks:
            raise ValueError(
                f'codes have shape {list(codes.shape)}: expected [{self.header.num_codebooks}, n] '
                '(codebooks, frames) of a single item'
            )
        if codes.size and not 0 <= codes.min() <= codes.max() < self.header.cardinality:
            raise ValueError(
                f'codes from {codes.min()} to {codes.max()}: expected 0 to '
                f'{self.header.cardinality - 1}'
            )
        return codes.astype(np.int64)

    def _write_packet(self, codes: np.ndarray, scale: float | None) -> None:
        if self._packets and self._packets % HEADER_EVERY == 0:
            self._write_header()
        self._seek.add(self._packets, self.bytes)
        packet = Packet(self._packets, codes, scale)
        payload = packets.to_payload(packet, self.header, self._tables)
        self._write(records.to_bytes(Record(records.PACKET, self._packets, payload)))
        self._packets += 1
        self._flush()

    def _write_header(self) -> None:
        payload = self.header.to_bytes()
        self._write(records.to_bytes(Record(records.HEADER, self._packets, payload)))

    def _flush(self) -> None:
        """Pass on what a file or socket keeps in its buffer, which takes seconds of audio."""
        flush = getattr(self._file, 'flush', None)
        if flush is not None:
            flush()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes += len(data)
