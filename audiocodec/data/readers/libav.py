"""Files that FFmpeg's libraries decode, by PyAV (the extra `av`): AAC, Opus in WebM, WMA, video.

Many codecs have a state that reaches far back, and after a seek decode another noise than before.
Reading is therefore defined by blocks: a block of ten seconds begins two seconds earlier, and what
is read is the same whatever was read before. The places to begin are found by decoding the file
once, and are kept in the user's cache folder.
"""

import hashlib
import io
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from audiocodec.data.readers import tar
from audiocodec.data.readers.base import FileKey, Reader, file_key
from audiocodec.utils.files import write_bytes
from audiocodec.utils.paths import cache_folder

logger = logging.getLogger(__name__)

# suffixes of files in formats that libsndfile does not know; video has its audio here too
EXTENSIONS = (
    '.m4a', '.m4b', '.mp4', '.mov', '.3gp', '.aac', '.ac3', '.eac3', '.wma', '.asf', '.webm',
    '.mka', '.mkv', '.avi', '.flv', '.ts', '.mpg', '.mpeg', '.spx', '.wv', '.ape', '.tta', '.amr',
    '.dsf',
)  # fmt: skip
# demuxers of such files; others, as for subtitles and images, read almost anything
_FORMATS = frozenset(
    (
        'aac', 'ac3', 'aiff', 'amr', 'ape', 'asf', 'avi', 'caf', 'dsf', 'eac3', 'flac', 'flv',
        'matroska', 'mov', 'mp3', 'mpeg', 'mpegts', 'nistsphere', 'ogg', 'tta', 'w64', 'wav',
        'voc', 'webm', 'wv',
    )
)  # fmt: skip
_BLOCK = 10.0  # seconds
_BEFORE = 2.0  # seconds decoded before a block, after which decoders have forgotten how they began
_SPACING = 0.25  # seconds between the places at which decoding can begin
_VERSION = 1  # of the files in the cache
_TABLES = 1024  # kept in memory


class Table(NamedTuple):
    """Where decoding of a file can begin.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        frames: samples per channel.
        format: container.
        coding: codec.
        by_position: whether `keys` are byte positions of packets; else their time stamps.
        keys: [N], which packet; ascending.
        stamps: [N], time stamps of these packets, to seek to.
        starts: [N], samples decoded before each packet.
    """

    sample_rate: int
    channels: int
    frames: int
    format: str
    coding: str
    by_position: bool
    keys: np.ndarray
    stamps: np.ndarray
    starts: np.ndarray


class LibavReader(Reader):
    """File that FFmpeg's libraries decode; of a video, its first audio stream.

    Raises:
        ValueError: not audio, or without samples.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with _read_errors(path):
            self.table = _table(file_key(path))
        self.sample_rate = self.table.sample_rate
        self.channels = self.table.channels
        self.frames = self.table.frames
        self.format = self.table.format.upper()
        self.coding = self.table.coding.upper()
        self._block: tuple[int, np.ndarray] | None = None  # the last one: reading goes on in it

    def read(self, start: int, frames: int) -> np.ndarray:
        """See `Reader.read`."""
        end = min(start + frames, self.frames)
        size = round(_BLOCK * self.sample_rate)
        parts = [np.zeros((0, self.channels), np.float32)]
        for number in range(start // size, -(-end // size)):
            block = self._decoded(number, min(end - number * size, size))
            parts.append(block[max(0, start - number * size) : end - number * size])
        return np.concatenate(parts)

    def close(self) -> None:
        """See `Reader.close`."""
        self._block = None

    def _decoded(self, number: int, frames: int) -> np.ndarray:
        """Return at least the first `frames` samples of a block."""
        if self._block is None or self._block[0] != number or len(self._block[1]) < frames:
            size = round(_BLOCK * self.sample_rate)
            begin = number * size
            # a whole block, if reading has come from the one before
            goes_on = self._block is not None and self._block[0] in (number, number - 1)
            wanted = min(size, self.frames - begin) if goes_on else frames
            with _read_errors(self.path):
                self._block = (number, _decode_block(self.path, self.table, begin, wanted))
        return self._block[1]


def _decode_block(path: str, table: Table, begin: int, frames: int) -> np.ndarray:
    """Return samples [begin, begin + frames), by decoding from a fixed place before."""
    first = begin - round(_BEFORE * table.sample_rate)
    entry = int(np.searchsorted(table.starts, first, 'right')) - 1
    # the position is known from the next entry on: after a seek, a packet may decode to less
    if entry >= 1 and first > 0:
        found = _decode_from(path, table, entry, begin, frames)
        if found is not None:
            return found
    found = _decode_from(path, table, None, begin, frames)
    assert found is not None
    return found


def _decode_from(
    path: str, table: Table, entry: int | None, begin: int, frames: int
) -> np.ndarray | None:
    """Decode from an entry of the table, or from the beginning of the file.

    Returns:
        float32 [T, C]; None if the packets after a seek are not those of the table.
    """
    parts: list[np.ndarray] = []
    position = 0 if entry is None else -1  # of the next sample; -1: not known yet
    expected = (
        {} if entry is None else dict(zip(table.keys[entry + 1 :], table.starts[entry + 1 :]))
    )
    with _open(path) as (container, stream):
        decoder = _Decoder(stream)
        if entry is not None:
            container.seek(int(table.stamps[entry]), stream=stream)
        for packet in container.demux(stream):
            place = expected.get(_key(packet, table.by_position))
            if place is not None:
                if position not in (-1, place):
                    return None
                position = int(place)
            elif position == -1 and packet.size == 0:
                return None  # the end
            for frame, count in decoder.frames(packet):
                if position < 0:
                    continue
                if position > begin and not parts:
                    return None
                low, high = max(begin, position), min(begin + frames, position + count)
                if low < high:
                    parts.append(_as_float(frame)[low - position : high - position])
                position += count
            if position >= begin + frames:
                break
    return np.concatenate(parts) if parts else np.zeros((0, table.channels), np.float32)


def _key(packet: Any, by_position: bool) -> int | None:
    key = packet.pos if by_position else packet.pts
    return None if key is None else int(key)


class _Decoder:
    """Decodes the packets of a stream one by one.

    Args:
        stream: an audio stream of PyAV.
    """

    def __init__(self, stream: Any) -> None:
        self._context = stream.codec_context
        self.sample_rate = int(self._context.sample_rate)
        self.channels = int(self._context.layout.nb_channels)
        # the last packet of an MP4 may be padded
        is_mp4 = 'mp4' in stream.container.format.name.split(',')
        self._is_cut = is_mp4 and stream.time_base * self.sample_rate == 1

    def frames(self, packet: Any) -> Iterator[tuple[Any, int]]:
        """Yield the frames of a packet, and how many of their samples are audio."""
        for frame in self._context.decode(packet):
            if frame.sample_rate != self.sample_rate:
                raise ValueError('its sample rate changes')
            if frame.layout.nb_channels != self.channels:
                raise ValueError('its number of channels changes')
            is_cut = self._is_cut and packet.duration
            yield frame, min(frame.samples, packet.duration) if is_cut else frame.samples


def _as_float(frame: Any) -> np.ndarray:
    """Return the samples of a frame as float32 [T, C]."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == 'i':
        array = array / np.float64(2 ** (8 * array.dtype.itemsize - 1))
    return np.ascontiguousarray(array.T, dtype=np.float32)


# ---- tables --------------------------------------------------------------------------------------


@lru_cache(_TABLES)
def _table(key: FileKey) -> Table:
    """Return the table of a file: from the cache, or by decoding it."""
    name = hashlib.sha256(repr((_VERSION, *key)).encode('utf-8', 'surrogateescape')).hexdigest()
    is_copy = os.path.basename(key.path).startswith(tar.COPY)  # found again by another name
    folder = None if is_copy else cache_folder('libav')
    path = None if folder is None else folder / f'{name[:32]}.npz'
    if path is not None and path.exists():
        with suppress(Exception):  # whatever is wrong with a cache, the file can be decoded again
            return _load(path)
    table = _build(key.path)
    if path is not None:
        try:
            content = io.BytesIO()
            np.savez_compressed(content, **table._asdict())
            write_bytes(path, content.getvalue())
        except OSError as error:
            logger.info('the places in %s are not cached: %s', key.path, error)
    return table


def _load(path: os.PathLike[str]) -> Table:
    with open(path, 'rb') as file, np.load(file) as content:
        values = {name: content[name] for name in Table._fields}
    plain = {name: value if value.ndim else value.item() for name, value in values.items()}
    return Table(**plain)


class _Place(NamedTuple):
    """A packet: its position in bytes, its time stamp, and the samples decoded before it."""

    position: int
    stamp: int
    start: int


def _build(path: str) -> Table:
    """Decode a file, and note where packets begin."""
    rows: list[_Place] = []
    total = 0
    with _open(path) as (container, stream):
        decoder = _Decoder(stream)
        spacing = _SPACING * decoder.sample_rate
        for packet in container.demux(stream):
            is_known = packet.size and packet.pts is not None and packet.pos is not None
            if is_known and (not rows or total - rows[-1].start >= spacing):
                rows.append(_Place(packet.pos, packet.pts, total))
            total += sum(count for _, count in decoder.frames(packet))
        if total == 0:
            raise ValueError('contains no samples')
        # byte positions tell packets apart for certain; in OGG many packets have that of their page
        by_position = _ascend([row.position for row in rows])
        if not by_position and not _ascend([row.stamp for row in rows]):
            rows = []  # this file is decoded from its beginning
        return Table(
            decoder.sample_rate,
            decoder.channels,
            total,
            container.format.name.split(',')[0],
            stream.codec_context.codec.name,
            by_position,
            np.array([row.position if by_position else row.stamp for row in rows], np.int64),
            np.array([row.stamp for row in rows], np.int64),
            np.array([row.start for row in rows], np.int64),
        )


def _ascend(values: Sequence[int]) -> bool:
    return all(first < second for first, second in itertools.pairwise(values))


# ---- FFmpeg --------------------------------------------------------------------------------------


@lru_cache(1)  # asked for at every opening of such a file
def version() -> str | None:
    """Return the version of PyAV, without importing it; None if it is not installed."""
    try:
        return metadata.version('av')
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _open(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file, and yield the container and its first audio stream."""
    import av

    av.logging.set_level(av.logging.PANIC)
    with av.open(path, metadata_errors='replace') as container:
        names = set(container.format.name.split(','))
        if not names & _FORMATS:
            raise ValueError('Format not recognised')
        if not container.streams.audio:
            raise ValueError('has no audio')
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1  # packets come back one by one
        yield container, stream


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    """Turn errors of PyAV into a ValueError that names the file."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, MemoryError, LookupError) as error:
        text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        raise ValueError(f'{path}: cannot be read as audio: {text}') from error
