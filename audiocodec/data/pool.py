"""Work on many files by several processes, which survives a file that kills the process that reads
it.
"""

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

_PER_WORKER = (
    16  # items that a process has to do at least to be worth its start, and takes at a time
)


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None,
    desc: str,
    died: Callable[[Item], Result],
    at_least: int = 0,
) -> list[Result]:
    """`[function(item) for item in items]`, by several processes when there are many, with a
    progress bar.

    Not threads: one that is keeping the MP3 decoder quiet (see `audio`) would keep the others quiet
    too.

    Args:
        function: picklable, as are items and results.
        items: what to work on.
        workers: processes; by default twice the number of cores that it may use, at most 16.
        desc: text in front of the progress bar.
        died: gives the result (or raises) for an item on which a process dies, for want of memory
            or of a decoder that does not survive the file.
        at_least: processes to start however few the items: 1 keeps this process safe from the
            files.
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
            except (
                BrokenProcessPool
            ):  # one of the next files is to blame: give each its own process
                for item in items[len(results) : len(results) + _PER_WORKER]:
                    add(_alone(function, item, died))
    finally:
        bar.close()
    return results


def _pool(workers: int) -> ProcessPoolExecutor:
    method = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else None
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method))


def _alone(
    function: Callable[[Item], Result], item: Item, died: Callable[[Item], Result]
) -> Result:
    try:
        with _pool(1) as pool:
            return pool.submit(function, item).result()
    except BrokenProcessPool:
        return died(item)
