"""What the header of an audio file promises, against what follows it."""

import os
import re
import struct
from typing import NamedTuple

import soundfile

# seconds of samples by which the size in a WAV header may be wrong: some writers count themselves
_SLACK = 0.1
# bytes; from here on a WAV header means that it was written before the length was known
_UNKNOWN_SIZE = 0x7FFF0000
_PLAIN, _LAWS = (
    (1, 3, 6, 7, 0xFFFE),
    (6, 7),
)  # WAV formats: integer, float, A-law, mu-law, extensible; of 8 bits
_OGG_PAGE = 65307  # bytes of the largest page
# bytes of zeros at the end of a stream, more than any page ends in: it was never written to its end
_ZEROS = 512


def header_problem(file: soundfile.SoundFile) -> str | None:
    """How a header contradicts itself or the size of the file, in words; None when it does not.

    A WAV file says redundantly how large a sample of all channels and a second are.
    """
    wav = _Wav.read(file.name)
    if wav is None:
        return None
    bits = 8 if wav.tag in _LAWS else wav.bits
    if wav.tag in _PLAIN and wav.block != wav.channels * (-(-bits // 8)):
        return (
            f'its header contradicts itself: samples of {wav.channels} x {bits} bits, together '
            f'{wav.block} bytes'
        )
    if wav.tag in _PLAIN and wav.bytes_per_second != wav.rate * wav.block:
        return (
            f'its header contradicts itself: {wav.rate} x {wav.block} bytes are '
            f'{wav.bytes_per_second} a second'
        )
    if wav.stray > _SLACK * wav.bytes_per_second:
        return (
            f'{wav.stray} bytes follow the end of its {file.frames} samples: the header was not '
            'written to its end'
        )
    return None


def promised_frames(file: soundfile.SoundFile, decoded: int) -> int | None:
    """Number of frames that a file should hold.

    Args:
        file: the file.
        decoded: number of frames found; given back where nothing can be known.

    Returns:
        The number; None where it is not known, but the file breaks off.
    """
    if file.format == 'MP3':
        # without a count the length is an estimate; with one, a frame may go to the decoder's delay
        return (
            file.frames if decoded < file.frames - 2 * 1152 and _mp3_counts(file.name) else decoded
        )
    if file.format == 'OGG':
        return None if _ogg_is_cut(file.name) else file.frames
    said = re.search(
        r'^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)', file.extra_info, re.MULTILINE
    )
    if said and int(said[1]) < _UNKNOWN_SIZE:
        promised = round(decoded * int(said[1]) / max(1, int(said[2])))
        return promised if promised - decoded > _SLACK * file.samplerate else decoded
    return file.frames


class _Wav(NamedTuple):
    """The format of a WAV file, and the bytes behind its samples that belong to no chunk."""

    tag: int
    channels: int
    rate: int
    bytes_per_second: int
    block: int
    bits: int
    stray: int

    @classmethod
    def read(cls, path: str | bytes) -> '_Wav | None':
        """None for other files, and without format or samples."""
        size = os.path.getsize(path)
        stray, has_samples = 0, False
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
                file.seek(begin + 8 + length + length % 2)
        return cls._make((*form, stray)) if form is not None and has_samples else None


def _mp3_counts(path: str | bytes) -> bool:
    """Whether an MP3 tells its length (Xing, Info or VBRI in its first frame); otherwise it is
    estimated.
    """
    with open(path, 'rb') as file:
        head = file.read(10)
        if head[:3] == b'ID3' and len(head) == 10:
            file.seek(
                10
                + sum(
                    (byte & 0x7F) << (7 * place) for place, byte in enumerate(reversed(head[6:10]))
                )
            )
        else:
            file.seek(0)
        start = file.read(4096)
    return any(mark in start for mark in (b'Xing', b'Info', b'VBRI'))


def _ogg_is_cut(path: str | bytes) -> bool:
    """Whether an OGG file ends within a page, or in zeros; see `audio._ogg_last_page` for what a
    page is.

    A page's head, 27 bytes, is followed by the table of its sizes and by as many bytes.
    """
    with open(path, 'rb') as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b''
        while end and not tail:  # the last bytes that are not all zeros
            begin = max(0, end - _OGG_PAGE)
            file.seek(begin)
            tail = file.read(end - begin).rstrip(b'\0')
            end = begin
        if size - (end + len(tail)) >= _ZEROS:
            return True
        file.seek(max(0, size - _OGG_PAGE))
        tail = file.read()
    page = tail.rfind(b'OggS')
    if page < 0:
        return False
    if len(tail) < page + 27:
        return True
    entries = tail[page + 26]
    return len(tail) < page + 27 + entries + sum(tail[page + 27 : page + 27 + entries])
