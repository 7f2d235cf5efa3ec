"""Scoring of items in several processes."""

import math
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import NamedTuple

import torch

from audiocodec.metrics import Metric, Score, score_item
from audiocodec.metrics.suite import Scores

_QUEUE = 2  # items that wait, for each process


class Pair(NamedTuple):
    """Estimate and reference of an item, [C, T], and their sample rate (Hz)."""

    estimate: torch.Tensor
    reference: torch.Tensor
    sample_rate: int


class Ticket(NamedTuple):
    """An item that was submitted."""

    pair: Pair
    future: 'Future[Scores]'


class ScoringPool:
    """Scores items in `workers` processes: this one and others, which build the metrics once.

    This process scores an item itself whenever enough others wait, so that all are busy. It never
    waits in `submit` for longer than an item takes. A process that dies, as native code may on
    unusual audio, costs the scores of the item that it worked on.

    Use it as a context manager.

    Args:
        metrics: metrics by name.
        workers: number of processes; 1: only this one.
    """

    def __init__(self, metrics: Mapping[str, Metric], workers: int = 1) -> None:
        self.metrics = dict(metrics)
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: set[Future[Scores]] = set()

    def __enter__(self) -> 'ScoringPool':
        if self.workers > 1:
            self._pool = self._start(self.workers - 1)
            _limit_numba()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, pair: Pair) -> Ticket:
        """Score an item, here or in another process; see `result`."""
        self._waiting = {future for future in self._waiting if not future.done()}
        if self._pool is not None and len(self._waiting) < _QUEUE * (self.workers - 1):
            try:
                future = self._pool.submit(_score, pair)
            except BrokenProcessPool:
                self._restart()
                future = self._pool.submit(_score, pair)
            self._waiting.add(future)
            return Ticket(pair, future)
        done: Future[Scores] = Future()
        done.set_result(score_item(self.metrics, *pair))
        return Ticket(pair, done)

    def result(self, ticket: Ticket) -> Scores:
        """Return the scores of an item, when they are ready."""
        try:
            return ticket.future.result()
        except BrokenProcessPool:
            return self._score_alone(ticket.pair)

    def _score_alone(self, pair: Pair) -> Scores:
        """Score an item, which may be the one that ended a process, in a process of its own."""
        with self._start(1) as alone:
            try:
                return alone.submit(_score, pair).result()
            except BrokenProcessPool:
                lost = Score(math.nan, 'the process of the metrics died on it', is_error=True)
                return dict.fromkeys(self.metrics, lost)

    def _start(self, processes: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context('spawn')  # a fork would copy locks and GPU handles
        return ProcessPoolExecutor(processes, context, _initialize, (self.metrics,))

    def _restart(self) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=False)
        self._pool = self._start(self.workers - 1)


_metrics: dict[str, Metric] = {}  # of this process, if it belongs to a pool


def _initialize(metrics: dict[str, Metric]) -> None:
    torch.set_num_threads(1)
    _limit_numba()
    _metrics.update(metrics)


def _limit_numba() -> None:
    """Give Numba one thread, which ViSQOL uses, in this process: several have one core each."""
    os.environ['NUMBA_NUM_THREADS'] = '1'  # for an import to come
    if 'numba' in sys.modules:
        sys.modules['numba'].set_num_threads(1)


def _score(pair: Pair) -> Scores:
    return score_item(_metrics, *pair)
