"""Tokens as a data set of PyTorch, for training language models."""

import json
import mmap
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from audiocodec.tokens.folder import INDEX, read_head
from audiocodec.tokens.formats import get_format


class TokenItem(NamedTuple):
    """Codes of a file, or of a segment of it.

    Attributes:
        codes: int64 [K, T_frames].
        info: its entry in the index: path, duration (s), sample_rate (Hz) ..., and `start`, the
            first frame of the segment.
    """

    codes: torch.Tensor
    info: dict[str, Any]


class TokenDataset(Dataset[TokenItem]):
    """Items of a folder that `audiocodec tokens` has made, in the order of the source.

    An item is read from its part of a shard. Memory grows by a few bytes per file.

    Args:
        folder: the folder.
        min_frames: leave out shorter files.
        max_frames: leave out longer files; None: no limit.
        segment_frames: return a segment of this length, drawn from the file with PyTorch's random
            generator; all of a shorter file. None: whole files.

    Attributes:
        head: content of `tokens.json`: model, sample_rate, frame_rate, cardinality, num_codebooks,
            kbps and more.

    Raises:
        ValueError: no complete folder of tokens, or no item of the lengths.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        min_frames: int = 1,
        max_frames: int | None = None,
        segment_frames: int | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.head = read_head(self.folder)
        self.segment_frames = segment_frames
        if segment_frames is not None and segment_frames < 1:
            raise ValueError(f'segment_frames={segment_frames}: expected at least 1')
        self._format = get_format(self.head['format'])
        _check_sizes(self.folder, self.head['shards'])
        # positions of the entries in the index
        ends, frames = [0], []
        with open(self.folder / INDEX, 'rb') as lines:
            for line in lines:
                ends.append(ends[-1] + len(line))
                frames.append(json.loads(line)['frames'])
        lengths = np.array(frames, dtype=np.int64)
        kept = lengths >= min_frames
        if max_frames is not None:
            kept &= lengths <= max_frames
        if not kept.any():
            raise ValueError(
                f'{self.folder}: none of its {len(lengths)} items has from {min_frames} to '
                f'{max_frames or "any number of"} frames'
            )
        self._begins = np.array(ends[:-1], dtype=np.int64)[kept]
        self.frames = lengths[kept]  # of each item

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> TokenItem:
        info = self.info(index)
        begin, end = 0, info['frames']
        if self.segment_frames is not None and self.segment_frames < end:
            begin = int(torch.randint(end - self.segment_frames + 1, ()))
            end = begin + self.segment_frames
        path = str(self.folder / info['shard'])
        codes = self._format.read(path, info['offset'], begin, end)
        return TokenItem(torch.from_numpy(codes.astype(np.int64)), {**info, 'start': begin})

    def info(self, index: int) -> dict[str, Any]:
        """Return the entry of an item in the index."""
        content = _index(str(self.folder / INDEX))
        begin = int(self._begins[index])
        end = content.find(b'\n', begin)
        entry: dict[str, Any] = json.loads(content[begin:end])
        return entry


def _check_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Raise ValueError if a shard is missing or cut."""
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise ValueError(f'{path} has {found} bytes instead of {size}: copy it again')


@lru_cache(16)
def _index(path: str) -> Any:
    with open(path, 'rb') as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
