"""Data sources: turns a manifest, a folder or an audio file into a list of audio files.

A folder is indexed on first use. The index is kept in the user's cache folder, with size and
modification time of each file, so that the next use reads only files that changed.
"""

import gzip
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from audiocodec.data.audio import audio_info, read_audio
from audiocodec.data.manifest import AudioMeta, load_manifest, printable
from audiocodec.data.pool import map_files
from audiocodec.data.readers import EXTENSIONS, SNDFILE, libav
from audiocodec.data.shards import is_shards, load_shards
from audiocodec.utils.failures import warn_once
from audiocodec.utils.files import write_bytes
from audiocodec.utils.paths import cache_folder

logger = logging.getLogger(__name__)

SPLITS = ('train', 'valid', 'evaluate', 'generate')
# names of the sub-folders of each split, and the split used instead if there is none of them
_SPLIT_FOLDERS = {
    'train': (('train', 'training'), None),
    'valid': (('valid', 'validation', 'val', 'dev'), 'evaluate'),
    'evaluate': (('evaluate', 'eval', 'test'), 'valid'),
    'generate': (('generate',), 'evaluate'),
}
# manifest names: a folder with one of these is read from it (AudioCraft's convention)
_MANIFESTS = ('data.jsonl', 'data.jsonl.gz')
_CACHE_VERSION = 2
_NAMED = 20  # left-out files named in a warning

# relative path -> [size, mtime in ns, manifest entry or the reason (str) why it is unusable]
_Entries = dict[str, list[Any]]


def load_source(source: str | os.PathLike[str], **options: Any) -> list[AudioMeta]:
    """Return the files of a data source.

    Args:
        source: a manifest (see `manifest`); a folder, read from the data.jsonl or data.jsonl.gz in
            it, otherwise indexed; a folder of shards; or one audio file.
        **options: options of `index_folder`.

    Raises:
        ValueError: the source does not exist, is empty or invalid; names the path and what is
            accepted.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f'{path}: no such data source; expected a manifest (.jsonl, .jsonl.gz) or a folder '
            'with audio'
        )
    if is_shards(path):
        return load_shards(path)
    manifest = manifest_of(path)
    if manifest is not None:
        return load_manifest(manifest)
    return index_folder(path, **options) if path.is_dir() else [probe(path.absolute())]


def manifest_of(path: Path) -> Path | None:
    """Return the manifest of a data source; None for an audio file or a folder without manifest."""
    if path.is_dir():
        return next((path / name for name in _MANIFESTS if (path / name).is_file()), None)
    return None if path.suffix.lower() in EXTENSIONS else path


def probe(path: Path, amplitude: bool = False) -> AudioMeta:
    """Return the manifest entry of one audio file, after checking its end.

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
    return AudioMeta(str(path), info.duration, info.sample_rate, info.channels, peak)


def find_audio(folder: str | os.PathLike[str]) -> list[tuple[str, int, int]]:
    """Find the audio files below a folder: sorted (relative path with '/', size, mtime in ns).

    Follows links, enters each folder once, and skips names that begin with a dot.
    """
    found = []
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in files:
            if not name.startswith('.') and os.path.splitext(name)[1].lower() in EXTENSIONS:
                path = os.path.join(root, name)
                with suppress(OSError):  # a dangling link
                    status = os.stat(path)
                    found.append(
                        (
                            Path(os.path.relpath(path, folder)).as_posix(),
                            status.st_size,
                            status.st_mtime_ns,
                        )
                    )
    return sorted(found)


def readable(folder: Path, files: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return those of the found files that the installed libraries read; name the others once.

    Raises:
        ValueError: there are none.
    """
    if not files:
        raise ValueError(
            f'{folder}: no audio in this folder; expected files ending in {" ".join(EXTENSIONS)}'
        )
    if libav.version() is not None:
        return list(files)
    suffixes = [os.path.splitext(name)[1].lower() for name, _, _ in files]
    kept = [file for file, suffix in zip(files, suffixes) if suffix in SNDFILE]
    if len(kept) < len(files):
        foreign = Counter(suffix for suffix in suffixes if suffix not in SNDFILE)
        counts = ', '.join(f'{count} {suffix}' for suffix, count in foreign.most_common())
        text = (
            f'{folder}: {len(files) - len(kept)} of {len(files)} audio files left out ({counts}): '
            "these formats need the extra av: pip install 'audiocodec[av]'"
        )
        if not kept:
            raise ValueError(text)
        warn_once(logger, text, text)
    return kept


def index_folder(
    folder: str | os.PathLike[str],
    min_duration: float = 0.0,
    workers: int | None = None,
    cache: bool = True,
    amplitude: bool = False,
) -> list[AudioMeta]:
    """Return the audio files below a folder, sorted by path.

    Unreadable and short files are left out and named once in a warning.

    Args:
        folder: folder to search, with its sub-folders.
        min_duration: seconds; shorter files are left out.
        workers: processes that read, when there are many files; by default twice the number of
            usable cores, at most 16.
        cache: read and write the user's cache.
        amplitude: also measure the largest absolute sample of each file (decodes everything; not
            cached).

    Raises:
        ValueError: no such folder, or no readable audio in it; names the folder and the accepted
            suffixes.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f'{folder}: no such folder')
    files = readable(folder, find_audio(folder))
    cache = cache and not amplitude
    cache_file = _cache_file(folder) if cache else None
    with _locked(cache_file):
        known = _load_cache(cache_file)
        unchanged = {
            name: known[name]
            for name, size, mtime in files
            if known.get(name, [None, None])[:2] == [size, mtime]
        }
        missing = [file for file in files if file[0] not in unchanged]
        entries = {**unchanged, **_probe_all(folder, missing, workers, amplitude)}
        if cache_file is not None and entries != known:
            _save_cache(cache_file, folder, entries)
    metas = []
    left_out = []
    for name, _, _ in files:
        entry = entries[name][2]
        if isinstance(entry, str):
            left_out.append(entry)
        elif entry['duration'] < min_duration:
            left_out.append(f'{folder / name}: only {entry["duration"]:.3f} s long')
        else:
            metas.append(AudioMeta.from_dict({**entry, 'path': str(folder / name)}))
    _warn_left_out(folder, left_out, len(files))
    if not metas:
        raise ValueError(
            f'{folder}: none of its {len(files)} audio files can be used; e.g. {left_out[0]}'
        )
    return metas


def _probe_all(
    folder: Path, files: Sequence[tuple[str, int, int]], workers: int | None, amplitude: bool
) -> _Entries:
    """Read the entries of the given files, in several processes if there are many."""

    def died(file: tuple[str, int, int]) -> list[Any]:
        raise ValueError(
            f'{folder / file[0]}: the process reading it crashed (bad file, or out of memory): '
            'give the job more memory, or move the file away'
        )

    entries = map_files(
        partial(_probe_entry, folder, amplitude), files, workers, f'Indexing {folder.name}', died
    )
    return {file[0]: values for file, values in zip(files, entries)}


def _probe_entry(folder: Path, amplitude: bool, file: tuple[str, int, int]) -> list[Any]:
    name, size, mtime = file
    try:
        found: Any = probe(folder / name, amplitude).to_dict()
        del found['path']
    except ValueError as error:
        found = str(error)
    return [size, mtime, found]


def _warn_left_out(folder: Path, reasons: Sequence[str], total: int) -> None:
    """Warn about left-out files, once per folder, however many splits are taken from it."""
    if reasons:
        named = '; '.join(one.removeprefix(f'{folder}{os.sep}') for one in reasons[:_NAMED])
        more = f'; and {len(reasons) - _NAMED} more' if len(reasons) > _NAMED else ''
        text = printable(f'{folder}: {len(reasons)} of {total} audio files left out: {named}{more}')
        warn_once(logger, text, text)


def _cache_file(folder: Path) -> Path | None:
    """Return the cache file of a folder's index; None if no cache folder is writable."""
    name = f'{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.jsonl.gz'
    cache = cache_folder('index')
    return None if cache is None else cache / name


def _cache_head() -> list[Any]:
    libraries = [soundfile.__libsndfile_version__, libav.version()]
    return ['audiocodec index', _CACHE_VERSION, libraries]


def _load_cache(path: Path | None) -> _Entries:
    """Read the entries of a cache file; empty if it is missing, damaged or of another version."""
    try:
        assert path is not None
        head, *lines = gzip.decompress(path.read_bytes()).splitlines()
        if json.loads(head)[:3] != _cache_head():
            return {}
        return {name: [size, mtime, entry] for name, size, mtime, entry in map(json.loads, lines)}
    except Exception:  # whatever is wrong with a cache, the folder can be read again
        return {}


def _save_cache(path: Path, folder: Path, entries: _Entries) -> None:
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


def split(
    metas: Sequence[AudioMeta], name: str, root: str | os.PathLike[str] | None = None
) -> list[AudioMeta]:
    """Return one split of a set of files: 90 % train, 5 % valid, 5 % evaluate and generate.

    The split of a file depends on a hash of its path relative to `root`. It does not change when
    files are added or removed, or when the folder moves. Every split has at least one file.

    Args:
        metas: all files, with absolute paths.
        name: train, valid, evaluate or generate; the last two share their files.
        root: folder that paths are relative to; by default the deepest folder common to all.

    Raises:
        ValueError: unknown name, or fewer than 3 files.
    """
    if name not in SPLITS:
        raise ValueError(f'split {name!r}: expected one of {", ".join(SPLITS)}')
    root = (
        os.path.commonpath([os.path.dirname(meta.path) for meta in metas])
        if root is None and metas
        else root
    )
    if len(metas) < 3:
        raise ValueError(
            f'{root}: {len(metas)} audio files cannot be split into train, valid and test: '
            'give at least 3, or name a source for each (datasource.train=... datasource.valid=...)'
        )

    def place(meta: AudioMeta) -> float:
        relative = Path(os.path.relpath(meta.path, root)).as_posix()
        return int.from_bytes(hashlib.sha256(os.fsencode(relative)).digest()[:8], 'big') / 2**64

    places = sorted((place(meta), index) for index, meta in enumerate(metas))
    # the bounds keep at least one file in every split of a small set
    train = min(max(sum(where < 0.90 for where, _ in places), 1), len(metas) - 2)
    valid = min(max(sum(where < 0.95 for where, _ in places), train + 1), len(metas) - 1)
    begin, end = {'train': (0, train), 'valid': (train, valid)}.get(name, (valid, len(metas)))
    chosen = sorted(index for _, index in places[begin:end])
    return [metas[index] for index in chosen]


def split_folder(folder: str | os.PathLike[str], name: str, **options: Any) -> list[AudioMeta]:
    """Return one split of a folder (or manifest) that contains all of a user's data.

    A folder with sub-folders for train and for valid or evaluate (also named val, dev, test ...) is
    split by them. If valid or evaluate is missing, the other is used for both; generate uses
    evaluate unless it has its own sub-folder. Everything else is split by `split`.

    Args:
        folder: a folder or manifest.
        name: train, valid, evaluate or generate.
        **options: options of `index_folder`.
    """
    if name not in SPLITS:
        raise ValueError(f'split {name!r}: expected one of {", ".join(SPLITS)}')
    root = Path(folder).expanduser()
    own: dict[str, Path] = {}
    for key, (names, _) in _SPLIT_FOLDERS.items():
        for sub in names:
            if (root / sub).is_dir():
                own.setdefault(key, root / sub)
    if 'train' in own and ('valid' in own or 'evaluate' in own):
        while name not in own:
            fallback = _SPLIT_FOLDERS[name][1]
            assert fallback is not None
            name = fallback
        return load_source(own[name], **options)
    return split(load_source(root, **options), name, root.absolute() if root.is_dir() else None)
