"""Data sources: turns a manifest, a folder or an audio file into a list of audio files.

A folder is indexed on first use. The index is kept in the user's cache folder, with size and
modification time of each file, so that the next use reads only files that changed.
"""

import functools
import hashlib
import logging
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiocodec.data.manifest import AudioMeta, load_manifest, warn_left_out
from audiocodec.data.probe import Entry, FoundFile, probe, probe_all
from audiocodec.data.readers import EXTENSIONS, SNDFILE, file_of, libav, tar
from audiocodec.data.readers.base import file_key
from audiocodec.data.shards import is_shards, load_shards
from audiocodec.utils.failures import warn_once

logger = logging.getLogger(__name__)

_PARENT = re.compile(r'parent(\d*)')  # values of group_by that are no key of the manifest
FRACTIONS = (0.9, 0.05, 0.05)  # of train, valid and evaluate
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


def load_source(
    source: str | os.PathLike[str], group_by: str | None = None, **options: Any
) -> list[AudioMeta]:
    """Return the files of a data source.

    Args:
        source: a manifest (see `manifest`); a folder, read from the data.jsonl or data.jsonl.gz in
            it, otherwise indexed; a folder of shards; tar archives (see `readers.tar.expand`); or
            one audio file.
        group_by: key of a manifest whose value is the group of an entry, see `split`.
        **options: options of `index_folder`.

    Raises:
        ValueError: the source does not exist, is empty or invalid; names the path and what is
            accepted.
    """
    path = Path(source).expanduser()
    if is_shards(path):
        return load_shards(path)
    if path.is_dir():
        manifest = manifest_of(path)
        if manifest is not None:
            return load_manifest(manifest, group_by)
        archives = tar.expand(path)
        if archives and not find_audio(path):
            return load_tars(path, archives, **options)
        return index_folder(path, **options)
    archives = tar.expand(path)
    if archives:
        return load_tars(path, archives, **options)
    if not path.exists():
        raise ValueError(
            f'{path}: no such data source; expected a manifest (.jsonl, .jsonl.gz), a folder '
            'with audio, or tar archives'
        )
    if path.suffix.lower() not in EXTENSIONS:
        return load_manifest(path, group_by)
    return [AudioMeta.from_dict({'path': str(path.absolute()), **probe(path.absolute())})]


def load_tars(
    source: Path,
    archives: Sequence[str],
    min_duration: float = 0.0,
    workers: int | None = None,
    cache: bool = True,
    amplitude: bool = False,
) -> list[AudioMeta]:
    """Return the audio files in tar archives, in their order; see `index_folder` for the options.

    Archives are listed once; afterwards only those that have changed.

    Raises:
        ValueError: an archive that cannot be read, or no audio in any.
    """
    files = []
    for archive in archives:
        if tar.url_of(archive) is None:
            files.append(FoundFile(*file_key(os.path.abspath(archive))))
        else:
            files.append(FoundFile(archive, tar.size_of(archive), 0))
    entries = probe_all(source.absolute(), files, workers, cache, amplitude)
    members: list[tuple[str, Entry | str]] = []
    for file in files:
        entry = entries[file.name]
        if isinstance(entry, str):
            raise ValueError(entry)
        members += entry['members']
    if not members:
        raise ValueError(
            f'{tar.url_of(source) or source}: no audio in {len(archives)} archives; expected '
            f'members ending in {" ".join(EXTENSIONS)}'
        )
    return _usable(source, members, min_duration)


def _usable(
    source: Path, found: Sequence[tuple[str, Entry | str]], min_duration: float
) -> list[AudioMeta]:
    """Return the files that can be used; the others are named in a warning.

    Args:
        source: where they are.
        found: of each file, its path, and its entry or what is wrong with it.
        min_duration: seconds; shorter files are left out.

    Raises:
        ValueError: none can be used.
    """
    metas, left_out = [], []
    for path, entry in found:
        if isinstance(entry, str):
            left_out.append(entry)
        elif entry['duration'] < min_duration:
            left_out.append(f'{path}: only {entry["duration"]:.3f} s long')
        else:
            metas.append(AudioMeta(path, **entry))
    warn_left_out(source, left_out, len(found))
    if not metas:
        raise ValueError(
            f'{source}: none of its {len(found)} audio files can be used; e.g. {left_out[0]}'
        )
    return metas


def manifest_of(path: Path) -> Path | None:
    """Return the manifest of a data source; None for an audio file or a folder without manifest."""
    if path.is_dir():
        return next((path / name for name in _MANIFESTS if (path / name).is_file()), None)
    return None if path.suffix.lower() in EXTENSIONS else path


def find_audio(folder: str | os.PathLike[str]) -> list[FoundFile]:
    """Find the audio files below a folder, sorted, with paths relative to it.

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
        relative = Path(os.path.relpath(root, folder)).as_posix()
        prefix = '' if relative == '.' else f'{relative}/'
        for name in files:
            if not name.startswith('.') and os.path.splitext(name)[1].lower() in EXTENSIONS:
                with suppress(OSError):  # a dangling link
                    status = os.stat(f'{root}{os.sep}{name}')
                    found.append(FoundFile(prefix + name, status.st_size, status.st_mtime_ns))
    return sorted(found, key=operator.itemgetter(0))


def readable(folder: Path, files: Sequence[FoundFile]) -> list[FoundFile]:
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
    entries = probe_all(folder, files, workers, cache, amplitude)
    start = os.path.join(folder, '')
    found = [(start + name, entries[name]) for name, _, _ in files]
    return _usable(folder, found, min_duration)


def with_share(
    metas: Sequence[AudioMeta], share: float, by_duration: bool = True
) -> list[AudioMeta]:
    """Return files with weights such that they are drawn in proportion to a share.

    Args:
        metas: files of one source, whose own weights keep their ratios.
        share: of this source, relative to others.
        by_duration: whether files are also drawn in proportion to their duration.

    Raises:
        ValueError: every weight is 0.
    """
    own = [1.0 if meta.weight is None else meta.weight for meta in metas]
    total = sum(weight * (meta.duration if by_duration else 1) for meta, weight in zip(metas, own))
    if not total > 0:
        raise ValueError(f'{metas[0].path} and others: every weight is 0')
    return [replace(meta, weight=share * weight / total) for meta, weight in zip(metas, own)]


def split(
    metas: Sequence[AudioMeta],
    name: str,
    root: str | os.PathLike[str] | None = None,
    group_by: str | None = None,
    fractions: tuple[float, ...] = FRACTIONS,
) -> list[AudioMeta]:
    """Return one split of a set of files, by default 90 % train, 5 % valid, 5 % evaluate.

    The split of a file depends on a hash of its path relative to `root`. It does not change when
    files are added or removed, or when the folder moves. Every split has at least one file, or
    group of files. The splits evaluate and generate are the same.

    Args:
        metas: all files, with absolute paths.
        name: train, valid, evaluate or generate; the last two share their files.
        root: folder that paths are relative to; by default the deepest folder common to all.
        group_by: `parent` keeps files of one folder in one split; `parent2` and so on, those of the
            folder so many levels up; any other name, those with the same value of this key in the
            manifest. None: each file on its own.
        fractions: of train, valid and evaluate.

    Raises:
        ValueError: unknown name, fewer than 3 files or groups, or files without the key.
    """
    _check_split(name)
    return _split_all(metas, root, group_by, fractions)[name]


def _check_split(name: str) -> None:
    if name not in SPLITS:
        raise ValueError(f'split {name!r}: expected one of {", ".join(SPLITS)}')


def _split_all(
    metas: Sequence[AudioMeta],
    root: str | os.PathLike[str] | None,
    group_by: str | None,
    fractions: tuple[float, ...],
) -> dict[str, list[AudioMeta]]:
    """Return every split, see `split`."""
    root = (
        os.path.commonpath([os.path.dirname(meta.path) for meta in metas])
        if root is None and metas
        else root
    )
    start = os.path.join(root or '', '')
    groups = [_group(meta, start, group_by) for meta in metas]
    places = sorted((_place(group), group) for group in set(groups))
    if len(places) < 3:
        what = 'audio files' if group_by is None else f'groups of files (by {group_by})'
        raise ValueError(
            f'{root}: {len(places)} {what} cannot be split into train, valid and test: '
            'give at least 3, or name a source for each (datasource.train=... datasource.valid=...)'
        )
    # the bounds keep at least one file in every split of a small set
    low, high = fractions[0], fractions[0] + fractions[1]
    train = min(max(sum(where < low for where, _ in places), 1), len(places) - 2)
    valid = min(max(sum(where < high for where, _ in places), train + 1), len(places) - 1)
    names = ['train'] * train + ['valid'] * (valid - train) + ['evaluate'] * (len(places) - valid)
    split_of = {group: name for (_, group), name in zip(places, names)}
    found: dict[str, list[AudioMeta]] = {'train': [], 'valid': [], 'evaluate': []}
    for meta, group in zip(metas, groups):
        found[split_of[group]].append(meta)
    return {**found, 'generate': found['evaluate']}


def _group(meta: AudioMeta, root: str, group_by: str | None) -> str:
    """Return the name of what is kept in one split; `root` ends in a separator."""
    path = tar.without_position(file_of(meta.path))
    relative = path[len(root) :] if path.startswith(root) else os.path.relpath(path, root)
    relative = relative.replace(os.sep, '/')
    levels = _PARENT.fullmatch(group_by or '')
    if group_by is None:
        return relative
    if levels is None:
        if meta.group is None:
            raise ValueError(
                f'{meta.path}: has no {group_by!r} in the manifest, by which '
                f'datasource.group_by={group_by} splits'
            )
        return meta.group
    for _ in range(int(levels[1] or 1)):
        relative = os.path.dirname(relative)
    return relative


def _place(group: str) -> float:
    """Return a number from 0 to 1 that depends on a name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(group)).digest()[:8], 'big') / 2**64


class FolderSplits:
    """The splits of a folder (or manifest) that contains all of a user's data.

    A folder with sub-folders for train and for valid or evaluate (also named val, dev, test ...) is
    split by them. If valid or evaluate is missing, the other is used for both; generate uses
    evaluate unless it has its own sub-folder. Everything else is split by `split`, once.

    Args:
        folder: a folder or manifest.
        group_by: see `split`.
        fractions: see `split`.
        load: `load_source`, or one that remembers what it has read.
        **options: options of `index_folder`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        group_by: str | None = None,
        fractions: tuple[float, ...] = FRACTIONS,
        load: Callable[..., list[AudioMeta]] = load_source,
        **options: Any,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.group_by = group_by
        self.fractions = fractions
        self._load = functools.partial(load, **options)

    def files(self, name: str) -> list[AudioMeta]:
        """Return the files of train, valid, evaluate or generate."""
        _check_split(name)
        own: dict[str, Path] = {}
        for key, (names, _) in _SPLIT_FOLDERS.items():
            for sub in names:
                if (self.folder / sub).is_dir():
                    own.setdefault(key, self.folder / sub)
        if not ('train' in own and ('valid' in own or 'evaluate' in own)):
            return self._divided[name]
        while name not in own:
            fallback = _SPLIT_FOLDERS[name][1]
            assert fallback is not None
            name = fallback
        return self._load(own[name])

    @functools.cached_property
    def _divided(self) -> dict[str, list[AudioMeta]]:
        is_key = self.group_by is not None and not _PARENT.fullmatch(self.group_by)
        metas = self._load(self.folder, group_by=self.group_by if is_key else None)
        root = self.folder.absolute() if self.folder.is_dir() else None
        return _split_all(metas, root, self.group_by, self.fractions)


def split_folder(
    folder: str | os.PathLike[str],
    name: str,
    group_by: str | None = None,
    fractions: tuple[float, ...] = FRACTIONS,
    **options: Any,
) -> list[AudioMeta]:
    """Return one split of a folder or manifest, see `FolderSplits`."""
    return FolderSplits(folder, group_by, fractions, **options).files(name)
