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


def check_out(
    out: str | os.PathLike[str], *, folder: bool = False, may_be_pipe: bool = False
) -> Path:
    """Check that an output can be written, before time is spent on its content.

    Args:
        out: a file, or with `folder` a folder. It and its folders may be missing.
        folder: whether the output is a folder.
        may_be_pipe: whether the file may also be a pipe or a device, which cannot be replaced.

    Returns:
        The path of the output.

    Raises:
        ValueError: there is something else, or the user may not write there.
    """
    path = Path(out)
    if folder and path.exists() and not path.is_dir():
        raise ValueError(f'{path} is a file: give a folder')
    if not folder and path.is_dir():
        raise ValueError(f'{path} is a folder: give a file')
    is_pipe = not folder and path.exists() and (not path.is_file() or _is_stream(path))
    if is_pipe and not may_be_pipe:
        raise ValueError(f'{out} is a pipe or a device: give a file')
    place = path if folder else path.resolve().parent
    while not place.exists() and place != place.parent:
        place = place.absolute().parent
    if not place.is_dir():
        raise ValueError(f'{out} cannot be created: {place} is a file')
    if not is_pipe and not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f'{out}: this user has no write permission in {place}; choose another folder'
        )
    return path


def _is_stream(path: Path) -> bool:
    """Return whether a path leads to an open file of a process, as `/dev/stdout` does."""
    for _ in range(40):  # as many links as Linux follows
        path = path.parent.resolve() / path.name
        if path.parts[1:2] == ('proc',):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`, which replaces it at the end; not after an error.

    Of a symbolic link, the file that it leads to is replaced. A killed process leaves
    `.NAME.PID.tmp`.
    """
    path = path.resolve()
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
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_bytes(data)
