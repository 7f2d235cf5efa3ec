"""Writing files on any file system, including network and FUSE mounts; advice on write errors."""

import errno
import gzip
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# errors of file systems for calls that they do not support
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def flush(file: IO[Any]) -> None:
    """Flush a file to the disk, if its file system supports that.

    Raises:
        OSError: the disk is full or failed.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def flush_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power loss, if the file system supports that."""
    with suppress(OSError):  # the file is renamed in any case
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def advice(error: OSError, folder: Path) -> str:
    """Return what to do about a write error in `folder`, as the end of a message, or ''."""
    if error.errno == errno.ENOSPC:
        return f': free space on the disk of {folder}{_free(folder)} and start again'
    if error.errno == errno.EDQUOT:
        return f": free space in {folder}, or have this user's quota raised, and start again"
    if error.errno == errno.EROFS:
        return f': {folder} is mounted read-only; choose another folder'
    if error.errno in (errno.EACCES, errno.EPERM):
        return f': this user has no write permission in {folder}; choose another folder'
    return ''


def _free(folder: Path) -> str:
    with suppress(OSError):
        return f' ({shutil.disk_usage(folder).free / 1e6:.0f} MB are free)'
    return ''


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`, which replaces it at the end; not after an error.

    A killed process leaves `.NAME.PID.tmp`.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; gzipped if it ends in '.gz' (equal content gives equal bytes)."""
    if path.suffix.lower() == '.gz':
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode='wb', mtime=0, filename='') as file:
            file.write(data)
        data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_bytes(data)
