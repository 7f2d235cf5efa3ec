"""Process pool for work on many files, robust to files that crash the process reading them."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from audiocodec.utils.cpus import usable_cores
from audiocodec.utils.distrib import is_rank_zero
from audiocodec.utils.progress import Progress

Item = TypeVar('Item')
Result = TypeVar('Result')

# least number of items that justifies starting a process, and size of the chunks sent to it
_PER_WORKER = 16


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None,
    desc: str,
    died: Callable[[Item], Result],
    at_least: int = 0,
) -> list[Result]:
    """Compute `[function(item) for item in items]` in several processes, with a progress bar.

    Threads would not do: silencing the MP3 decoder redirects standard error for the whole process
    (see `audio`), and so would hide the messages of other threads.

    Args:
        function: picklable, as are items and results.
        items: the items.
        workers: processes; by default twice the number of usable cores, at most 16.
        desc: label of the progress bar.
        died: returns the result (or raises) for an item whose process crashed: out of memory, or a
            file that crashes its decoder.
        at_least: least number of processes, however few the items; 1 protects this process from
            crashes.
    """
    most = min(16, 2 * usable_cores()) if workers is None else workers
    workers = max(at_least, min(most, len(items) // _PER_WORKER))
    bar: Progress[Item] = Progress(total=len(items), desc=desc, unit='file', enabled=is_rank_zero())
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        bar.update()

    try:
        if workers < 2 and not at_least:
            for item in items:
                add(function(item))
        while len(results) < len(items):
            try:
                with _pool(workers) as pool:
                    for result in pool.map(function, items[len(results) :], chunksize=_PER_WORKER):
                        add(result)
            except BrokenProcessPool:
                # one of the next files crashed it: give each its own process to find out which
                for item in items[len(results) : len(results) + _PER_WORKER]:
                    add(_run_isolated(function, item, died))
    finally:
        bar.close()
    return results


def _pool(workers: int) -> ProcessPoolExecutor:
    method = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else None
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method))


def _run_isolated(
    function: Callable[[Item], Result], item: Item, died: Callable[[Item], Result]
) -> Result:
    try:
        with _pool(1) as pool:
            return pool.submit(function, item).result()
    except BrokenProcessPool:
        return died(item)
