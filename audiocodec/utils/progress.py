"""Progress of a loop: tqdm's bar on a terminal, evenly spaced lines in the log.

In addition to tqdm: metrics that are read only when shown, because reading them waits for the GPU,
and plain lines for log files and where there is no terminal.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from tqdm import tqdm

T = TypeVar('T')
Figures = Callable[[], Mapping[str, str]]

_logger = logging.getLogger('audiocodec')


class Progress(tqdm, Generic[T]):
    """Progress bar that iterates (or counts with `update`) and shows rate, time left and metrics.

    On a terminal, plain lines go only to log files: `logs.setup` keeps records marked
    `progress_line` off the screen.

    Args:
        iterable: what to iterate over; None if the caller counts with `update`.
        total: number of steps; by default `len(iterable)`, if it has a length.
        desc: label, e.g. 'Train | Epoch 3'.
        unit: name of a step in the rate.
        lines: number of plain lines, evenly spaced over the steps; None: one per `interval`.
        interval: least number of seconds between two plain lines.
        initial: steps done before this loop (in a resumed epoch).
        figures: returns names and formatted values of metrics. Called for each plain line, and at
            most once per second for the bar.
        logger: logger for plain lines, at level INFO.
        enabled: False for workers other than the first: only iterates.
    """

    monitor_interval = 0  # tqdm's thread would be forked into the loader processes

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        total: int | None = None,
        desc: str = '',
        unit: str = 'it',
        *,
        lines: int | None = None,
        interval: float = 10.0,
        initial: int = 0,
        figures: Figures | None = None,
        logger: logging.Logger = _logger,
        enabled: bool = True,
    ) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get('TERM') != 'dumb'
        self._lines = lines
        self._interval = interval
        self._figures = figures
        self._logger = logger
        self._last_line = time.monotonic()
        self._last_figures = float('-inf')
        super().__init__(
            iterable,
            desc or None,
            total,
            leave=False,
            file=sys.stderr,
            miniters=1,
            disable=not enabled,
            unit=unit,
            # tqdm draws nothing on a terminal that reports a size of 0, as in some containers
            **({'dynamic_ncols': True} if _has_size(sys.stderr) else {'ncols': 80}),
            bar_format='{l_bar}{bar:10}{r_bar}',
            initial=initial,
        )
        self._lines_done = self._lines_due()

    def __iter__(self) -> Iterator[T]:
        """Yield the items, and remove the bar at the end, or when the loop is left."""
        try:
            for item in self.iterable:
                yield item
                self.update()
        finally:
            self.close()

    def update(self, n: float = 1) -> bool | None:
        """Count `n` more steps, and update the display if due."""
        drawn: bool | None = super().update(n)
        if not self.disable and self._line_is_due():
            self._log_line()
        return drawn

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar on a terminal; called by tqdm when due."""
        if not self._is_terminal:
            return False
        now = time.monotonic()
        if msg is None and self._figures is not None and now - self._last_figures >= 1:
            self._last_figures = now
            self.postfix = '  '.join(f'{name} {text}' for name, text in self._figures().items())
        return bool(super().display(msg, pos))

    def _lines_due(self) -> int:
        return int(self.n * self._lines // self.total) if self._lines and self.total else 0

    def _line_is_due(self) -> bool:
        is_late = time.monotonic() - self._last_line >= self._interval
        if not self._lines or not self.total:
            return is_late
        lines_due = self._lines_due()
        is_due = lines_due > self._lines_done
        self._lines_done = lines_due
        return is_due and is_late

    def _log_line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self.format_dict['elapsed']
        steps = self.n - self.initial
        rate = self.format_dict['rate'] or (steps / seconds if seconds else 0)
        parts = [f'{self.n}/{self.total}' if self.total else f'{self.n}']
        if self.desc:
            parts.insert(0, self.desc.removesuffix(': '))
        if rate:
            parts.append(f'{plain_number(rate, 3)} {self.unit}/s')
            if self.total:
                parts.append(f'ETA {self.format_interval((self.total - self.n) / rate)}')
        if self._figures is not None:
            parts += [f'{name} {text}' for name, text in self._figures().items()]
        self._logger.info(' | '.join(parts), extra={'progress_line': self._is_terminal})


def plain_number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, and without an exponent if it is large.

    >>> plain_number(79978.3), plain_number(1.23456), plain_number(1e-7)
    ('79980', '1.235', '1e-07')
    """
    return f'{float(f"{value:.{digits}g}"):.15g}'


def _has_size(stream: Any) -> bool:
    """True if a terminal knows its number of columns."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return False


class ProgressHandler(logging.StreamHandler[Any]):
    """Log handler for a terminal that writes lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, except the plain lines of a bar, which is on the screen."""
        if getattr(record, 'progress_line', False):
            return
        try:
            Progress.write(self.format(record), file=self.stream)
        except Exception:
            self.handleError(record)
