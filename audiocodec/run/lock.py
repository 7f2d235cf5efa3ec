"""Lock on the folder of an experiment, which the system releases however its holder ends."""

import fcntl
import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from audiocodec.utils import files
from audiocodec.utils.errors import RunError

logger = logging.getLogger(__name__)


class FolderLock:
    """Lock held from `acquire` to `release`, or to the end of the process.

    A POSIX record lock: unlike flock, it is not inherited by loader processes that outlive a killed
    run, and it works on NFS between machines. It is advisory. The process must not open the file a
    second time, because closing it would release the lock.

    Args:
        folder: folder to lock; its file `.lock` contains the lock and its holder.
        what: name for messages, e.g. 'experiment 0a1b2c3d'.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / '.lock'
        self.what = what
        self._file: IO[Any] | None = None

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            RunError: another process holds it (the message says which), or the folder is not
                writable.
        """
        try:
            file = self.path.open('a+')
        except OSError as error:
            folder = self.path.parent
            advice = files.advice(error, folder)
            raise RunError(
                f'{self.what}: cannot write in {folder}: {error.strerror}{advice}'
            ) from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            with file:
                file.seek(0)
                holder = _describe(file.read())
            raise RunError(
                f'{self.what} is already running, {holder}: two runs would overwrite each '
                f"other's files. Wait for it, stop it, or change a value; {self.path} is "
                'released when its holder ends'
            ) from error
        except OSError as error:  # a file system without locks
            logger.warning(
                '%s cannot be locked (%s): do not start the same experiment twice',
                self.path,
                error.strerror,
            )
            file.close()
            return
        self._file = file
        since = time.strftime('%Y-%m-%d %H:%M:%S')
        own = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': since}
        with suppress(OSError):  # on a full disk, the lock is held without a name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps(own).encode())

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return f'by process {holder["pid"]} on {holder["host"]} since {holder["since"]}'
    except (ValueError, KeyError, TypeError):
        return 'by an unknown process'
