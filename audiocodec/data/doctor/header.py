"""Consistency of audio file headers: with themselves, and with the size of the file."""

import os
import re
import struct
from typing import NamedTuple

from audiocodec.data.readers import Reader, file_of, mpeg
from audiocodec.data.readers.base import file_key
from audiocodec.data.readers.ogg import PAGE
from audiocodec.data.readers.sndfile import SndfileReader

# seconds of samples by which the size in a WAV header may be off: some writers include the header
_SLACK = 0.1
# bytes; a WAV header with this size or more was written before the length was known
_UNKNOWN_SIZE = 0x7FFF0000
_PLAIN = (1, 3, 6, 7, 0xFFFE)  # WAV formats: integer, float, A-law, mu-law, extensible
_LAWS = (6, 7)  # WAV formats of 8 bits: A-law, mu-law
# bytes of zeros at the end of a stream that was not written to its end; no page ends in so many
_ZEROS = 512


def header_problem(file: Reader) -> str | None:
    """Describe how a header contradicts itself or the file size; None if it is consistent.

    A WAV header redundantly stores the bytes per sample (of all channels) and per second.
    """
    wav = _Wav.read(file_of(file.path))
    if wav is None:
        return None
    bits = 8 if wav.tag in _LAWS else wav.bits
    if wav.tag in _PLAIN and wav.block != wav.channels * (-(-bits // 8)):
        return (
            f'inconsistent header: {wav.channels} channel(s) of {bits} bits in blocks of '
            f'{wav.block} bytes'
        )
    if wav.tag in _PLAIN and wav.bytes_per_second != wav.rate * wav.block:
        return (
            f'inconsistent header: {wav.rate} Hz with blocks of {wav.block} bytes, but '
            f'{wav.bytes_per_second} bytes per second'
        )
    if wav.stray > _SLACK * wav.bytes_per_second:
        return (
            f'{wav.stray} bytes follow the {file.frames} samples in the header: the header was '
            'not finalized'
        )
    return None


def promised_frames(file: Reader, decoded: int) -> int | None:
    """Return the number of frames that a file should have.

    Args:
        file: the file.
        decoded: number of frames found; returned if the right number cannot be known.

    Returns:
        The number; None if it is unknown but the file is truncated.
    """
    if not isinstance(file, SndfileReader):
        return file.frames
    if file.is_mpeg:
        # without a count, the length is an estimate; with one, the decoder delay may take a frame
        stream = mpeg.scan(file_key(file.path)) if file.format == 'MP3' else None
        is_short = decoded < file.frames - 2 * 1152 and stream is not None and stream.has_length
        return file.frames if is_short else decoded
    if file.format == 'OGG':
        return None if _ogg_is_truncated(file.path) else file.frames
    # libsndfile shortens the data chunk to the file, and logs the size in the header
    sizes = re.search(
        r'^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)', file.file.extra_info, re.MULTILINE
    )
    if sizes and int(sizes[1]) < _UNKNOWN_SIZE:
        promised = round(decoded * int(sizes[1]) / max(1, int(sizes[2])))
        return promised if promised - decoded > _SLACK * file.sample_rate else decoded
    return file.frames


class _Wav(NamedTuple):
    """Format of a WAV file, and the number of bytes after its samples outside any chunk."""

    tag: int
    channels: int
    rate: int
    bytes_per_second: int
    block: int
    bits: int
    stray: int

    @classmethod
    def read(cls, path: str | bytes) -> '_Wav | None':
        """Read the format; None for other files, or without a format or samples."""
        size = os.path.getsize(path)
        stray = 0
        has_samples = False
        form: tuple[int, ...] | None = None
        with open(path, 'rb') as file:
            if file.read(4) != b'RIFF' or file.seek(12) != 12:
                return None
            while size - file.tell() >= 8 and not stray:
                begin = file.tell()
                name, length = struct.unpack('<4sI', file.read(8))
                if not name.isascii() or not name.decode().isprintable():
                    stray = size - begin
                elif name == b'fmt ' and length >= 16 and size - file.tell() >= 16:
                    form = struct.unpack('<HHIIHH', file.read(16))
                has_samples = has_samples or name == b'data'
                file.seek(begin + 8 + length + length % 2)  # chunks are padded to even lengths
        return cls._make((*form, stray)) if form is not None and has_samples else None


def _ogg_is_truncated(path: str | bytes) -> bool:
    """Return whether an OGG file ends within a page or in zeros (see `readers.ogg`).

    A page consists of a header of 27 bytes, a table of segment sizes, and the segments.
    """
    with open(path, 'rb') as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b''
        while end and not tail:  # find the last bytes that are not all zeros
            begin = max(0, end - PAGE)
            file.seek(begin)
            tail = file.read(end - begin).rstrip(b'\0')
            end = begin
        if size - (end + len(tail)) >= _ZEROS:
            return True
        file.seek(max(0, size - PAGE))
        tail = file.read()
    page = tail.rfind(b'OggS')
    if page < 0:
        return False
    if len(tail) < page + 27:
        return True
    entries = tail[page + 26]
    return len(tail) < page + 27 + entries + sum(tail[page + 27 : page + 27 + entries])
