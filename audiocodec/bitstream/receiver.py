"""Order of packets: sorts what arrives, notices what is missing, and finds the header."""

from dataclasses import dataclass

from audiocodec.bitstream import records
from audiocodec.bitstream.header import DamagedError, End, Header
from audiocodec.bitstream.records import Record, Scanner

_MAX_UNKNOWN = 2**22  # bytes without a header, after which this is no stream


@dataclass
class Damage:
    """What was wrong with a stream.

    Attributes:
        lost: packets that are missing or damaged.
        repeated: packets that came twice, or too late.
        skipped: bytes that belong to no record.
        unfinished: the end is missing: the stream is still being written, or was cut off.
    """

    lost: int = 0
    repeated: int = 0
    skipped: int = 0
    unfinished: bool = True

    def __str__(self) -> str:
        """Describe the damage in a line."""
        found = [
            f'lost packets: {self.lost}' * bool(self.lost),
            f'repeated or late packets: {self.repeated}' * bool(self.repeated),
            f'skipped bytes: {self.skipped}' * bool(self.skipped),
            'the end is missing' * self.unfinished,
        ]
        return ', '.join(filter(None, found)) or 'complete'


class Receiver:
    """Turns the bytes of a stream, in pieces of any size, into the payloads of packets in order.

    Args:
        patience: packets after a missing one that are waited for before it is given up; None: all.
        first: number of the packet to begin with; None: the first that arrives.
        header: that of the stream, if it is known already.

    Attributes:
        header: description of the stream; None until it has arrived.
        end: None until it has arrived.
        damage: what was wrong so far.
    """

    def __init__(
        self, patience: int | None, first: int | None = 0, header: Header | None = None
    ) -> None:
        self.header: Header | None = None
        self.end: End | None = None
        self.damage = Damage()
        self._patience = patience
        self._scanner = Scanner()
        self._early: list[Record] = []  # packets before the header
        self._waiting: dict[int, bytes] = {}  # payloads of packets that are not their turn yet
        self._next = first
        self._unknown = 0  # bytes before the header
        if header is not None:
            self._use(header)

    def feed(self, data: bytes, final: bool = False) -> list[tuple[int, bytes | None]]:
        """Return the packets whose turn it is: number and payload, None if lost.

        Args:
            data: the next bytes.
            final: no more will follow.

        Raises:
            ValueError: no header in the first 4 MB, or a version that this package cannot read.
        """
        for record in self._scanner.feed(data, final):
            self._take(record)
        # the magic is no record
        self.damage.skipped = max(0, self._scanner.skipped - len(records.MAGIC))
        if self.header is None:
            self._unknown += len(data)
            if final or self._unknown > _MAX_UNKNOWN:
                raise ValueError(
                    f'no header of a stream in {self._unknown} bytes: is this a file of '
                    '`audiocodec encode`?'
                )
            return []
        return self._due(self.header, final)

    def _use(self, header: Header) -> None:
        self.header = header
        for record in self._early:
            self._take_packet(record, header)
        self._early.clear()
        self._scanner.largest[records.PACKET] = header.max_packet

    def _take(self, record: Record) -> None:
        """Keep what a record says."""
        try:
            if record.kind == records.HEADER and self.header is None:
                self._use(Header.from_bytes(record.payload))
            elif record.kind == records.END:
                self.end = End.from_bytes(record.payload)
                self.damage.unfinished = False
        except DamagedError:
            self._scanner.skipped += records.FRAME_BYTES + len(record.payload)
            return
        if record.kind == records.PACKET:
            if self.header is None:
                self._early.append(record)
            else:
                self._take_packet(record, self.header)

    def _take_packet(self, record: Record, header: Header) -> None:
        if self._next is None:
            self._next = record.number
        if record.number < self._next or record.number in self._waiting:
            self.damage.repeated += 1
        elif record.number - self._next - len(self._waiting) <= header.max_gap:
            self._waiting[record.number] = record.payload

    def _due(self, header: Header, final: bool) -> list[tuple[int, bytes | None]]:
        """Return the packets whose turn it is, given up ones included."""
        due: list[tuple[int, bytes | None]] = []
        while self._waiting and self._next is not None:
            payload = self._waiting.pop(self._next, None)
            if payload is None and not final and not self._is_impatient():
                break
            due.append((self._next, payload))
            self._next += 1
        if final and self._next is not None and self.end is not None:
            total = -(-self.end.samples // header.stride)
            missing = range(self._next, min(total, self._next + header.max_gap))
            due += [(number, None) for number in missing]
        self.damage.lost += sum(payload is None for _, payload in due)
        return due

    def _is_impatient(self) -> bool:
        return self._patience is not None and len(self._waiting) > self._patience
