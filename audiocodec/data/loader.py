"""Batches of a dataset: shared out among workers (ranks), decoded ahead by processes, resumable at
any update.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from audiocodec.data.bad_files import MAX_FRACTION, BadFiles
from audiocodec.data.dataset import AudioDataset
from audiocodec.utils import distrib

Key = tuple[int, int]


class BatchPlan:
    """Which items make up each batch of one worker: the batch sampler of a DataLoader.

    Batch `u` of all workers together is items [u * N * B, (u + 1) * N * B), of which worker `r`
    takes the `r`-th run of B: put one after another, the workers' batches are the batch of a single
    worker with N * B.

    With `drop_last` every worker gets the same number of full batches. Without, no item is lost or
    repeated: what is left at the end is shared out in runs as equal as can be, and workers left
    with nothing have one batch less. A loop over such a plan must not communicate per batch; sum up
    and reduce after it.

    Keys are (epoch, index), so that processes which live through many epochs need not be told the
    epoch.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        drop_last: bool,
        max_batches: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        self.items, self.batch_size, self.drop_last = items, batch_size, drop_last
        self.max_batches, self.rank, self.world_size = max_batches, rank, world_size
        self.epoch = self.start = 0

    def __len__(self) -> int:
        full, left = divmod(self.items, self.batch_size * self.world_size)
        batches = full
        if not self.drop_last:
            begin, end = self._share(left)
            batches += end > begin
        return batches if self.max_batches is None else min(batches, self.max_batches)

    def _share(self, left: int) -> tuple[int, int]:
        """This worker's part [begin, end) of `left` items."""
        return self.rank * left // self.world_size, (self.rank + 1) * left // self.world_size

    def indexes(self, batch: int) -> range:
        """Items of this worker's batch number `batch`."""
        together = self.batch_size * self.world_size
        first = batch * together
        if first + together <= self.items:
            return range(
                first + self.rank * self.batch_size, first + (self.rank + 1) * self.batch_size
            )
        begin, end = self._share(self.items - first)
        return range(first + begin, first + end)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for batch in range(self.start, len(self)):
            yield [(epoch, index) for index in self.indexes(batch)]


class _Guarded:
    """The dataset in a loader process: a ValueError travels as a value, so that its message arrives
    as it was.
    """

    def __init__(self, dataset: AudioDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.dataset[key]
        except ValueError as error:
            return error

    def collate(self, samples: Sequence[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, ValueError):
                return sample
        return self.dataset.collate(samples)


_STOP = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


def _obey_parent_alone(_: int) -> None:
    """In a loader process: do not die of a signal to stop that is sent to all processes of a job.

    It would take the data away from a run that is about to save its state. The parent's own
    SIGTERM, with which Python ends its children, is obeyed; which of them it is, only a thread that
    waits for signals can tell.
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while True:
        received = signal.sigwaitinfo(_STOP)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)


class LoaderDiedError(RuntimeError):
    """A process that loads data died; the message says of what, as far as can be known, and what to
    do.
    """


def _explained(error: Exception) -> LoaderDiedError | None:
    """What PyTorch means by its error when a loader process has died; None for other errors."""
    text = str(error) or type(error).__name__
    # without a word of PyTorch, it is the connection to the process that broke; errors of the data
    # are 'Caught ...'
    is_connection = isinstance(error, OSError | EOFError) and not text.startswith('Caught ')
    is_death = 'killed by signal' in text or 'exited unexpectedly' in text
    if isinstance(error, LoaderDiedError) or not (is_connection or is_death):
        return None
    name = found[1] if (found := re.search(r'killed by signal: (.+?)\.', text)) else ''
    memory = 'killed for want of memory: give the job more, or lower dataset.num_workers'
    shared = (
        'for want of shared memory: give the job more (/dev/shm; docker run --shm-size), or lower '
        'dataset.num_workers'
    )
    decoder = 'of a file that its decoder does not survive: audiocodec doctor SOURCE finds it'
    causes = {
        'Killed': memory,
        'Bus error': shared,
        'Segmentation fault': decoder,
        'Aborted': decoder,
        'Floating point exception': decoder,
    }
    why = causes.get(name, f'{memory}; or {decoder}')
    return LoaderDiedError(f'a process that loads data died, most often {why} ({text.strip()})')


_handler: Any = None


def _explain_deaths() -> None:
    """Have an error say why where a loader process dies while its consumer is busy with something
    else.

    PyTorch raises from a handler of SIGCHLD, in the middle of whatever the main thread does.
    """
    global _handler
    if not hasattr(signal, 'SIGCHLD') or threading.current_thread() is not threading.main_thread():
        return
    inner = signal.getsignal(signal.SIGCHLD)
    if not callable(inner) or inner is _handler:
        return

    def handler(number: int, frame: Any) -> None:
        try:
            inner(number, frame)
        except RuntimeError as error:
            if (died := _explained(error)) is None:
                raise
            raise died from error

    _handler = handler
    signal.signal(signal.SIGCHLD, handler)


class AudioLoader:
    """Iterates over the batches of one epoch; see `make_loader`.

    Attributes:
        dataset: the dataset.
        wait_time: seconds that the current or last iteration spent waiting for data.
        bad_files: counts the files that the current or last iteration skipped, and stops it when
            they are too many.
    """

    def __init__(
        self,
        dataset: AudioDataset,
        plan: BatchPlan,
        num_workers: int,
        pin_memory: bool,
        prefetch_factor: int,
        bad_files: BadFiles,
    ) -> None:
        self.dataset, self.plan, self.bad_files = dataset, plan, bad_files
        self.wait_time = 0.0
        guarded = _Guarded(dataset)
        extra: dict[str, Any] = (
            {'persistent_workers': True, 'prefetch_factor': prefetch_factor} if num_workers else {}
        )
        self._loader: DataLoader[Any] = DataLoader(
            guarded,  # type: ignore[arg-type]
            batch_sampler=plan,
            num_workers=num_workers,
            collate_fn=guarded.collate,
            pin_memory=pin_memory,
            worker_init_fn=_obey_parent_alone,
            **extra,
        )

    def __len__(self) -> int:
        """Batches of this worker in a whole epoch."""
        return len(self.plan)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Have the next iteration yield batches `start`, `start + 1`, ... of an epoch; those before
        are not decoded.
        """
        self.plan.epoch, self.plan.start = epoch, start

    def __iter__(self) -> Iterator[Any]:
        self.wait_time = 0.0
        if self.plan.start == 0:
            self.bad_files.start_pass()
        before = time.perf_counter()
        batches = iter(self._loader)
        if self._loader.num_workers:
            _explain_deaths()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                died = _explained(error) if self._loader.num_workers else None
                if died is None:
                    raise
                raise died from error
            if isinstance(batch, ValueError):
                raise batch
            if self.dataset.return_info:
                self.bad_files.update(batch[1])
            self.wait_time += time.perf_counter() - before
            yield batch
            before = time.perf_counter()


def make_loader(
    dataset: AudioDataset,
    batch_size: int,
    num_workers: int = 0,
    *,
    drop_last: bool | None = None,
    max_batches: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    pin_memory: bool | None = None,
    prefetch_factor: int = 4,
    max_bad_fraction: float = MAX_FRACTION,
    named: set[str] | None = None,
) -> AudioLoader:
    """A loader of this worker's share of a dataset, see `BatchPlan`.

    Args:
        dataset: the dataset; equal on every worker.
        batch_size: items per batch and worker.
        num_workers: processes that decode; 0 to decode in this one. The batches do not depend on
            it.
        drop_last: see `BatchPlan`; by default for sets that shuffle, the ones to train on.
        max_batches: at most so many batches an epoch.
        rank: of this worker; by default from torch.distributed.
        world_size: number of workers; by default from torch.distributed.
        pin_memory: by default when there is a CUDA device.
        prefetch_factor: batches decoded ahead by each process.
        max_bad_fraction: share of draws of unreadable files above which iterating raises, see
            `bad_files.BadFiles`; where the dataset returns no infos, it is not watched.
        named: bad files that were named already, shared by the loaders of a run.

    Raises:
        ValueError: a batch larger than the epoch's items, sizes below 1, or a share that is none.
    """
    rank = distrib.rank() if rank is None else rank
    world_size = distrib.world_size() if world_size is None else world_size
    drop_last = dataset.shuffle if drop_last is None else drop_last
    pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f'batch_size={batch_size}, num_workers={num_workers}: expected at least 1, and at '
            'least 0'
        )
    if drop_last and len(dataset) < batch_size * world_size:
        raise ValueError(
            f'an epoch of {len(dataset)} items is less than one batch of {batch_size} on each of '
            f'{world_size} workers: raise num_samples or lower batch_size'
        )
    plan = BatchPlan(len(dataset), batch_size, drop_last, max_batches, rank, world_size)
    return AudioLoader(
        dataset, plan, num_workers, pin_memory, prefetch_factor, BadFiles(max_bad_fraction, named)
    )
