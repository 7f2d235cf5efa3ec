"""Failures of non-essential work during training: samples, metrics, trackers, copies of files."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from audiocodec.utils import distrib

logger = logging.getLogger('audiocodec')
_warned: set[str] = set()


class Failures:
    """Turns failures of non-essential work into warnings, one for each kind, and counts them.

    Attributes:
        counts: failures by kind.
        reasons: the first reason of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}

    @contextmanager
    def caught(self, kind: str) -> Iterator[None]:
        """Catch every error inside, count it, and continue the run.

        Args:
            kind: name of what fails, e.g. 'TensorBoard'.
        """
        try:
            yield
        except Exception as error:  # nothing here is worth losing hours of training
            self.add(kind, f'{type(error).__name__}: {error}')

    def add(self, kind: str, reason: str) -> None:
        """Count a failure; logs the first of its kind."""
        self.counts[kind] += 1
        if kind not in self.reasons:
            self.reasons[kind] = reason
            logger.warning('%s failed, the run continues: %s', kind, reason)

    def sync(self) -> None:
        """Add the kinds of failures on other workers. Collective: every worker must call it."""
        for rank, reasons in enumerate(distrib.all_gather_object(self.reasons)):
            for kind in reasons.keys() - self.reasons.keys():
                self.add(kind, f'{reasons[kind]} (worker {rank})')

    def __str__(self) -> str:
        return ', '.join(f'{kind} ({count}x)' for kind, count in self.counts.items())


def warn_once(logger: logging.Logger, key: str, message: str) -> None:
    """Log a warning the first time that `key` is seen in this process."""
    if key not in _warned:
        _warned.add(key)
        logger.warning('%s', message)
