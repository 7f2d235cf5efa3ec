"""Data loading: batches divided among workers (ranks), decoded ahead, resumable at any update."""

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
    """Batch sampler of one worker: the items of each of its batches.

    With N workers and batch size B, the global batch `u` is items [u * N * B, (u + 1) * N * B), and
    worker `r` takes its `r`-th run of B. Concatenated, the workers' batches are the batch that a
    single worker with batch size N * B would get.

    With `drop_last` every worker gets the same number of full batches. Otherwise no item is lost or
    repeated: the remaining items are divided into contiguous parts of almost equal size, and a
    worker whose part is empty has one batch less. A loop over such a plan must not communicate once
    per batch: accumulate, and reduce after the loop.

    Keys are (epoch, index), so that persistent loader processes need not be told the epoch.
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
        self.items = items
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.max_batches = max_batches
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        full, left = divmod(self.items, self.batch_size * self.world_size)
        batches = full
        if not self.drop_last:
            begin, end = self._part(left)
            batches += end > begin
        return batches if self.max_batches is None else min(batches, self.max_batches)

    def _part(self, left: int) -> tuple[int, int]:
        """Return this worker's part [begin, end) of `left` items."""
        return self.rank * left // self.world_size, (self.rank + 1) * left // self.world_size

    def indexes(self, batch: int) -> range:
        """Return the items of this worker's batch number `batch`."""
        together = self.batch_size * self.world_size
        first = batch * together
        if first + together <= self.items:
            return range(
                first + self.rank * self.batch_size, first + (self.rank + 1) * self.batch_size
            )
        begin, end = self._part(self.items - first)
        return range(first + begin, first + end)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for batch in range(self.start, len(self)):
            yield [(epoch, index) for index in self.indexes(batch)]


class _Guarded:
    """Dataset in a loader process; returns a ValueError instead of raising it.

    DataLoader would wrap a raised error in a traceback; a returned one keeps its message.
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


_STOP_SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


def _ignore_job_signals(_: int) -> None:
    """Make a loader process ignore stop signals sent to all processes of a job.

    Otherwise the data would end under a run that is about to save its state. SIGTERM from the
    parent, with which Python ends its children, still works. Only a thread in `sigwaitinfo` learns
    the sender of a signal, so the signals are blocked and such a thread waits for them.
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while True:
        received = signal.sigwaitinfo(_STOP_SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)


class LoaderDiedError(RuntimeError):
    """A data loading process crashed; the message names the likely cause and the remedy."""


def _explained(error: Exception) -> LoaderDiedError | None:
    """Translate PyTorch's error about a dead loader process; None for other errors."""
    text = str(error) or type(error).__name__
    # errors raised by the dataset start with 'Caught '; without that, the connection to the
    # process broke
    is_connection = isinstance(error, OSError | EOFError) and not text.startswith('Caught ')
    is_death = 'killed by signal' in text or 'exited unexpectedly' in text
    if isinstance(error, LoaderDiedError) or not (is_connection or is_death):
        return None
    name = found[1] if (found := re.search(r'killed by signal: (.+?)\.', text)) else ''
    memory = 'out of memory: give the job more, or lower dataset.num_workers'
    shared = (
        'out of shared memory: give the job more (/dev/shm; docker run --shm-size), or lower '
        'dataset.num_workers'
    )
    decoder = 'a file that crashes its decoder: audiocodec doctor SOURCE finds it'
    causes = {
        'Killed': memory,
        'Bus error': shared,
        'Segmentation fault': decoder,
        'Aborted': decoder,
        'Floating point exception': decoder,
    }
    why = causes.get(name, f'{memory}; or {decoder}')
    return LoaderDiedError(f'a data loading process died, probably {why} ({text.strip()})')


_handler: Any = None


def _explain_deaths() -> None:
    """Translate the error for a loader process that dies while the main thread is busy elsewhere.

    PyTorch raises it from a SIGCHLD handler, in the middle of whatever the main thread is doing.
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
    """Iterator over the batches of one epoch; see `make_loader`.

    Attributes:
        dataset: the dataset.
        wait_time: seconds that the current or last iteration spent waiting for data.
        bad_files: counts the files that the current or last iteration skipped, and stops it if
            there are too many.
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
        self.dataset = dataset
        self.plan = plan
        self.bad_files = bad_files
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
            worker_init_fn=_ignore_job_signals,
            **extra,
        )

    def __len__(self) -> int:
        """Return the number of batches of this worker in a whole epoch."""
        return len(self.plan)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Start the next iteration at batch `start` of an epoch; batches before are not decoded."""
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
    """Return a loader of this worker's part of a dataset, see `BatchPlan`.

    Args:
        dataset: the dataset, the same on every worker.
        batch_size: items per batch and worker.
        num_workers: processes that decode; 0 to decode in this one. The batches do not depend on
            it.
        drop_last: see `BatchPlan`; by default True for datasets that shuffle (training sets).
        max_batches: largest number of batches per epoch.
        rank: rank of this worker; by default from torch.distributed.
        world_size: number of workers; by default from torch.distributed.
        pin_memory: by default True if there is a CUDA device.
        prefetch_factor: batches decoded ahead by each process.
        max_bad_fraction: fraction of draws that may hit unreadable files before iteration raises,
            see `bad_files.BadFiles`. Ignored if the dataset does not return infos.
        named: bad files that are already in the log, shared by the loaders of a run.

    Raises:
        ValueError: a global batch larger than the epoch, sizes below 1, or an invalid fraction.
    """
    rank = distrib.rank() if rank is None else rank
    world_size = distrib.world_size() if world_size is None else world_size
    drop_last = dataset.shuffle if drop_last is None else drop_last
    pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f'batch_size={batch_size}, num_workers={num_workers}: expected at least 1 and at least '
            '0'
        )
    if drop_last and len(dataset) < batch_size * world_size:
        raise ValueError(
            f'an epoch of {len(dataset)} items is smaller than one batch of {batch_size} on each '
            f'of {world_size} workers: raise num_samples or lower batch_size'
        )
    plan = BatchPlan(len(dataset), batch_size, drop_last, max_batches, rank, world_size)
    return AudioLoader(
        dataset, plan, num_workers, pin_memory, prefetch_factor, BadFiles(max_bad_fraction, named)
    )
