"""OGG files: their pages, and the streams of which chained ones consist.

A page (RFC 3533, section 6) begins with 'OggS', version 0, flags (2: first page of a stream), the
64-bit position in samples of its end (-1: no packet ends in it), the 32-bit number of its stream,
sequence number and checksum, and the number of entries in the table of segment sizes.
"""

import io
import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from audiocodec.data.readers.base import FileKey

# for each number of channels, where the channels of a WAV file are in Vorbis (Vorbis I, 4.3.9)
TO_WAV_ORDER = {
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 5, 3, 4],
    7: [0, 2, 1, 6, 5, 3, 4],
    8: [0, 2, 1, 7, 5, 6, 3, 4],
}
PAGE = 65307  # bytes of the largest page
_HEADER = 27  # bytes before the table of segment sizes
_FIRST = 2  # flag of the first page of a stream


class Page(NamedTuple):
    """Header of a page.

    Attributes:
        position: of the page, in bytes.
        flags: see above.
        end: position of its end, in samples.
        stream: number of its stream.
    """

    position: int
    flags: int
    end: int
    stream: int


class Link(NamedTuple):
    """One of the files of which a chained file consists: bytes [begin, end)."""

    begin: int
    end: int


def pages_at_the_end(path: str | bytes) -> Iterator[Page]:
    """Yield the pages in the last bytes, which hold at least two, the last one first."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - 2 * PAGE)
        file.seek(begin)
        tail = file.read()
    position = tail.rfind(b'OggS')
    while position >= 0:
        page = _parse(tail[position : position + _HEADER], begin + position)
        if page is not None:
            yield page
        position = tail.rfind(b'OggS', 0, position)


def _parse(header: bytes, position: int) -> Page | None:
    if len(header) < 18 or header[4] != 0 or header[5] >= 8:
        return None
    end, stream = struct.unpack_from('<qI', header, 6)
    return Page(position, header[5], end, stream)


def samples_in_last_page(path: str | bytes) -> int:
    """Return the number of samples in the last page of a stream; 2^62 if it is the only page."""
    ends: list[Page] = []
    for page in pages_at_the_end(path):
        if page.end >= 0 and (not ends or ends[0].stream == page.stream):
            ends.append(page)
        if len(ends) == 2:
            return ends[0].end - ends[1].end
    return 1 << 62


@lru_cache(4096)
def links(key: FileKey) -> list[Link]:
    """Return the files of which a file consists: one, unless it is chained."""
    with open(key.path, 'rb') as file:
        first = _parse(file.read(_HEADER), 0)
        last = next(pages_at_the_end(key.path), None)
        if first is None or last is None or last.stream == first.stream:
            return [Link(0, key.size)]
        begins = [0]
        in_header = True  # the first pages of all streams of a link precede the others
        for page in _pages(file):
            if page.flags & _FIRST and not in_header:
                begins.append(page.position)
            in_header = bool(page.flags & _FIRST)
        return [Link(begin, end) for begin, end in zip(begins, [*begins[1:], key.size])]


def _pages(file: io.BufferedReader) -> Iterator[Page]:
    """Yield the pages of a file, up to the first damage."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(_HEADER)
        page = _parse(header, position) if len(header) == _HEADER else None
        if page is None or header[:4] != b'OggS':
            return
        yield page
        position += _HEADER + header[26] + sum(file.read(header[26]))
