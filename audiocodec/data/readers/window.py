"""Parts of files, named by a path with a time: `talk.flac#t=10.5,12` (W3C Media Fragments 1.0)."""

import os
import re
from typing import NamedTuple

import numpy as np

from audiocodec.data.readers.base import Reader

_PLACE = re.compile(r'(?P<path>.+)#t=(?P<start>\d+(?:\.\d+)?),(?P<end>\d+(?:\.\d+)?)', re.DOTALL)
_TOLERANCE = 0.05  # seconds by which a part may reach beyond the end of its file


class Place(NamedTuple):
    """File, and the part of it, in seconds; None for all of it."""

    path: str
    start: float | None = None
    end: float | None = None


def name_part(path: str, start: float, end: float) -> str:
    """Return the path of a part of a file, from `start` to `end` seconds."""
    return f'{path}#t={_seconds(start)},{_seconds(end)}'


def _seconds(value: float) -> str:
    text = f'{value:.9f}'
    return text.rstrip('0').rstrip('.')


def find_part(path: str) -> Place:
    """Return the file of a path, and the part that it names."""
    match = _PLACE.fullmatch(path) if '#t=' in path else None
    if match is None or os.path.exists(path):  # a file may be called like this
        return Place(path)
    return Place(match['path'], float(match['start']), float(match['end']))


def file_of(path: str) -> str:
    """Return the file of a path that may name a part of it."""
    return find_part(path).path


class PartReader(Reader):
    """Part of a file.

    Args:
        path: its path.
        reader: the whole file; closed with this one.
        start: seconds.
        end: seconds.

    Raises:
        ValueError: it begins after the end of the file.
    """

    def __init__(self, path: str, reader: Reader, start: float, end: float) -> None:
        self.path = path
        self.reader = reader
        self.sample_rate = reader.sample_rate
        self.channels = reader.channels
        self.is_exact = reader.is_exact
        self.format = reader.format
        self.coding = reader.coding
        self._begin = round(start * reader.sample_rate)
        last = round(end * reader.sample_rate)
        if reader.frames < last <= reader.frames + _TOLERANCE * reader.sample_rate:
            last = reader.frames
        self.frames = last - self._begin
        if self._begin >= reader.frames or self.frames <= 0:
            length = reader.frames / reader.sample_rate
            raise ValueError(f'{path}: its file is {length:.2f} s long')

    def read(self, start: int, frames: int) -> np.ndarray:
        """See `Reader.read`."""
        end = min(self._begin + min(start + frames, self.frames), self.reader.frames)
        begin = self._begin + start
        if begin >= end:
            return np.zeros((0, self.channels), np.float32)
        return self.reader.read(begin, end - begin)

    def close(self) -> None:
        """See `Reader.close`."""
        self.reader.close()
