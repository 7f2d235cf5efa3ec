"""Progress of a loop: a live bar on a terminal, plain lines in log files and wherever there is no
terminal.

On a terminal the bar owns the last line of the screen, and the plain lines go to the logger marked
`progress_line`, so that log files get them. Put `ConsoleFilter()` on every handler that writes to
the terminal: it keeps those lines off the screen and wipes the bar before any other record, so that
the two never mix.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TextIO, TypeVar, cast

T = TypeVar('T')
Postfix = Mapping[str, str] | Callable[[], Mapping[str, str]]


class Progress(Generic[T]):
    """Iterate over `iterable` (or call `update`) and show rate, time left and a few figures.

    Args:
        iterable: what to iterate over; None when the caller counts with `update`.
        total: number of steps; taken from `len(iterable)` when it has one; 0 or None when unknown.
        desc: text in front, e.g. 'Train | Epoch 3'.
        unit: what a step is called in the rate.
        updates: number of plain lines, evenly over the steps; None for one line every `interval`
            seconds.
        interval: seconds between two plain lines, at least.
        initial: steps done before this loop (a resumed epoch); they count as done but not in the
            rate.
        logger: where plain lines go, at level INFO; without one they go to `stream` when that is
            not a terminal.
        enabled: False for workers other than the first: only iterates.
        stream: the screen, by default the standard error.
    """

    _on_screen: ClassVar['Progress[Any] | None'] = (
        None  # the bar that owns the terminal's last line
    )

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        total: int | None = None,
        desc: str = '',
        unit: str = 'it',
        *,
        updates: int | None = None,
        interval: float = 10.0,
        initial: int = 0,
        logger: logging.Logger | None = None,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.iterable = iterable
        self.total = total or (len(cast(Any, iterable)) if hasattr(iterable, '__len__') else 0)
        self.desc, self.unit, self.updates, self.interval = desc, unit, updates, interval
        self.logger, self.enabled = logger, enabled
        self.stream = stream if stream is not None else sys.stderr
        self.is_terminal = self.stream.isatty() and os.environ.get('TERM') != 'dumb'
        self.n = initial
        self._postfix: Postfix = {}
        self._texts: Mapping[str, str] = {}
        self._start = self._last_line = time.monotonic()
        self._last_draw = self._last_texts = float('-inf')
        self._lines = self._lines_due()
        self._rate_from: tuple[float, int] = (self._start, initial)
        self._rated = False

    def __iter__(self) -> Iterator[T]:
        if self.iterable is None:
            raise ValueError(
                'Progress was made without an iterable: count with update(), or pass one.'
            )
        try:
            self._draw(time.monotonic())
            for item in self.iterable:
                yield item
                self.update()
        finally:
            self.close()

    def set_postfix(self, texts: Postfix) -> None:
        """Figures to show, name to text. Costs nothing until they are shown.

        Args:
            texts: a mapping, or a function returning one, which is called only for a plain line and
                at most once a second for the bar: the place to read figures back from a device.
        """
        self._postfix = texts

    def update(self, steps: int = 1) -> None:
        """Count `steps` more steps, and show it if it is time to."""
        self.n += steps
        if not self.enabled:
            return
        now = time.monotonic()
        if (
            not self._rated
        ):  # the first step waits for workers, compilation and caches: it would spoil the rate
            self._rate_from, self._rated = (now, self.n), True
        if self._line_is_due(now):
            self._print_line(now)
        if now - self._last_draw >= 0.1:
            self._draw(now)

    def close(self) -> None:
        """Take the bar off the screen; no-op when there is none."""
        if Progress._on_screen is self:
            self.erase()
            Progress._on_screen = None

    def erase(self) -> None:
        """Wipe the bar's line; the next `update` draws it again."""
        self._show('\r\x1b[K')
        self._last_draw = float('-inf')

    def _show(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # the terminal is gone; the loop goes on
            self.is_terminal, self.enabled = False, self.logger is not None

    def _lines_due(self) -> int:
        return self.n * self.updates // self.total if self.updates and self.total else 0

    def _line_is_due(self, now: float) -> bool:
        due = True
        if self.updates and self.total:
            due, self._lines = self._lines_due() > self._lines, self._lines_due()
        return due and now - self._last_line >= self.interval

    def _print_line(self, now: float) -> None:
        self._last_line = now
        if self.is_terminal and self.logger is None:
            return
        self._refresh_texts(now)
        line = ' | '.join([*([self.desc] if self.desc else []), self._count(), *self._facts(now)])
        if self.logger is not None:
            self.logger.info('%s', line, extra={'progress_line': self.is_terminal})
        else:
            self._show(line + '\n')

    def _draw(self, now: float) -> None:
        if not (self.enabled and self.is_terminal) or Progress._on_screen not in (None, self):
            return
        Progress._on_screen = self
        self._last_draw = now
        if now - self._last_texts >= 1:
            self._refresh_texts(now)
        bar = ''
        if self.total:
            share = min(self.n / self.total, 1.0)
            bar = f'[{"#" * int(20 * share):-<20}] {share:4.0%} '
        line = f'{self.desc} {bar}' + ' | '.join([self._count(), *self._facts(now)])
        columns = shutil.get_terminal_size().columns
        self._show('\r\x1b[K' + line.strip()[: columns - 1])

    def _refresh_texts(self, now: float) -> None:
        self._texts = self._postfix() if callable(self._postfix) else self._postfix
        self._last_texts = now

    def _count(self) -> str:
        return f'{self.n}/{self.total}' if self.total else str(self.n)

    def _facts(self, now: float) -> list[str]:
        """Rate, time left and the caller's figures."""
        since, done = self._rate_from
        rate = (self.n - done) / (now - since) if self.n > done and now > since else 0.0
        facts = [f'{rate:.3g} {self.unit}/s'] if rate else []
        if rate and self.total:
            facts.append(f'ETA {format_seconds((self.total - self.n) / rate)}')
        return facts + [f'{name} {text}' for name, text in self._texts.items()]


class ConsoleFilter(logging.Filter):
    """For log handlers that write to the terminal: see the head of this file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record belongs on the screen; wipes the live bar, if any, when it does."""
        if getattr(record, 'progress_line', False):
            return False
        if Progress._on_screen is not None:
            Progress._on_screen.erase()
        return True


def format_seconds(seconds: float) -> str:
    """A duration as m:ss, or h:mm:ss from an hour on."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f'{hours}:{minute:02d}:{second:02d}' if hours else f'{minute}:{second:02d}'
