"""Manifests: JSON lines, optionally gzipped, one object per audio file.

    {"path": "speech/a.flac", "duration": 3.2, "sample_rate": 24000, "channels": 1, "weight": 2.0}

`path` (absolute, or relative to the manifest's folder), `duration` (s) and `sample_rate` (Hz) are
required; `channels`, `amplitude` (largest absolute sample), `weight` (relative sampling weight) and
`info_path` may be missing or null. Other keys are ignored. AudioCraft's manifests have this format,
with paths relative to the repository in which they were made. Relative paths that do not exist
below the manifest's folder are therefore looked up in its parent folders and in the working
directory.
"""

import dataclasses
import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiocodec.utils.distrib import is_rank_zero
from audiocodec.utils.files import write_bytes
from audiocodec.utils.progress import Progress

_PROBED = 16  # entries, spread over the list, looked up to find the base of relative paths
_LIMITS = {  # values outside this range are mistakes, or have another unit
    'duration': (0, 1e8),
    'sample_rate': (1, 768_000),
    'channels': (1, 1024),
    'amplitude': (0, 1e9),
    'weight': (0, 1e9),
}
_INTEGERS = ('sample_rate', 'channels')
_LOOKED_UP = 1000, 32  # files per task, and threads, when checking existence on network folders


@dataclass(slots=True)
class AudioMeta:
    """Manifest entry of one audio file.

    Attributes:
        path: absolute once loaded.
        duration: seconds.
        sample_rate: Hz.
        channels: None if the manifest does not say.
        amplitude: largest absolute sample; None if not measured.
        weight: relative sampling weight; None for 1.
        info_path: further information about the file, as 'ARCHIVE.zip:MEMBER' or a path; kept, not
            used.
    """

    path: str
    duration: float
    sample_rate: int
    channels: int | None = None
    amplitude: float | None = None
    weight: float | None = None
    info_path: str | None = None

    @classmethod
    def from_dict(cls, entry: Any) -> 'AudioMeta':
        """Check one manifest entry. Raises a ValueError that says what is wrong with it."""
        if not isinstance(entry, dict):
            raise ValueError(
                f'expected an object such as {{"path": ..., "duration": ...}}, got {_short(entry)}'
            )
        for key in ('path', 'duration', 'sample_rate'):
            if entry.get(key) is None:
                raise ValueError(f'{key!r} is missing')
        numbers = {key: _number(key, entry[key]) for key in _LIMITS if entry.get(key) is not None}
        info = entry.get('info_path')
        if isinstance(info, dict) and {'zip_path', 'file_path'} <= info.keys():
            info = f'{info["zip_path"]}:{info["file_path"]}'
        return cls(
            path=_path('path', entry['path']),
            duration=numbers['duration'],
            sample_rate=int(numbers['sample_rate']),
            channels=int(numbers['channels']) if 'channels' in numbers else None,
            amplitude=numbers.get('amplitude'),
            weight=numbers.get('weight'),
            info_path=None if info is None else _path('info_path', info),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest entry, without unknown values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def _number(key: str, value: Any) -> float:
    low, high = _LIMITS[key]
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high or (key in _INTEGERS and number != int(number)):
        kind = 'an integer' if key in _INTEGERS else 'a number'
        raise ValueError(f'{key!r} must be {kind} from {low:g} to {high:g}; got {_short(value)}')
    return number


def _path(key: str, value: Any) -> str:
    try:
        valid = isinstance(value, str) and value != '' and b'\0' not in os.fsencode(value)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise ValueError(f'{key!r} must be a path, got {_short(value)}')
    return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'


def printable(text: str) -> str:
    """Escape bytes of file names that are not valid text, for printing and logging."""
    return text.encode('utf-8', 'backslashreplace').decode()


def load_manifest(path: str | os.PathLike[str]) -> list[AudioMeta]:
    """Read a manifest, with absolute paths.

    Args:
        path: JSON lines; gzipped if it ends in '.gz'.

    Raises:
        ValueError: the file is missing, unreadable or empty, a line is invalid (named with its
            number), or none of the audio files looked up exists.
    """
    metas, problems = _parse_lines(Path(path))
    if problems:
        more = '' if len(problems) == 1 else f'; and {len(problems) - 1} more invalid lines'
        raise ValueError(problems[0] + more)
    _resolve(metas, Path(path))
    return metas


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


def _parse_lines(path: Path) -> tuple[list[AudioMeta], list[str]]:
    """Parse the entries as they are written, and a sentence on each invalid line."""
    metas = []
    problems = []
    for number, line in enumerate(_read_bytes(path).split(b'\n'), 1):
        if not line.strip():
            continue
        try:
            metas.append(AudioMeta.from_dict(_parse(line)))
        except ValueError as error:
            problems.append(f'{path}, line {number}: {error}')
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


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        text = line.decode('utf-8', 'replace').strip()
        raise ValueError(f'not JSON ({error}): {_short(text)}') from None


def _resolve(metas: Sequence[AudioMeta], manifest: Path) -> None:
    """Make the paths absolute, in place."""
    folder = manifest.absolute().parent
    bases = list(dict.fromkeys(str(base) for base in (folder, *folder.parents, Path.cwd())))
    step = -(-len(metas) // _PROBED)
    probes = [meta.path for meta in metas[::step]]
    hits = []
    for base in bases:
        hits.append(sum(os.path.isfile(os.path.join(base, probe)) for probe in probes))
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


def missing_files(paths: Sequence[str]) -> list[str]:
    """Return the paths at which there is no file.

    Half a million paths take 1 s on a local disk, and about 20 s where a look-up takes 1 ms.
    """
    at_once, threads = _LOOKED_UP
    bar: Progress[Any] = Progress(
        total=len(paths), desc='Looking for files', unit='file', enabled=is_rank_zero()
    )
    missing = []
    with ThreadPoolExecutor(threads) as pool:
        parts = (paths[begin : begin + at_once] for begin in range(0, len(paths), at_once))
        try:
            for part in pool.map(_absent, parts):
                missing += part
                bar.update(at_once)
        finally:
            bar.close()
    return missing


def _absent(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.isfile(path)]


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
