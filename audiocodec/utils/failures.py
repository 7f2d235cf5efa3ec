"""Failures of the work beside training: samples, metrics, trackers, copies of files."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from audiocodec.utils import distrib

logger = logging.getLogger('audiocodec')
_warned: set[str] = set()


class Failures:
    """Turns failures of work beside training into warnings, one for each kind, and counts them.

    Attributes:
        counts: failures by kind.
        reasons: the first reason of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}

    @contextmanager
    def caught(self, kind: str) -> Iterator[None]:
        """Ends its block at the first error, whoever raised it, without ending the run.

        Args:
            kind: what fails when the block fails, as in 'TensorBoard'.
        """
        try:
            yield
        except Exception as error:  # hours of training are worth more than any of this
            self.add(kind, f'{type(error).__name__}: {error}')

    def add(self, kind: str, reason: str) -> None:
        """Counts a failure; the first of its kind is logged."""
        self.counts[kind] += 1
        if kind not in self.reasons:
            self.reasons[kind] = reason
            logger.warning('%s failed, the run goes on: %s', kind, reason)

    def sync(self) -> None:
        """Learns of the kinds that failed on other workers; every worker must call it."""
        for rank, reasons in enumerate(distrib.all_gather_object(self.reasons)):
            for kind in reasons.keys() - self.reasons.keys():
                self.add(kind, f'{reasons[kind]} (worker {rank})')

    def __str__(self) -> str:
        return ', '.join(f'{kind} ({count}x)' for kind, count in self.counts.items())


def warn_once(logger: logging.Logger, key: str, message: str) -> None:
    """Logs a warning the first time that `key` is seen in this process."""
    if key not in _warned:
        _warned.add(key)
        logger.warning('%s', message)
