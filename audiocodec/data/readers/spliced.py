"""A part of a file behind some bytes, as a file of its own."""

import io
import os


class Spliced(io.RawIOBase):
    """File that consists of a prefix and of bytes [begin, end) of another file.

    Args:
        path: the other file.
        begin: its first byte.
        end: behind its last byte.
        prefix: bytes before.
    """

    def __init__(self, path: str, begin: int, end: int, prefix: bytes = b'') -> None:
        super().__init__()
        self._file = open(path, 'rb')  # noqa: SIM115
        self._begin = begin
        self._prefix = prefix
        self._size = len(prefix) + end - begin
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; see `io.IOBase.seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: 'memoryview | bytearray') -> int:  # type: ignore[override]
        """Read; see `io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast('B')
        view = view[: max(0, self._size - self._position)]
        piece = self._prefix[self._position : self._position + len(view)]
        view[: len(piece)] = piece
        read = len(piece)
        if read < len(view):
            self._file.seek(self._begin + self._position + read - len(self._prefix))
            read += self._file.readinto(view[read:])
        self._position += read
        return read

    def close(self) -> None:
        """Close both."""
        if not self.closed:
            self._file.close()
        super().close()
