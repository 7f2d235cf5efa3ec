"""Logging setup: readable lines on the terminal, plain lines in one file per worker."""

import logging
import os
import re
import sys
from pathlib import Path

from audiocodec.utils.progress import ProgressHandler

FORMAT = '%(asctime)s %(level)s%(message)s'
_ANSI = re.compile(r'\x1b\[[0-9;]*m')
_COLORS = {'DEBUG': '2', 'WARNING': '33', 'ERROR': '31', 'CRITICAL': '1;31'}


class _Formatter(logging.Formatter):
    """Formatter with colors for terminals; otherwise removes all colors, also of libraries."""

    def __init__(self, color: bool) -> None:
        super().__init__(FORMAT, datefmt='%m-%d %H:%M:%S')
        self.color = color

    def format(self, record: logging.LogRecord) -> str:
        record.level = '' if record.levelno == logging.INFO else f'{record.levelname} '
        text = super().format(record)
        if not self.color:
            return _ANSI.sub('', text)
        code = _COLORS.get(record.levelname)
        return f'\033[{code}m{text}\033[0m' if code else text


def setup(folder: str | os.PathLike[str] | None, rank: int = 0, level: str = 'INFO') -> None:
    """Send log lines to standard error (from worker 0), and append them to `solver.log.RANK`.

    Args:
        folder: folder of the log file; None: no file.
        rank: rank of this worker.
        level: the lowest level that is logged.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, 'audiocodec', False):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    handlers: list[logging.Handler] = []
    if rank == 0:
        is_terminal = sys.stderr.isatty()
        console = (ProgressHandler if is_terminal else logging.StreamHandler)(sys.stderr)
        console.setFormatter(_Formatter(color=is_terminal))
        handlers.append(console)
    if folder is not None:
        # names of files may contain bytes that are not valid text
        file = logging.FileHandler(
            Path(folder) / f'solver.log.{rank}', encoding='utf-8', errors='backslashreplace'
        )
        file.setFormatter(_Formatter(color=False))
        handlers.append(file)
    for handler in handlers:
        handler.audiocodec = True  # type: ignore[attr-defined]
        root.addHandler(handler)
