"""Shards: audio decoded, resampled and packed once as int16 samples.

Loader processes map shards into memory and share them. A folder of shards replaces the files that
it was made of: it lists the same files, so that the same seed draws the same segments, with the
same samples rounded to 16 bits. It contains

    shards.json             sample rate, channels, source, version, and the size of every shard
    files.jsonl.gz          in order, the manifest entry and the position of every file
    00000.24000x1.s16 ...   int16 (little-endian) at 24000 Hz, 1 channel, file by file

A sample x is stored as round(32768 x), clipped to int16, and read as that number over 32768. 16-bit
files that need no conversion are reproduced exactly, all others within half a step, 2^-16.

The folder is written under a temporary name and renamed at the end, so that an interrupted one is
never mistaken for a complete one.
"""

import gzip
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from audiocodec import __version__
from audiocodec.data.audio import audio_info, check_samples, read_segment
from audiocodec.data.channels import convert_channels
from audiocodec.data.manifest import AudioMeta
from audiocodec.dsp.resample import resampler
from audiocodec.utils import files
from audiocodec.utils.cpus import usable_cores
from audiocodec.utils.files import write_bytes
from audiocodec.utils.progress import Progress

HEAD, FILES, SUFFIX = 'shards.json', 'files.jsonl.gz', '.s16'
_FORMAT = 'audiocodec shards 1'
_SCALE = 32768
_BLOCK = 2**20  # samples decoded at once
_SHARD_BYTES = (2**21, 2**28)  # range of the target size; a file is never split between shards
_ADDRESS = re.compile(
    r'(?P<shard>.*?\.(?P<rate>\d+)x(?P<channels>\d+)\.s16)/(?P<begin>\d+)\+(?P<frames>\d+)/',
    re.DOTALL,
)


class _Packed(NamedTuple):
    """A file in its shard: first sample, samples per channel, clipped values, and its problem."""

    begin: int
    frames: int
    limited: int
    problem: str | None


@dataclass(frozen=True)
class Report:
    """Summary of what was packed.

    Attributes:
        files: number of files.
        hours: hours of audio.
        bytes: bytes of samples.
        limited: fraction of the values that were clipped to the range of int16.
        problems: one sentence on each file that cannot be read and has no samples.
    """

    files: int
    hours: float
    bytes: int
    limited: float
    problems: Sequence[str]


def is_shards(path: str | os.PathLike[str]) -> bool:
    """Return whether a data source is a folder of shards."""
    return os.path.isfile(os.path.join(path, HEAD))


def load_shards(folder: str | os.PathLike[str]) -> list[AudioMeta]:
    """Return the files in a folder of shards, as `index.load_source` listed them for packing.

    Their paths are addresses, SHARD/BEGIN+FRAMES/ORIGINAL_PATH, for `read_stored`.

    Raises:
        ValueError: the folder is damaged or incompletely copied; names the file.
    """
    folder = Path(folder).expanduser().absolute()
    try:
        head = json.loads((folder / HEAD).read_bytes())
        if head.get('format') != _FORMAT:
            raise ValueError(
                f'expected format {_FORMAT!r}, got {head.get("format")!r}: make the shards again'
            )
        for name, size in head['shards'].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f'{name} has {found} bytes instead of {size}: copy it again')
        entries = [
            json.loads(line) for line in gzip.decompress((folder / FILES).read_bytes()).splitlines()
        ]
        if len(entries) != head['files']:
            raise ValueError(
                f'{FILES} lists {len(entries)} files instead of {head["files"]}: copy it again'
            )
        names = list(head['shards'])
        metas = [AudioMeta.from_dict(entry) for entry in entries]
        for meta, entry in zip(metas, entries):
            place = f'{names[entry["shard"]]}/{entry["begin"]}+{entry["frames"]}'
            meta.path = f'{folder}/{place}/{meta.path.lstrip("/")}'
    except (OSError, EOFError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f'{folder}: not a complete folder of shards: {error}') from error
    return metas


def is_address(path: str) -> bool:
    """Return whether a path addresses a file in a shard."""
    return f'{SUFFIX}/' in path and _ADDRESS.match(path) is not None


def check_shards(paths: Iterable[str], sample_rate: int, channels: int) -> None:
    """Check that the shards among some paths fit a run.

    Shards must have the sample rate of the run, and its number of channels unless the run is mono.

    Raises:
        ValueError: they do not.
    """
    matches = (_ADDRESS.match(path) for path in paths if f'{SUFFIX}/' in path)
    by_shard = {found['shard']: found for found in matches if found is not None}
    for shard, found in by_shard.items():
        rate, stored = int(found['rate']), int(found['channels'])
        if rate != sample_rate or channels not in (stored, 1):
            raise ValueError(
                f'{Path(shard).parent}: these shards have {rate} Hz and {stored} channel(s), the '
                f'run needs {sample_rate} Hz and {channels}. Shards are not resampled, and only '
                'mixed to mono: make new ones with '
                f'audiocodec shards SOURCE OUT --sample_rate {sample_rate} --channels {channels}'
            )


def read_stored(address: str, start: int, frames: int, channels: int | None = None) -> torch.Tensor:
    """Read a segment of a file in a shard, like `audio.read_segment` at the shard's sample rate.

    Args:
        address: a path from `load_shards`.
        start: first sample.
        frames: number of samples, fewer at the end of the file; -1 for the rest of the file.
        channels: channels of the result; None for those of the shard.

    Returns:
        float32 [C, T], T <= frames.

    Raises:
        ValueError: the shard is missing, or `start` is at or after the end of the file.
    """
    found = _ADDRESS.match(address)
    assert found is not None, address
    begin, total = int(found['begin']), int(found['frames'])
    if not 0 <= start < total:
        what = (
            'could not be read when the shards were made' if total == 0 else f'has {total} samples'
        )
        raise ValueError(f'{address}: cannot read from sample {start}: it {what}')
    frames = total - start if frames < 0 else min(frames, total - start)
    stored = _mapped(found['shard'], int(found['channels']))[begin + start : begin + start + frames]
    wav = torch.from_numpy(stored.T.astype(np.float32, order='C')).div_(_SCALE)
    return wav if channels is None else convert_channels(wav, channels)


@lru_cache(256)
def _mapped(shard: str, channels: int) -> np.ndarray:
    """Map the samples of a shard, int16 [T, C], into memory that all processes share."""
    try:
        return np.asarray(np.memmap(shard, dtype='<i2', mode='r')).reshape(-1, channels)
    except (OSError, ValueError) as error:
        raise ValueError(f'{shard}: cannot be read: {error}') from error


def make_shards(
    metas: Sequence[AudioMeta],
    out: str | os.PathLike[str],
    sample_rate: int,
    channels: int = 1,
    workers: int | None = None,
    source: str = '',
) -> Report:
    """Decode, resample and pack files, atomically.

    An unreadable file keeps its entry, without samples: drawing it fails as with the original file,
    so that the random draws stay the same.

    Args:
        metas: the files, see `index.load_source`.
        out: the folder to create; must not exist.
        sample_rate: sample rate of the shards (Hz).
        channels: channels of the shards.
        workers: processes; by default the number of usable cores.
        source: origin of the files, for the record.

    Raises:
        ValueError: nothing to pack, or arguments out of range.
        OSError: `out` exists, or the disk is too small or not writable.
    """
    out = Path(out).expanduser().absolute()
    size = int(2 * channels * sample_rate * sum(meta.duration for meta in metas))
    workers = _check_task(metas, out, sample_rate, channels, workers, size)
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    try:
        temporary.mkdir(parents=True)
        low, high = _SHARD_BYTES
        # about 4 shards per process, so that all of them finish at about the same time
        shard_bytes = min(max(size // (4 * workers), low), high)
        groups = group_files(metas, shard_bytes // (2 * channels * sample_rate))
        names = [f'{index:05d}.{sample_rate}x{channels}{SUFFIX}' for index in range(len(groups))]
        tasks: list[_Task] = []
        for name, group in zip(names, groups):
            paths = [metas[index].path for index in group]
            tasks.append((temporary / name, paths, sample_rate, channels))
        packed = _pack_all(tasks, workers)
        report = _write_record(
            temporary,
            metas,
            names,
            packed,
            {
                'format': _FORMAT,
                'sample_rate': sample_rate,
                'channels': channels,
                'source': source,
                'audiocodec': __version__,
            },
        )
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def _check_task(
    metas: Sequence[AudioMeta],
    out: Path,
    sample_rate: int,
    channels: int,
    workers: int | None,
    size: int,
) -> int:
    """Check the arguments of `make_shards`, and return the number of processes."""
    if sample_rate < 1 or channels < 1 or (workers is not None and workers < 1):
        raise ValueError(
            f'sample_rate={sample_rate}, channels={channels}, workers={workers}: expected at least '
            '1 each'
        )
    if not metas:
        raise ValueError('no files to pack into shards')
    if any(is_address(meta.path) for meta in metas):
        raise ValueError(f'{metas[0].path}: expected audio files to pack, got shards')
    if out.exists():
        raise FileExistsError(f'{out}: already exists; remove it, or choose another name')
    parent = next(folder for folder in out.parents if folder.exists())
    total, _, free = shutil.disk_usage(parent)
    if free < size and total:  # mounts of object stores have no size
        raise OSError(
            f'{out}: needs {size / 1e9:.2f} GB, and {parent} has {free / 1e9:.2f} GB left'
        )
    return usable_cores() if workers is None else workers


def group_files(metas: Sequence[AudioMeta], seconds: float) -> list[range]:
    """Group consecutive files into runs of at most `seconds`, or a single longer file."""
    ends = []
    total = 0.0
    for index, meta in enumerate(metas):
        if total > 0 and total + meta.duration > seconds:
            ends.append(index)
            total = 0.0
        total += meta.duration
    return [range(begin, end) for begin, end in zip([0, *ends], [*ends, len(metas)])]


_Task = tuple[Path, list[str], int, int]  # shard to write, files, sample rate, channels


def _pack_all(tasks: Sequence[_Task], workers: int) -> list[list[_Packed]]:
    """Write the shards in several processes, with a progress bar over the files."""
    method = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else None
    bar: Progress[Any] = Progress(
        total=sum(len(task[1]) for task in tasks), desc='Packing', unit='file'
    )
    try:
        if workers == 1:
            packed = []
            for task in tasks:
                packed.append(_pack(task))
                bar.update(len(task[1]))
            return packed
        with ProcessPoolExecutor(
            min(workers, len(tasks)), multiprocessing.get_context(method)
        ) as pool:
            futures = {pool.submit(_pack, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update(len(futures[future][1]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise OSError(
            'a decoding process died, probably out of memory: give it more, or use fewer workers; '
            'or a file crashes its decoder: audiocodec doctor finds it'
        ) from error
    finally:
        bar.close()


def _pack(task: _Task) -> list[_Packed]:
    """Write one shard."""
    shard, paths, sample_rate, channels = task
    torch.set_num_threads(1)
    packed = []
    begin = 0
    with open(shard, 'wb') as file:
        for path in paths:
            frames = 0
            limited = 0
            problem = None
            try:
                for block in _decoded(path, sample_rate, channels):
                    rounded = (block.T * _SCALE).round()
                    stored = rounded.clamp(-_SCALE, _SCALE - 1)
                    limited += int((stored != rounded).sum())
                    file.write(stored.numpy().astype('<i2').tobytes())
                    frames += len(stored)
            except ValueError as error:
                # drop the blocks written before the error
                file.seek(2 * channels * begin)
                file.truncate()
                frames = 0
                limited = 0
                problem = str(error) if path in str(error) else f'{path}: {error}'
            packed.append(_Packed(begin, frames, limited, problem))
            begin += frames
        files.flush(file)
    return packed


def _decoded(path: str, sample_rate: int, channels: int) -> Iterator[torch.Tensor]:
    """Yield a whole file in blocks, float32 [C, T]."""
    info = audio_info(path)
    total = resampler(info.sample_rate, sample_rate).length(info.frames)
    start = 0
    while start < total:
        frames = min(_BLOCK, total - start)
        block = read_segment(path, start, frames, sample_rate, channels)
        check_samples(block, path)
        yield block
        start += block.shape[-1]
        if block.shape[-1] < frames:  # an MP3 that ends before its estimated length
            return


def _write_record(
    folder: Path,
    metas: Sequence[AudioMeta],
    names: Sequence[str],
    packed: Sequence[Sequence[_Packed]],
    head: dict[str, Any],
) -> Report:
    """Write `files.jsonl.gz` and `shards.json`, and return the summary."""
    places = [(shard, place) for shard, group in enumerate(packed) for place in group]
    problems = [place.problem for _, place in places if place.problem is not None]
    if len(problems) == len(metas):
        raise ValueError(f'none of the {len(metas)} files can be read; e.g. {problems[0]}')
    entries = []
    for meta, (shard, place) in zip(metas, places):
        entry = {**meta.to_dict(), 'shard': shard, **place._asdict()}
        entry = {key: value for key, value in entry.items() if value is not None}
        entries.append(json.dumps(entry) + '\n')
    write_bytes(folder / FILES, ''.join(entries).encode())
    sizes = {name: (folder / name).stat().st_size for name in names}
    values = sum(sizes.values()) // 2
    limited = sum(place.limited for _, place in places) / max(1, values)
    head = {**head, 'files': len(metas), 'limited': limited, 'shards': sizes}
    write_bytes(folder / HEAD, (json.dumps(head, indent=1) + '\n').encode())
    hours = values / head['channels'] / head['sample_rate'] / 3600
    return Report(len(metas), hours, sum(sizes.values()), limited, problems)
