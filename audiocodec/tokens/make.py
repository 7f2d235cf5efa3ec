"""Encoding of a data set into a folder of tokens, in several processes or on several GPUs."""

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audiocodec.data import AudioMeta, load_source
from audiocodec.data.shards import check_shards, group_files
from audiocodec.kernels.allocator import return_freed_memory
from audiocodec.models import CompressionModel
from audiocodec.models.fingerprint import fingerprint
from audiocodec.run.lock import FolderLock
from audiocodec.tokens.folder import Settings, TokenFolder, read_head
from audiocodec.tokens.formats import get_format
from audiocodec.tokens.shard import StoppedError, Task, make_shard
from audiocodec.utils.cpus import usable_cores
from audiocodec.utils.progress import Progress

logger = logging.getLogger(__name__)
_POLL = 0.2  # seconds between two looks at the processes
# oneDNN keeps what it prepared for the last 1024 shapes of convolutions, about 1 MB each. A file
# has a length of its own, hence new shapes, which hardly any other file has.
_SHAPES = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY', '128'
Advance = Callable[[int, float], None]


@dataclass(frozen=True)
class Report:
    """What is in a folder of tokens.

    Attributes:
        files: files with tokens.
        hours: of their audio.
        frames: of all files.
        bytes: of all shards.
        skipped: files that could not be read, see `folder.SKIPPED`.
        made: files encoded by this call; the others were there.
    """

    files: int
    hours: float
    frames: int
    bytes: int
    skipped: int
    made: int


def make_tokens(
    model: CompressionModel,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    name: str,
    layout: str = 'safetensors',
    workers: int | None = None,
    devices: Sequence[str] = ('cpu',),
    shard_minutes: float | None = None,
) -> Report:
    """Encode the files of a data source with the active codebooks of a model.

    A call that was killed at any moment goes on where it stopped if it is made again: complete
    shards are kept. The files depend neither on the number of workers nor on interruptions.

    Args:
        model: the model, on the CPU; a copy is used.
        source: see `data.load_source`.
        out: the folder, see `folder`; new, or with tokens of the same call.
        name: of the model, for the record.
        layout: format of the shards, one of `formats.FORMATS`.
        workers: processes, divided between the devices; None: one per core, or per GPU.
        devices: where to compute.
        shard_minutes: audio in a shard, the unit of work: what a kill costs each process at most;
            None: a 64th of the data, from 1 to 30.

    Raises:
        ValueError: arguments out of range, `out` has something else, or no file can be read.
        OSError: `out` is not writable, or a process died.
        RunError: another process is writing into `out`.
    """
    out = Path(out).expanduser().absolute()
    workers = _check(model, layout, workers, devices, shard_minutes)
    settings = _settings(model, name, layout, shard_minutes)
    folder = TokenFolder(out)
    folder.check(settings)
    metas = load_source(source)
    check_shards((meta.path for meta in metas), model.sample_rate, model.channels)
    if shard_minutes is None:
        shard_minutes = min(max(sum(meta.duration for meta in metas) / 60 / 64, 1.0), 30.0)
    settings = replace(settings, source=_digest(metas), shard_minutes=shard_minutes)
    folder.check(settings)
    if folder.is_complete:
        folder.clean()
        return _report(out, 0)
    os.environ.setdefault(*_SHAPES)  # read at the first convolution of the process
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out, f'audiocodec tokens into {out}')
    lock.acquire()
    try:
        folder.begin(settings)
        groups = group_files(metas, 60 * shard_minutes)
        tasks = [
            Task(number, group.start, metas[group.start : group.stop], out, settings.head())
            for number, group in enumerate(groups)
            if not folder.has_shard(number)
        ]
        _run(tasks, model, workers, devices, metas)
        _check_result(folder, len(groups), len(metas))
        folder.finish(settings, len(groups))
    finally:
        lock.release()
    return _report(out, sum(len(task.metas) for task in tasks))


def _check(
    model: CompressionModel,
    layout: str,
    workers: int | None,
    devices: Sequence[str],
    shard_minutes: float | None,
) -> int:
    """Check the arguments of `make_tokens`, and return the number of processes."""
    get_format(layout)
    if model.cardinality == 0:
        raise ValueError('this model is a continuous autoencoder: it has no tokens')
    if shard_minutes is not None and not shard_minutes > 0:
        raise ValueError(f'shard_minutes={shard_minutes}: expected minutes above 0')
    if workers is not None and workers < 1:
        raise ValueError(f'workers={workers}: expected at least 1')
    for device in map(torch.device, devices):
        found = torch.cuda.device_count()  # does not take memory on the GPUs, other checks do
        if device.type == 'cuda' and (device.index or 0) >= found:
            raise ValueError(f'device {str(device)!r}: this machine has {found} usable GPUs')
    if workers is None:
        return usable_cores() if tuple(devices) == ('cpu',) else len(devices)
    if workers < len(devices):
        raise ValueError(f'workers={workers} for {len(devices)} devices: expected one for each')
    return workers


def _settings(
    model: CompressionModel, name: str, layout: str, shard_minutes: float | None
) -> Settings:
    return Settings(
        model=name,
        fingerprint=fingerprint(model),
        sample_rate=model.sample_rate,
        channels=model.channels,
        hop_length=model.hop_length,
        frame_rate=model.frame_rate,
        cardinality=model.cardinality,
        kbps=round(model.bandwidth, 6),
        num_codebooks=model.num_codebooks,
        dtype='uint16' if model.cardinality <= 2**16 else 'int32',
        format=layout,
        shard_minutes=shard_minutes,
    )


def _digest(metas: Sequence[AudioMeta]) -> str:
    """Return a hash of the list of files."""
    digest = hashlib.sha256()
    for meta in metas:
        digest.update(f'{meta.path}\0{meta.duration}\n'.encode(errors='surrogateescape'))
    return digest.hexdigest()[:16]


def _check_result(folder: TokenFolder, shards: int, files: int) -> None:
    """Raise ValueError if no file could be read; then the next call tries all again."""
    reasons = []
    for record in folder.records(shards):
        if record['files']:
            return
        reasons += record['skipped'][:1]
    folder.clean()
    raise ValueError(f'none of the {files} files can be read; e.g. {reasons[0]["reason"]}')


def _report(out: Path, made: int) -> Report:
    head = read_head(out)
    size = sum(head['shards'].values())
    hours = head['seconds'] / 3600
    return Report(head['files'], hours, head['frames'], size, head['skipped'], made)


# ---- processes -----------------------------------------------------------------------------------


def _run(
    tasks: Sequence[Task],
    model: CompressionModel,
    workers: int,
    devices: Sequence[str],
    metas: Sequence[AudioMeta],
) -> None:
    """Make the shards that are missing, with a progress bar over files and hours."""
    seconds = {'all': sum(meta.duration for meta in metas), 'done': 0.0}
    missing = [meta for task in tasks for meta in task.metas]
    seconds['done'] = seconds['all'] - sum(meta.duration for meta in missing)
    if tasks and len(missing) < len(metas):
        logger.info('%d of %d files have tokens already', len(metas) - len(missing), len(metas))
    bar: Progress[Any] = Progress(
        total=len(metas),
        desc='Encoding',
        unit='file',
        initial=len(metas) - len(missing),
        figures=lambda: {'audio': f'{seconds["done"] / 3600:.2f}/{seconds["all"] / 3600:.2f} h'},
    )

    def advance(files: int, length: float) -> None:
        seconds['done'] += length
        bar.update(files)

    try:
        if workers == 1:
            with _one_thread():
                prepared = _prepare(model, devices[0])
                for task in tasks:
                    make_shard(task, prepared, advance)
                    return_freed_memory()
        elif tasks:
            _run_pool(tasks, model, min(workers, len(tasks)), devices, advance)
    finally:
        bar.close()


def _prepare(model: CompressionModel, device: str) -> CompressionModel:
    """Return a copy for inference on a device."""
    fast = model.for_cpu() if device == 'cpu' else model.for_inference().to(device)
    return fast.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread, as other processes do: several may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_pool(
    tasks: Sequence[Task],
    model: CompressionModel,
    workers: int,
    devices: Sequence[str],
    advance: Advance,
) -> None:
    """Make shards in several processes."""
    on_cpu = all(device == 'cpu' for device in devices)
    can_fork = 'fork' in multiprocessing.get_all_start_methods()
    # both share the weights, spawned processes through /dev/shm; those with a GPU must be spawned
    context = multiprocessing.get_context('fork' if on_cpu and can_fork else 'spawn')
    ours = _prepare(model, 'cpu') if on_cpu else model
    places: Any = context.SimpleQueue()
    for index in range(workers):
        places.put(devices[index % len(devices)])
    done: Any = context.SimpleQueue()
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _initialize, (ours, places, done, stop)) as pool:
        try:
            waiting = {pool.submit(_work, task) for task in tasks}
            while waiting:
                finished, waiting = wait(waiting, _POLL)
                while not done.empty():
                    advance(*done.get())
                _raise_errors(finished)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _raise_errors(finished: 'set[Future[None]]') -> None:
    for future in finished:
        try:
            future.result()
        except BrokenProcessPool as error:
            raise OSError(
                'a process died, probably out of memory: use fewer workers and run the same '
                'command again, complete shards are kept; or a file crashes its decoder: '
                'audiocodec doctor finds it'
            ) from error


_state: dict[str, Any] = {}  # of a process of the pool


def _initialize(ours: CompressionModel, places: Any, done: Any, stop: Any) -> None:
    """Prepare a process of the pool: its model, on its device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process sets `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    device = places.get()
    _state['model'] = ours if device == 'cpu' else _prepare(ours, device)

    def advance(files: int, seconds: float) -> None:
        if stop.is_set():
            raise StoppedError
        done.put((files, seconds))

    _state['advance'] = advance


def _end_with_parent() -> None:
    """End this process if the main process is killed: nobody would tell it to."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Task) -> None:
    _state['advance'](0, 0.0)  # the run may have ended since this shard was queued
    make_shard(task, _state['model'], _state['advance'])
    return_freed_memory()
