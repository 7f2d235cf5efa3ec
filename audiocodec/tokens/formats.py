"""Files of tokens: how the codes of a shard are written, and one item of them is read.

Equal items give equal bytes. Reading an item maps or reads its part of the file only.
"""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any, NamedTuple

import numpy as np

from audiocodec.data.manifest import printable
from audiocodec.utils.errors import require

_OPEN = 64  # files that stay open, in each process
_ROWS = 16  # items in a row group of Parquet


class Item(NamedTuple):
    """Codes of a file.

    Attributes:
        number: its place in the source, from 0.
        codes: [K, T_frames].
        info: its entry in the index, without the place.
    """

    number: int
    codes: np.ndarray
    info: dict[str, Any]


class Format(ABC):
    """A format of shards.

    Attributes:
        suffix: of its files.
        packages: optional packages that it needs, of the extra of its name.
    """

    suffix: str
    packages: tuple[str, ...] = ()

    @abstractmethod
    def write(self, file: IO[bytes], items: Sequence[Item], head: str) -> list[int]:
        """Write a shard.

        Args:
            file: file to write to.
            items: at least one.
            head: description of model and codes, JSON.

        Returns:
            The offset of each item, for `read`.
        """

    @abstractmethod
    def read(self, path: str, offset: int, begin: int, end: int) -> np.ndarray:
        """Return the frames from `begin` to `end` of the item at an offset, [K, T_frames]."""


class Npy(Format):
    """NumPy array [frames of all items, K]; the offset of an item is its first frame."""

    suffix = '.npy'

    def write(self, file: IO[bytes], items: Sequence[Item], head: str) -> list[int]:
        """See `Format`."""
        np.save(file, _joined(items))
        return _first_frames(items)

    def read(self, path: str, offset: int, begin: int, end: int) -> np.ndarray:
        """See `Format`."""
        return _mapped(path)[offset + begin : offset + end].T


class Safetensors(Format):
    """Tensor `codes` [frames of all items, K]; the offset of an item is its first frame."""

    suffix = '.safetensors'

    def write(self, file: IO[bytes], items: Sequence[Item], head: str) -> list[int]:
        """See `Format`."""
        from safetensors.numpy import save

        # one key: the order of several would be random
        file.write(save({'codes': _joined(items)}, {'audiocodec': head}))
        return _first_frames(items)

    def read(self, path: str, offset: int, begin: int, end: int) -> np.ndarray:
        """See `Format`."""
        return np.asarray(_opened(path).get_slice('codes')[offset + begin : offset + end]).T


class WebDataset(Format):
    """Tar archive with NUMBER.npy [K, T_frames] and NUMBER.json (its entry in the index).

    The offset of an item is that of the content of its .npy in the archive, in bytes.
    """

    suffix = '.tar'

    def write(self, file: IO[bytes], items: Sequence[Item], head: str) -> list[int]:
        """See `Format`."""
        offsets = []
        with tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as archive:
            for item in items:
                codes = io.BytesIO()
                np.save(codes, np.ascontiguousarray(item.codes))
                text = json.dumps(item.info).encode()
                # WebDataset takes the members of an item from one row
                _add(archive, f'{item.number:09d}.json', text)
                offsets.append(_add(archive, f'{item.number:09d}.npy', codes.getvalue()))
        return offsets

    def read(self, path: str, offset: int, begin: int, end: int) -> np.ndarray:
        """See `Format`."""
        with open(path, 'rb') as file:
            file.seek(offset)
            return np.load(file)[:, begin:end]


class Parquet(Format):
    """Table with a row per item: its entry in the index, and `codes`, a list of K lists.

    The offset of an item is its row.
    """

    suffix = '.parquet'
    packages = ('pyarrow',)

    def write(self, file: IO[bytes], items: Sequence[Item], head: str) -> list[int]:
        """See `Format`."""
        import pyarrow as pa
        from pyarrow import parquet

        code = pa.from_numpy_dtype(items[0].codes.dtype)
        columns: dict[str, Any] = {
            name: pa.array([item.info[name] for item in items])
            for name in items[0].info
            if name != 'path'
        }
        paths = pa.array([printable(item.info['path']) for item in items])
        codes = pa.array([list(item.codes) for item in items], pa.list_(pa.list_(code)))
        table = pa.table({'path': paths, **columns, 'codes': codes})
        table = table.replace_schema_metadata({'audiocodec': head})
        parquet.write_table(table, file, row_group_size=_ROWS, compression='zstd')
        return list(range(len(items)))

    def read(self, path: str, offset: int, begin: int, end: int) -> np.ndarray:
        """See `Format`."""
        group = _table(path).read_row_group(offset // _ROWS, columns=['codes'])
        rows = group.column('codes')[offset % _ROWS].values
        return np.stack([row.values.to_numpy()[begin:end] for row in rows])


FORMATS: dict[str, Format] = {
    'safetensors': Safetensors(),
    'npy': Npy(),
    'webdataset': WebDataset(),
    'parquet': Parquet(),
}


def get_format(name: str) -> Format:
    """Return a format.

    Raises:
        ValueError: no such format, or a package that it needs is missing.
    """
    if name not in FORMATS:
        raise ValueError(f'format {name!r}: expected one of {", ".join(FORMATS)}')
    require(f'the format {name}', name, *FORMATS[name].packages)
    return FORMATS[name]


def _joined(items: Sequence[Item]) -> np.ndarray:
    """Return the codes of all items, [frames, K]."""
    return np.ascontiguousarray(np.concatenate([item.codes.T for item in items]))


def _first_frames(items: Sequence[Item]) -> list[int]:
    ends = np.cumsum([item.codes.shape[1] for item in items])
    return [0, *ends[:-1].tolist()]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member, and return the position of its content; times and owners are 0."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return archive.offset - blocks * tarfile.BLOCKSIZE


@lru_cache(_OPEN)
def _mapped(path: str) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode='r')
    return array


@lru_cache(_OPEN)
def _opened(path: str) -> Any:
    from safetensors import safe_open

    return safe_open(path, 'np')


@lru_cache(_OPEN)
def _table(path: str) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path, memory_map=True)
