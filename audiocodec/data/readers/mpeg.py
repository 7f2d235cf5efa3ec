"""MPEG audio streams (MP3, MP2): their real length where no header tells it.

A stream is a sequence of frames, each with a header of 32 bits (ISO/IEC 11172-3, section 2.4.1.3):

    11 bits sync, 2 version, 2 layer, 1 no CRC, 4 bit rate, 2 sample rate, 1 padding, 1 private,
    2 channel mode, 2 mode extension, 4 others

An encoder may store the number of frames in the first one (Xing, Info or VBRI). Without it,
libsndfile estimates the length from the first bit rate and reads no further: of a file with a
variable bit rate, half may be missing. `with_length` prepends such a frame.
"""

import mmap
import struct
from functools import lru_cache
from typing import NamedTuple

from audiocodec.data.readers.base import FileKey
from audiocodec.data.readers.spliced import Spliced

# bit rates in kbps by (is MPEG-1, layer); MPEG-2 and 2.5 have one table for layers 2 and 3
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)  # Hz, of MPEG-1
_DIVISORS = {3: 1, 2: 2, 0: 4}  # of the sample rates, by version: MPEG-1, 2, 2.5
_MARKS = (b'Xing', b'Info', b'VBRI')
_HEADER = 4  # bytes
_NEAR = 65536  # bytes searched for the first frame, and for the next one after damaged bytes
_DECODER_DELAY = 529  # samples that decoders drop from the beginning of files with a known length


class Frame(NamedTuple):
    """Header of a frame.

    Attributes:
        header: its 32 bits.
        size: bytes of the frame.
        samples: samples per channel.
        sample_rate: Hz.
        layer: 1 to 3.
    """

    header: int
    size: int
    samples: int
    sample_rate: int
    layer: int

    @property
    def side_info(self) -> int:
        """Bytes of the side information of a frame of layer 3."""
        is_mono = (self.header >> 6) & 3 == 3
        is_mpeg1 = (self.header >> 19) & 3 == 3
        return (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)


class Stream(NamedTuple):
    """Frames of a file.

    Attributes:
        first: header of the first frame.
        begin: bytes before it.
        frames: number of complete frames.
        has_length: True if the first frame stores the length, and is not audio.
    """

    first: Frame
    begin: int
    frames: int
    has_length: bool

    @property
    def samples(self) -> int:
        """Samples per channel of all frames."""
        return self.frames * self.first.samples


def parse(header: int) -> Frame | None:
    """Read a header of 32 bits; None if it is none, or of a free bit rate."""
    version, layer = (header >> 19) & 3, 4 - ((header >> 17) & 3)
    rate_index, rate = (header >> 12) & 15, (header >> 10) & 3
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or rate_index in (0, 15) or rate == 3:
        return None
    is_mpeg1 = version == 3
    sample_rate = _RATES[rate] // _DIVISORS[version]
    bits = 1000 * _BIT_RATES[is_mpeg1, layer][rate_index - 1]
    padding = (header >> 9) & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    if layer == 1:
        size = (12 * bits // sample_rate + padding) * 4
    else:
        size = samples // 8 * bits // sample_rate + padding
    return Frame(header, size, samples, sample_rate, layer)


def reach(sample_rate: int, channels: int) -> int:
    """Return how many samples before the first one wanted must be decoded.

    A frame of layer 3 may use up to 511 bytes of earlier frames (255 at the sample rates of MPEG-2
    and 2.5), which at the lowest bit rate (32, 8 kbps) are many frames.
    """
    is_mpeg1 = sample_rate >= min(_RATES)
    samples, bits, reservoir = (1152, 32000, 511) if is_mpeg1 else (576, 8000, 255)
    side_info = (17, 32)[channels > 1] if is_mpeg1 else (9, 17)[channels > 1]
    left = samples // 8 * bits // sample_rate - _HEADER - side_info
    return samples * (-(-reservoir // max(1, left)) + 3)


@lru_cache(4096)
def scan(key: FileKey) -> Stream | None:
    """Count the frames of an MP3 or MP2 file by their headers; None if there are none."""
    if key.size < _HEADER:
        return None
    with (
        open(key.path, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        begin = _find(data, _after_tag(data), None)
        first = None if begin is None else parse(_header(data, begin))
        if begin is None or first is None:
            return None
        start = data[begin : begin + min(first.size, 512)]
        if any(mark in start for mark in _MARKS):
            return Stream(first, begin, 0, has_length=True)
        frames, position = 0, begin
        while position + _HEADER <= len(data):
            frame = parse(_header(data, position))
            if frame is None or not _is_alike(frame, first):
                found = _find(data, position + 1, first)
                if found is None:
                    break
                position = found
                continue
            position += frame.size
            frames += position <= len(data)
        return Stream(first, begin, frames, has_length=False)


def _header(data: mmap.mmap, position: int) -> int:
    return int.from_bytes(data[position : position + _HEADER], 'big')


def _after_tag(data: mmap.mmap) -> int:
    """Return where an ID3v2 tag ends, whose size has 7 bits per byte; 0 without one."""
    if data[:3] != b'ID3' or len(data) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(data[9:5:-1]))


def _is_alike(frame: Frame, other: Frame) -> bool:
    return (frame.sample_rate, frame.layer) == (other.sample_rate, other.layer)


def _find(data: mmap.mmap, position: int, like: Frame | None) -> int | None:
    """Return where the next frame begins that another one follows; None if there is none near."""
    last = position + _NEAR
    while (position := data.find(b'\xff', position, last)) >= 0:
        frame = parse(_header(data, position))
        if frame is not None and (like is None or _is_alike(frame, like)):
            after = position + frame.size
            following = parse(_header(data, after)) if after + _HEADER <= len(data) else frame
            if following is not None and _is_alike(following, frame):
                return position
        position += 1
    return None


def with_length(key: FileKey, stream: Stream) -> tuple[Spliced, int]:
    """Return an MP3 of layer 3 as a file that stores its length.

    A silent frame follows the one with the length, since decoders drop the first samples of such
    files: what is dropped is silence.

    Returns:
        The file, and the number of samples of silence that are left.
    """
    frame = stream.first
    # the highest bit rate has room for everything; without CRC and padding
    largest = parse((frame.header | 1 << 16) & ~(1 << 9 | 15 << 12) | 14 << 12)
    assert largest is not None
    silence = bytearray(largest.size)
    silence[:_HEADER] = largest.header.to_bytes(_HEADER, 'big')
    length = silence.copy()
    begin = _HEADER + frame.side_info
    length[begin : begin + 12] = b'Xing' + struct.pack('>II', 1, stream.frames + 1)
    file = Spliced(key.path, stream.begin, key.size, bytes(length + silence))
    return file, frame.samples - _DECODER_DELAY
