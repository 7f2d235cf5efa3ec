"""Lengths and formats of many audio files, read in several processes, and cached.

The cache is in the user's cache folder, with size and modification time of each file, so that only
files that changed are read again.
"""

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from audiocodec.data.audio import audio_info, read_audio
from audiocodec.data.pool import map_files
from audiocodec.data.readers import EXTENSIONS, libav, tar
from audiocodec.utils.files import write_bytes
from audiocodec.utils.paths import cache_folder

logger = logging.getLogger(__name__)

_CACHE_VERSION = 2
Entry = dict[str, Any]  # duration (s), sample_rate (Hz), channels, and perhaps amplitude
# name -> [size, mtime in ns, entry or the reason (str) why the file is unusable]
_Cached = dict[str, list[Any]]


class FoundFile(NamedTuple):
    """A file: its name, relative to some folder, size and modification time (ns)."""

    name: str
    size: int
    mtime: int


def probe_tar(path: str, amplitude: bool = False) -> Entry:
    """Return `members`: of each audio file in a tar, its address and entry, or what is wrong.

    Raises:
        ValueError: not a tar.
    """
    found: list[list[Any]] = []
    for member in tar.list_members(path, EXTENSIONS):
        try:
            found.append([member.address, probe(member.address, amplitude)])
        except ValueError as error:
            found.append([member.address, str(error)])
    return {'members': found}


def probe(path: str | os.PathLike[str], amplitude: bool = False) -> Entry:
    """Return duration, sample rate and channels of an audio file, after checking its end.

    Args:
        path: the file.
        amplitude: also decode the whole file for its largest absolute sample.

    Raises:
        ValueError: not audio, empty or truncated.
    """
    info = audio_info(path, check_end=True)
    peak = None
    if amplitude:
        peak = max(
            read_audio(path, start, 2**22)[0].abs().max().item()
            for start in range(0, info.frames, 2**22)
        )
    entry = {
        'duration': info.duration,
        'sample_rate': info.sample_rate,
        'channels': info.channels,
        'amplitude': peak,
    }
    return {key: value for key, value in entry.items() if value is not None}


def probe_all(
    folder: Path,
    files: Sequence[FoundFile],
    workers: int | None = None,
    cache: bool = True,
    amplitude: bool = False,
) -> dict[str, Entry | str]:
    """Return the entry of each file, by name, or the reason why it cannot be used.

    Args:
        folder: folder or manifest to which the files belong, by which they are cached; the names of
            the files are relative to it, or absolute.
        files: the files.
        workers: processes that read, when there are many files; by default twice the number of
            usable cores, at most 16.
        cache: read and write the user's cache.
        amplitude: see `probe`; not cached.
    """
    cache_file = _cache_file(folder) if cache and not amplitude else None
    with _locked(cache_file):
        known = _load_cache(cache_file)
        unchanged = {
            name: known[name]
            for name, size, mtime in files
            if known.get(name, [None, None])[:2] == [size, mtime]
        }
        missing = [file for file in files if file.name not in unchanged]
        entries = {**unchanged, **_read_all(folder, missing, workers, amplitude)}
        if cache_file is not None and entries != known:
            _save_cache(cache_file, folder, entries)
    return {file.name: entries[file.name][2] for file in files}


def _read_all(
    folder: Path, files: Sequence[FoundFile], workers: int | None, amplitude: bool
) -> _Cached:
    """Read the given files, in several processes if there are many."""

    def died(file: FoundFile) -> list[Any]:
        raise ValueError(
            f'{folder / file.name}: the process reading it crashed (bad file, or out of memory): '
            'give the job more memory, or move the file away'
        )

    entries = map_files(
        partial(_read, folder, amplitude), files, workers, f'Indexing {folder.name}', died
    )
    return {file.name: values for file, values in zip(files, entries)}


def _read(folder: Path, amplitude: bool, file: FoundFile) -> list[Any]:
    try:
        if file.name.lower().endswith(tar.SUFFIX):
            found: Any = probe_tar(tar.url_of(file.name) or str(folder / file.name), amplitude)
        else:
            found = probe(folder / file.name, amplitude)
    except ValueError as error:
        found = str(error)
    return [file.size, file.mtime, found]


def _cache_file(folder: Path) -> Path | None:
    """Return the cache file of a folder's index; None if no cache folder is writable."""
    name = f'{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.jsonl.gz'
    cache = cache_folder('index')
    return None if cache is None else cache / name


def _cache_head() -> list[Any]:
    libraries = [soundfile.__libsndfile_version__, libav.version()]
    return ['audiocodec index', _CACHE_VERSION, libraries]


def _load_cache(path: Path | None) -> _Cached:
    """Read the entries of a cache file; empty if it is missing, damaged or of another version."""
    try:
        assert path is not None
        head, *lines = gzip.decompress(path.read_bytes()).splitlines()
        if json.loads(head)[:3] != _cache_head():
            return {}
        # one call, not one a line: of very many files, this takes most of the time
        found = json.loads(b'[' + b','.join(lines) + b']')
        return {name: [size, mtime, entry] for name, size, mtime, entry in found}
    except Exception:  # whatever is wrong with a cache, the folder can be read again
        return {}


def _save_cache(path: Path, folder: Path, entries: _Cached) -> None:
    lines = [json.dumps([*_cache_head(), str(folder)])]
    lines += [json.dumps([name, *values]) for name, values in entries.items()]
    try:
        write_bytes(path, ('\n'.join(lines) + '\n').encode())
    except OSError as error:
        logger.info('The index of %s is not cached: %s', folder, error)


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Lock the cache file: one of several workers reads the folder, the others read the cache."""
    try:
        import fcntl

        lock = open(f'{path}.lock', 'w') if path is not None else None  # noqa: SIM115
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
    except (ImportError, OSError):
        lock = None  # no locks here: every worker reads the folder, with the same result
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
