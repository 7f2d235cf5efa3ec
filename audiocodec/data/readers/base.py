"""Interface of open audio files, whichever library decodes them."""

import os
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

# Headers beyond these limits are taken as damaged.
SAMPLE_RATES = (1_000, 768_000)  # Hz
MAX_CHANNELS = 64


class FileKey(NamedTuple):
    """What tells the content of a file apart, for caches."""

    path: str
    size: int
    mtime: int  # ns


def file_key(path: str) -> FileKey:
    """Return the key of a file, which changes when it is written."""
    status = os.stat(path)
    return FileKey(path, status.st_size, status.st_mtime_ns)


class Reader(ABC):
    """An audio file that is open for reading. A context manager.

    Attributes:
        path: the file.
        sample_rate: Hz.
        channels: number of channels.
        frames: samples per channel.
        is_exact: False if `frames` is an estimate, of which the end may be missing.
        format: container, such as 'WAV' or 'MP3'.
        coding: encoding of the samples, such as 'PCM_16'.
    """

    path: str
    sample_rate: int
    channels: int
    frames: int
    is_exact: bool = True
    format: str
    coding: str

    def check(self) -> None:
        """Check the header.

        Raises:
            ValueError: a sample rate or number of channels that is not credible.
        """
        low, high = SAMPLE_RATES
        if not low <= self.sample_rate <= high:
            raise ValueError(
                f'{self.path}: the header says {self.sample_rate} Hz; expected {low} to {high}'
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(
                f'{self.path}: the header says {self.channels} channels; expected at most '
                f'{MAX_CHANNELS}'
            )

    @abstractmethod
    def read(self, start: int, frames: int) -> np.ndarray:
        """Decode samples; whatever was read before, the result is the same.

        Args:
            start: first sample.
            frames: number of samples.

        Returns:
            float32 [T, C]; fewer at the end of the file.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> 'Reader':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
