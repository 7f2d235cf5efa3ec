"""Audio files in tar archives (WebDataset's shards), on disk or behind a URL.

A member is named by its archive, its first byte and size, and its name: it is read without looking
for it, `shards/a.tar/1536+88244/talk_7.flac`. Archives with a URL, such as `s3://bucket/a.tar`, are
read by fsspec (the extra `webdataset`).
"""

import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from glob import escape, glob
from typing import IO, NamedTuple, cast

import numpy as np

from audiocodec.data.readers.base import Reader

SUFFIX = '.tar'
COPY = 'audiocodec-member-'  # begins the names of copies
_ADDRESS = re.compile(
    r'(?P<tar>.+?\.tar)/(?P<begin>\d+)\+(?P<size>\d+)/(?P<name>.+)', re.DOTALL | re.IGNORECASE
)
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')  # of numbers in a name: a-{000..017}.tar
_SCHEME = re.compile(r'(\w[\w+.-]+):/+(?=[^/])')


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        tar: path or URL of the archive.
        begin: its first byte.
        size: bytes.
        name: its name, with folders.
    """

    tar: str
    begin: int
    size: int
    name: str

    @property
    def address(self) -> str:
        """Path by which `open_audio` finds it."""
        return f'{self.tar}/{self.begin}+{self.size}/{self.name}'


def find_member(path: str) -> Member | None:
    """Return the member that a path names; None for any other path."""
    match = _ADDRESS.fullmatch(path) if SUFFIX in path.lower() else None
    if match is None or os.path.exists(path):
        return None
    return Member(match['tar'], int(match['begin']), int(match['size']), match['name'])


def container(path: str) -> str:
    """Return the file that must exist for a path: the archive of a member, or the path."""
    member = find_member(path)
    return path if member is None else member.tar


def without_position(path: str) -> str:
    """Return a path that stays the same when an archive is written again."""
    member = find_member(path)
    return path if member is None else f'{member.tar}/{member.name}'


def url_of(path: str | os.PathLike[str]) -> str | None:
    """Return a URL, also after `Path` has dropped one of its slashes; None for a local path."""
    match = _SCHEME.match(os.fspath(path))
    return None if match is None else f'{match[1]}://{os.fspath(path)[match.end() :]}'


def expand(source: str | os.PathLike[str]) -> list[str]:
    """Return the archives that a source names; none if it is something else.

    Args:
        source: an archive, or several: `a-{000..017}.tar`, `*.tar`, or a folder that has archives
            at its top.

    Raises:
        ValueError: a pattern that matches no archive.
    """
    text = url_of(source) or os.fspath(source)
    if os.path.isdir(text):
        return sorted(glob(os.path.join(escape(text), f'*{SUFFIX}')))
    if not text.lower().endswith(SUFFIX):
        return []
    found = list(_expand_ranges(text))
    if url_of(source) is None and len(found) == 1 and not os.path.exists(text):
        found = sorted(glob(text))
        if not found:
            raise ValueError(f'{text}: no such archive')
    return found


def _expand_ranges(text: str) -> Iterator[str]:
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = int(match[1]), int(match[2])
    for number in range(first, last + 1):
        name = f'{text[: match.start()]}{number:0{len(match[1])}d}{text[match.end() :]}'
        yield from _expand_ranges(name)


def size_of(path: str) -> int:
    """Return the size of an archive in bytes.

    Raises:
        ValueError: it cannot be read.
    """
    with open_bytes(path) as file:
        return file.seek(0, os.SEEK_END)


def open_bytes(path: str) -> IO[bytes]:
    """Open a local file, or a URL by fsspec.

    Raises:
        ValueError: it cannot be read, or fsspec or what it needs for this URL is not installed.
    """
    try:
        if url_of(path) is None:
            return open(path, 'rb')
        import fsspec

        return cast(IO[bytes], fsspec.open(path, 'rb').open())
    except ImportError as error:
        raise ValueError(
            f"{path}: reading URLs needs the extra webdataset: pip install 'audiocodec[webdataset]'"
            f' ({error})'
        ) from error
    except Exception as error:  # of any of fsspec's many backends
        text = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(f'{path}: cannot be read: {text}') from error


def list_members(path: str, suffixes: tuple[str, ...]) -> list[Member]:
    """Return the members of an archive that end in one of the suffixes, in its order.

    Raises:
        ValueError: not an archive, damaged, or compressed (positions in it cannot be read alone).
    """
    with open_bytes(path) as file:
        try:
            with tarfile.open(fileobj=file, mode='r:') as archive:
                return [
                    Member(path, entry.offset_data, entry.size, entry.name)
                    for entry in archive
                    if entry.isreg() and entry.name.lower().endswith(suffixes)
                ]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f'{path}: cannot be read as an uncompressed tar: {error}') from error


def open_member(member: Member, open_file: Callable[[str], Reader]) -> Reader:
    """Open a member by a copy on disk, as every decoder expects; deleted when it is closed.

    Args:
        member: the file.
        open_file: opens a path.

    Raises:
        ValueError: it cannot be read; the message names the member.
    """
    with open_bytes(member.tar) as file:
        file.seek(member.begin)
        data = file.read(member.size)
    if len(data) < member.size:
        raise ValueError(f'{member.address}: is truncated: the archive ends within it')
    suffix = os.path.splitext(member.name)[1]
    copy = tempfile.NamedTemporaryFile(prefix=COPY, suffix=suffix)  # noqa: SIM115
    try:
        copy.write(data)
        copy.flush()
        return _MemberReader(member.address, open_file(copy.name), copy)
    except ValueError as error:
        copy.close()
        raise ValueError(str(error).replace(copy.name, member.address)) from error


class _MemberReader(Reader):
    """Reader of a member, by its copy."""

    def __init__(self, path: str, reader: Reader, copy: IO[bytes]) -> None:
        self.path = path
        self._reader, self._copy = reader, copy
        self.sample_rate, self.channels = reader.sample_rate, reader.channels
        self.frames, self.is_exact = reader.frames, reader.is_exact
        self.format, self.coding = reader.format, reader.coding

    def read(self, start: int, frames: int) -> np.ndarray:
        """See `Reader.read`."""
        try:
            return self._reader.read(start, frames)
        except ValueError as error:
            raise ValueError(str(error).replace(self._reader.path, self.path)) from error

    def close(self) -> None:
        """See `Reader.close`."""
        self._reader.close()
        self._copy.close()
