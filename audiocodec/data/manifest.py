"""Manifests: JSON lines, optionally gzipped, one object per audio file.

    {"path": "speech/a.flac", "duration": 3.2, "sample_rate": 24000, "channels": 1, "weight": 2.0}

Only `path` is required: absolute, or relative to the manifest's folder. What is missing of
`duration` (s), `sample_rate` (Hz) and `channels` is read from the files. With `offset` (s), an
entry is the part of the file that begins there and lasts `duration`. `amplitude` (largest absolute
sample), `weight` (relative sampling weight) and `info_path` may be missing or null. Other keys are
ignored. `lists` describes other forms of manifests.

AudioCraft's manifests have this format, with paths relative to the repository in which they were
made. Relative paths that do not exist below the manifest's folder are therefore looked up in its
parent folders and in the working directory.
"""

import dataclasses
import gzip
import itertools
import json
import logging
import math
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiocodec.data.lists import parse, short
from audiocodec.data.probe import FoundFile, probe_all
from audiocodec.data.readers import file_of, name_part, tar
from audiocodec.data.readers.base import file_key
from audiocodec.utils.distrib import is_rank_zero
from audiocodec.utils.failures import warn_once
from audiocodec.utils.files import write_bytes
from audiocodec.utils.progress import Progress

logger = logging.getLogger(__name__)
_PROBED = 16  # entries, spread over the list, looked up to find the base of relative paths
_LIMITS = {  # values outside this range are mistakes, or have another unit
    'duration': (0, 1e8),
    'offset': (0, 1e8),
    'sample_rate': (1, 768_000),
    'channels': (1, 1024),
    'amplitude': (0, 1e9),
    'weight': (0, 1e9),
}
_NAMED = 20  # left-out files named in a warning
_INTEGERS = ('sample_rate', 'channels')
_LISTED = 100  # files of one folder that are not looked up one by one
_LOOKED_UP = 1000, 32  # files per task, and threads, when checking existence on network folders


@dataclass(slots=True)
class AudioMeta:
    """Manifest entry of one audio file.

    Attributes:
        path: absolute once loaded; of a part of a file, see `readers.window`.
        duration: seconds.
        sample_rate: Hz; 0 if it must still be read from the file, as the duration.
        channels: None if the manifest does not say.
        amplitude: largest absolute sample; None if not measured.
        weight: relative sampling weight; None for 1.
        info_path: further information about the file, as 'ARCHIVE.zip:MEMBER' or a path; kept, not
            used.
        group: what must stay in one split, see `index.split`; not kept beyond that.
    """

    path: str
    duration: float
    sample_rate: int
    channels: int | None = None
    amplitude: float | None = None
    weight: float | None = None
    info_path: str | None = None
    group: str | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, entry: Any, is_complete: bool = True) -> 'AudioMeta':
        """Check one manifest entry. Raises a ValueError that says what is wrong with it.

        Args:
            entry: the entry.
            is_complete: refuse entries without `duration` and `sample_rate`; otherwise these are 0.
        """
        if not isinstance(entry, dict):
            raise ValueError(
                f'expected an object such as {{"path": ..., "duration": ...}}, got {short(entry)}'
            )
        for key in ('path', 'duration', 'sample_rate') if is_complete else ('path',):
            if entry.get(key) is None:
                raise ValueError(f'{key!r} is missing')
        numbers = {key: _number(key, entry[key]) for key in _LIMITS if entry.get(key) is not None}
        info = entry.get('info_path')
        if isinstance(info, dict) and {'zip_path', 'file_path'} <= info.keys():
            info = f'{info["zip_path"]}:{info["file_path"]}'
        path = _path('path', entry['path'])
        duration = numbers.get('duration', 0.0)
        if 'offset' in numbers:
            if not duration > 0:
                raise ValueError("'offset' needs the 'duration' of the part")
            path = name_part(path, numbers['offset'], numbers['offset'] + duration)
        return cls(
            path=path,
            duration=duration,
            sample_rate=int(numbers.get('sample_rate', 0)),
            channels=int(numbers['channels']) if 'channels' in numbers else None,
            amplitude=numbers.get('amplitude'),
            weight=numbers.get('weight'),
            info_path=None if info is None else _path('info_path', info),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest entry, without unknown values."""
        entry = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        entry.pop('group', None)
        if not self.sample_rate:
            del entry['duration'], entry['sample_rate']
        return entry


def _number(key: str, value: Any) -> float:
    low, high = _LIMITS[key]
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high or (key in _INTEGERS and number != int(number)):
        kind = 'an integer' if key in _INTEGERS else 'a number'
        raise ValueError(f'{key!r} must be {kind} from {low:g} to {high:g}; got {short(value)}')
    return number


def _path(key: str, value: Any) -> str:
    try:
        valid = isinstance(value, str) and value != '' and b'\0' not in os.fsencode(value)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise ValueError(f'{key!r} must be a path, got {short(value)}')
    return str(value)


def printable(text: str) -> str:
    """Escape bytes of file names that are not valid text, for printing and logging."""
    return text.encode('utf-8', 'backslashreplace').decode()


def load_manifest(path: str | os.PathLike[str], group_by: str | None = None) -> list[AudioMeta]:
    """Read a manifest, with absolute paths.

    Args:
        path: JSON lines, or another form, see `lists`; gzipped if it ends in '.gz'.
        group_by: key whose value is the group of an entry.

    Raises:
        ValueError: the file is missing, unreadable or empty, a line is invalid (named with its
            number), none of the audio files looked up exists, or what the manifest lacks cannot be
            read from any file.
    """
    metas, problems = _parse_lines(Path(path), group_by)
    if problems:
        more = '' if len(problems) == 1 else f'; and {len(problems) - 1} more invalid lines'
        raise ValueError(problems[0] + more)
    _resolve(metas, Path(path))
    return _completed(metas, Path(path))


def read_manifest(path: str | os.PathLike[str]) -> tuple[list[AudioMeta], list[str]]:
    """Read the valid entries of a manifest, with absolute paths, and a sentence per invalid line.

    Raises:
        ValueError: the file is missing, unreadable or empty, or none of the audio files looked up
            exists.
    """
    metas, problems = _parse_lines(Path(path))
    if metas:
        _resolve(metas, Path(path))
    return metas, problems


def _parse_lines(path: Path, group_by: str | None = None) -> tuple[list[AudioMeta], list[str]]:
    """Parse the entries as they are written, and a sentence on each invalid line."""
    metas = []
    problems = []
    for line in parse(path, _read_bytes(path)):
        try:
            if line.problem is not None:
                raise ValueError(line.problem)
            meta = AudioMeta.from_dict(line.entry, is_complete=False)
            if group_by is not None and line.entry.get(group_by) is not None:
                meta.group = str(line.entry[group_by])
            metas.append(meta)
        except ValueError as error:
            problems.append(f'{path}, line {line.number}: {error}')
    if not metas and not problems:
        raise ValueError(f'{path}: the manifest has no entries')
    return metas, problems


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == '.gz' else data
    except FileNotFoundError:
        raise ValueError(f'{path}: no such manifest') from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path}: cannot be read: {error}') from error


def _resolve(metas: Sequence[AudioMeta], manifest: Path) -> None:
    """Make the paths absolute, in place."""
    folder = manifest.absolute().parent
    bases = list(dict.fromkeys(str(base) for base in (folder, *folder.parents, Path.cwd())))
    step = -(-len(metas) // _PROBED)
    probes = [meta.path for meta in metas[::step]]
    hits = []
    for base in bases:
        hits.append(sum(_exists(file_of(os.path.join(base, probe))) for probe in probes))
    if max(hits) == 0:
        raise ValueError(
            f'{manifest}: its audio files do not exist, e.g. {os.path.join(bases[0], probes[0])}; '
            'relative paths start at the folder of the manifest'
        )
    # ties go to the first base: the folder of the manifest, then its parents
    base = bases[hits.index(max(hits))]
    for meta in metas:
        meta.path = os.path.normpath(os.path.join(base, meta.path))
        if meta.info_path is not None:
            meta.info_path = os.path.join(base, meta.info_path)


def _completed(metas: Sequence[AudioMeta], manifest: Path) -> list[AudioMeta]:
    """Read from the files what their entries lack; leave out those that cannot be read."""
    files = []
    for path in {file_of(meta.path) for meta in metas if not meta.sample_rate}:
        with suppress(OSError):  # missing files are reported together, later
            key = file_key(path)
            files.append(FoundFile(*key))
    if not files:
        return list(metas)
    entries = probe_all(manifest.absolute(), sorted(files))
    kept, left_out = [], []
    for meta in metas:
        path = file_of(meta.path)
        entry = entries.get(path)
        if isinstance(entry, str):
            left_out.append(entry)
            continue
        if entry is not None and not meta.sample_rate:
            meta.sample_rate, meta.channels = entry['sample_rate'], entry['channels']
            if path == meta.path:
                meta.duration = entry['duration']
        kept.append(meta)
    if not kept:
        raise ValueError(f'{manifest}: none of its files can be used; e.g. {left_out[0]}')
    warn_left_out(manifest, left_out, len(metas))
    return kept


def warn_left_out(source: Path, reasons: Sequence[str], total: int) -> None:
    """Warn about left-out files, once per source, however many splits are taken from it."""
    if reasons:
        named = '; '.join(one.removeprefix(f'{source}{os.sep}') for one in reasons[:_NAMED])
        more = f'; and {len(reasons) - _NAMED} more' if len(reasons) > _NAMED else ''
        text = printable(f'{source}: {len(reasons)} of {total} audio files left out: {named}{more}')
        warn_once(logger, text, text)


def missing_files(paths: Sequence[str]) -> list[str]:
    """Return the paths at which there is no file.

    A folder with many of them is listed, which takes one request; the others are looked up one by
    one, in threads, since a look-up may take 1 ms.
    """
    at_once, threads = _LOOKED_UP
    places = {path: tar.container(file_of(path)) for path in paths}
    folders = defaultdict(list)
    for place in dict.fromkeys(places.values()):
        if tar.url_of(place) is None:
            folders[os.path.dirname(place)].append(place)
    bar: Progress[Any] = Progress(
        total=sum(map(len, folders.values())),
        desc='Looking for files',
        unit='file',
        enabled=is_rank_zero(),
    )
    alone = [place for files in folders.values() if len(files) < _LISTED for place in files]
    parts = [files for files in folders.values() if len(files) >= _LISTED]
    parts += [alone[begin : begin + at_once] for begin in range(0, len(alone), at_once)]
    missing: set[str] = set()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part, absent in zip(parts, pool.map(_absent, parts)):
                missing.update(absent)
                bar.update(len(part))
        finally:
            bar.close()
    return [path for path in paths if places[path] in missing]


def _absent(places: Sequence[str]) -> list[str]:
    """Return those that are not files; if they are many and of one folder, by listing it."""
    wanted = set(places)
    folder = os.path.dirname(places[0])
    if len(places) >= _LISTED and all(os.path.dirname(place) == folder for place in places):
        with suppress(OSError), os.scandir(folder or '.') as entries:
            # not to the end of a folder that contains much else
            for entry in itertools.islice(entries, 4 * len(places)):
                if entry.is_file():
                    wanted.discard(os.path.join(folder, entry.name))
    return [place for place in places if place in wanted and not os.path.isfile(place)]


def _exists(path: str) -> bool:
    place = tar.container(path)
    return tar.url_of(place) is not None or os.path.isfile(place)


def save_manifest(
    metas: Iterable[AudioMeta], path: str | os.PathLike[str], relative: bool = True
) -> None:
    """Write a manifest, atomically.

    Args:
        metas: entries with absolute paths.
        path: gzipped if it ends in '.gz'; missing folders are created.
        relative: write paths below the manifest's folder relative to it, so that the folder can be
            moved.
    """
    path = Path(path)
    folder = str(path.absolute().parent)
    lines = []
    for meta in metas:
        entry = meta.to_dict()
        if relative and os.path.abspath(meta.path).startswith(folder.rstrip(os.sep) + os.sep):
            entry['path'] = os.path.relpath(os.path.abspath(meta.path), folder)
        lines.append(json.dumps(entry) + '\n')
    write_bytes(path, ''.join(lines).encode())


@dataclass(frozen=True)
class Summary:
    """Summary of a list of files.

    Attributes:
        files: number of files.
        hours: total length.
        sample_rates: number of files by sample rate (Hz), ascending.
        channels: number of files by number of channels, ascending; 0 for unknown.
    """

    files: int
    hours: float
    sample_rates: dict[int, int]
    channels: dict[int, int]

    def __str__(self) -> str:
        rates = ', '.join(f'{rate} Hz ({count})' for rate, count in self.sample_rates.items())
        channels = ', '.join(
            f'{number or "unknown"} ({count})' for number, count in self.channels.items()
        )
        return (
            f'{self.files} files, {self.hours:.2f} h, sample rates: {rates}, channels: {channels}'
        )


def summarize(metas: Sequence[AudioMeta]) -> Summary:
    """Count files, hours, sample rates and channels."""
    return Summary(
        files=len(metas),
        hours=sum(meta.duration for meta in metas) / 3600,
        sample_rates=dict(sorted(Counter(meta.sample_rate for meta in metas).items())),
        channels=dict(sorted(Counter(meta.channels or 0 for meta in metas).items())),
    )
