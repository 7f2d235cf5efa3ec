"""Files that libsndfile decodes: WAV, AIFF, CAF, AU, W64, FLAC, OGG, MP3 and others.

Where libsndfile reads less than there is, this module tells it the truth: MP3 without a length,
FLAC without a length, chained OGG.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile

from audiocodec.data.readers import mpeg, ogg
from audiocodec.data.readers.base import FileKey, Reader, file_key
from audiocodec.data.readers.spliced import Spliced

_BLOCK = 2**20  # frames decoded at a time: a damaged header may claim more than fits in memory
_UNKNOWN = 2**62  # frames from which on libsndfile says that it does not know


class SndfileReader(Reader):
    """File that libsndfile decodes.

    Args:
        path: the file.
        source: what to decode in place of the whole file.
        skip: samples at the beginning that are not part of the audio.
        frames: samples per channel where libsndfile does not know them.
        is_exact: see `Reader`; None: as the format is known for.

    Attributes:
        file: the file as soundfile has opened it.

    Raises:
        ValueError: not audio that libsndfile knows.
    """

    def __init__(
        self,
        path: str,
        source: Spliced | None = None,
        skip: int = 0,
        frames: int | None = None,
        is_exact: bool | None = None,
    ) -> None:
        self.path = path
        self._source = source
        self._skip = skip
        with _read_errors(path), _Silence.active():
            self.file = _File(as_bytes(path) if source is None else source)
        self.sample_rate = self.file.samplerate
        self.channels = self.file.channels
        self.format = self.file.format
        self.coding = self.file.subtype
        self.frames = self.file.frames - skip if frames is None else frames
        self.is_exact = not self.is_mpeg if is_exact is None else is_exact
        self._position = 0
        is_surround = self.format == 'OGG' and self.channels in ogg.TO_WAV_ORDER
        self._order = ogg.TO_WAV_ORDER[self.channels] if is_surround else None

    @property
    def is_mpeg(self) -> bool:
        """True for MP3 and MP2, also inside a WAV, whose length may be an estimate."""
        return self.coding.startswith('MPEG')

    def read(self, start: int, frames: int) -> np.ndarray:
        """See `Reader.read`."""
        # of all decoders, that of MP3 alone prints something
        silence = _Silence.active() if self.is_mpeg else nullcontext()
        with _read_errors(self.path), silence:
            if start != self._position:
                position = self._decode_from(start)
                self.file.seek(self._skip + position)
                if position < start:
                    _decode(self.file, start - position)
            elif start == 0 and self._skip:
                self.file.seek(self._skip)
            data = _decode(self.file, frames)
        self._position = start + len(data)
        return data if self._order is None else data[:, self._order]

    def close(self) -> None:
        """See `Reader.close`."""
        self.file.close()
        if self._source is not None:
            self._source.close()

    def _decode_from(self, start: int) -> int:
        """Return where to begin so that `start` decodes as in reading from the beginning."""
        if self.is_mpeg:
            return max(0, start - mpeg.reach(self.sample_rate, self.channels))
        if self.coding == 'VORBIS' and start > 0 and self._source is None:
            # libvorbisfile counts the samples of the last page back from its end, which is wrong
            # when the encoder trimmed it: a seek into the last page lands a few hundred samples
            # off. Start in the page before.
            last_page = self.frames - ogg.samples_in_last_page(self.path)
            return max(0, min(start, last_page - 1))
        return start


class ChainedReader(Reader):
    """Files one after the other in one, as of a radio stream.

    Args:
        path: the file.
        parts: its parts.

    Raises:
        ValueError: their sample rates or channels differ.
    """

    def __init__(self, path: str, parts: Sequence[SndfileReader]) -> None:
        self.path = path
        self.parts = list(parts)
        first = self.parts[0]
        for part in self.parts:
            if (part.sample_rate, part.channels) != (first.sample_rate, first.channels):
                raise ValueError(
                    f'{path}: is chained of streams that differ: {first.sample_rate} Hz with '
                    f'{first.channels} channels, {part.sample_rate} Hz with {part.channels}'
                )
        self.sample_rate, self.channels = first.sample_rate, first.channels
        self.format, self.coding = first.format, first.coding
        self.frames = sum(part.frames for part in self.parts)

    def read(self, start: int, frames: int) -> np.ndarray:
        """See `Reader.read`."""
        blocks = [np.zeros((0, self.channels), np.float32)]
        begin = 0
        for part in self.parts:
            low, high = max(start, begin), min(start + frames, begin + part.frames)
            if low < high:
                blocks.append(part.read(low - begin, high - low))
            begin += part.frames
        return np.concatenate(blocks)

    def close(self) -> None:
        """See `Reader.close`."""
        for part in self.parts:
            part.close()


def open_sndfile(path: str) -> Reader:
    """Open a file that libsndfile decodes.

    Raises:
        ValueError: it does not, or the header is damaged.
    """
    reader = SndfileReader(path)
    try:
        if reader.format == 'OGG':
            if reader.coding == 'OPUS' and reader.channels > 2:
                # libsndfile cannot seek in it
                raise ValueError(f'{path}: Opus with {reader.channels} channels is unsupported')
            parts = ogg.links(file_key(path))
            if len(parts) > 1:
                reader.close()
                return _chained(path, parts)
        if reader.format == 'VOC' and _continues(path):
            # libsndfile takes the headers of further blocks for samples
            raise ValueError(f'{path}: VOC of several blocks is unsupported')
        if reader.format == 'MP3':
            return _with_length(reader)
        if reader.frames >= _UNKNOWN:
            reader.frames = _measured(file_key(path))
    except Exception:
        reader.close()
        raise
    return reader


def _continues(path: str) -> bool:
    """Return whether the samples of a VOC file are in several blocks.

    A block begins with its type (2: more samples) and its size in three bytes; the first one is at
    the position in bytes 20 and 21 of the file.
    """
    with open(path, 'rb') as file:
        begin = int.from_bytes(file.read(22)[20:], 'little')
        file.seek(begin + 1)
        file.seek(begin + 4 + int.from_bytes(file.read(3), 'little'))
        return file.read(1) == b'\x02'


def _chained(path: str, parts: Sequence[ogg.Link]) -> Reader:
    readers: list[SndfileReader] = []
    try:
        for part in parts:
            readers.append(SndfileReader(path, Spliced(path, *part)))
        return ChainedReader(path, readers)
    except Exception:
        for reader in readers:
            reader.close()
        raise


def _with_length(reader: SndfileReader) -> Reader:
    """Return a reader of an MP3 that knows its length."""
    key = file_key(reader.path)
    stream = mpeg.scan(key)
    if stream is None or stream.has_length:
        return reader
    if stream.first.layer != 3 or stream.samples <= reader.frames:
        # a constant bit rate, for which libsndfile's estimate is good
        reader.frames = min(reader.frames, stream.samples)
        return reader
    reader.close()
    source, skip = mpeg.with_length(key, stream)
    return SndfileReader(reader.path, source, skip)


@lru_cache(4096)
def _measured(key: FileKey) -> int:
    """Return the number of samples of a file whose header does not have it."""
    with SndfileReader(key.path) as reader:
        position = 0
        while found := len(reader.read(position, _BLOCK)):
            position += found
        return position


# ---- libsndfile ----------------------------------------------------------------------------------


class _File(soundfile.SoundFile):
    """Sound file that continues reading where the last read ended, without seeking.

    soundfile seeks to the end of the last read after every read of a seekable file. In an MP3 this
    empties the bit reservoir, and every block would begin with noise.
    """

    def seekable(self) -> bool:
        """Return False; `seek` works nevertheless."""
        return False


def _decode(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """Decode the next frames of an open file, float32 [T, C]; fewer at its end."""
    blocks: list[np.ndarray] = []
    left = frames
    while True:
        blocks.append(file.read(min(left, _BLOCK), dtype='float32', always_2d=True))
        left -= len(blocks[-1])
        if left <= 0 or not len(blocks[-1]):
            return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    """Turn errors of libsndfile into a ValueError that names the file."""
    try:
        yield
    except (OSError, RuntimeError, TypeError, MemoryError) as error:
        reason = str(error).partition(': ')[2] if 'Error opening' in str(error) else str(error)
        reason = reason.strip(' .') or type(error).__name__
        # libsndfile reports an MP3 without frames in these words, although it is a regular file
        if 'not a regular file' in reason:
            reason = 'Format not recognised'
        raise ValueError(f'{path}: cannot be read as audio: {reason}') from error


class _Silence:
    """Suppresses what C code prints on standard error: libmpg123 warns at every seek in an MP3.

    Redirects file descriptor 2 only, and only while a file is being read. Thread-safe.
    """

    lock = threading.Lock()
    depth = 0
    saved = -1

    @classmethod
    @contextmanager
    def active(cls) -> Iterator[None]:
        with cls.lock:
            cls.depth += 1
            if cls.depth == 1:
                try:
                    cls.saved = os.dup(2)
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, 2)
                    os.close(null)
                except OSError:  # standard error is closed
                    cls.saved = -1
        try:
            yield
        finally:
            with cls.lock:
                cls.depth -= 1
                if cls.depth == 0 and cls.saved >= 0:
                    os.dup2(cls.saved, 2)
                    os.close(cls.saved)
                    cls.saved = -1


def as_bytes(path: str | os.PathLike[str]) -> Any:
    """Return a path for libsndfile: bytes on POSIX, where names need not be valid text."""
    return os.fsencode(path) if os.name == 'posix' else os.fspath(path)
