"""Scoring of items in several processes."""

import math
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import NamedTuple, TypeVar

import torch

from audiocodec.metrics import Metric, Score, score_item
from audiocodec.metrics.suite import Scores

T = TypeVar('T')
_QUEUE = 2  # items that wait for each other process
_AHEAD = 4  # items whose scores are not yet yielded, for each process


class Pair(NamedTuple):
    """Estimate and reference of an item, [C, T], and their sample rate (Hz)."""

    estimate: torch.Tensor
    reference: torch.Tensor
    sample_rate: int


class ScoringPool:
    """Scores items in `workers` processes: this one and others, which build the metrics once.

    This process scores an item itself whenever enough others wait, so that all are busy. A process
    that dies, as native code may on unusual audio, costs the scores of the item that it worked on.

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

    def score(self, jobs: Iterable[tuple[T, Pair]]) -> Iterator[tuple[T, Scores]]:
        """Yield the scores of each item, in order, with what it came with.

        Items are taken ahead of the results, as many as the processes need.
        """
        waiting: deque[tuple[T, Pair, Future[Scores]]] = deque()
        for tag, pair in jobs:
            waiting.append((tag, pair, self._submit(pair)))
            while waiting[0][2].done() or len(waiting) > _AHEAD * self.workers:
                tag, pair, future = waiting.popleft()
                yield tag, self._result(pair, future)
                if not waiting:
                    break
        for tag, pair, future in waiting:
            yield tag, self._result(pair, future)

    def _submit(self, pair: Pair) -> 'Future[Scores]':
        """Score an item in another process, or here if enough wait for the others."""
        self._waiting = {future for future in self._waiting if not future.done()}
        if self._pool is not None and len(self._waiting) < _QUEUE * (self.workers - 1):
            try:
                future = self._pool.submit(_score, pair)
            except BrokenProcessPool:
                self._restart()
                future = self._pool.submit(_score, pair)
            self._waiting.add(future)
            return future
        done: Future[Scores] = Future()
        done.set_result(score_item(self.metrics, *pair))
        return done

    def _result(self, pair: Pair, future: 'Future[Scores]') -> Scores:
        """Return the scores of an item, when they are ready."""
        try:
            return future.result()
        except BrokenProcessPool:
            return self._score_alone(pair)

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
