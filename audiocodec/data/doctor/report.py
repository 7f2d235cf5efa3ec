"""Report on a data set: decodes and measures every file, and finds duplicates.

`check` examines a source and returns a `Report`. `Report.show` formats it as text, `to_dict` as
JSON, and `cleaned` lists the files without errors.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from audiocodec.data.doctor.file import ERRORS, KINDS, WARNINGS, Examined, Limits, examine
from audiocodec.data.index import find_audio, manifest_of
from audiocodec.data.manifest import AudioMeta, printable, read_manifest, summarize
from audiocodec.data.pool import map_files
from audiocodec.data.readers import EXTENSIONS
from audiocodec.data.shards import HEAD, is_shards

_EDGES = (0.5, 1, 2, 5, 10, 20, 60, 300, 1800)  # of the histogram of durations, in seconds
_BAR = 40  # characters


@dataclass
class Report:
    """Findings on a manifest or folder.

    Attributes:
        source: as given.
        files: findings on each file, in the order of the source.
        metas: their manifest entries; None for the files of a folder.
        lines: one sentence per invalid line of the manifest.
        limits: thresholds of problems.
    """

    source: str
    files: list[Examined]
    metas: list[AudioMeta | None]
    lines: list[str]
    limits: Limits

    @property
    def has_errors(self) -> bool:
        """True if there is an error (see `file.ERRORS`)."""
        return bool(self.lines) or any(file.has_error for file in self.files)

    @property
    def counts(self) -> dict[str, int]:
        """Number of files (for 'manifest': of lines) with each kind of problem."""
        found: Counter[str] = Counter()
        for file in self.files:
            found.update({problem.kind for problem in file.problems})
        found['manifest'] = len(self.lines)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def durations(self) -> list[tuple[float, float | None, int]]:
        """Return a histogram of the decoded files: (from, below (s; None: no limit), count)."""
        counts = [0] * (len(_EDGES) + 1)
        for file in self.files:
            if file.digest is not None:
                counts[sum(file.duration >= edge for edge in _EDGES)] += 1
        return list(zip((0.0, *_EDGES), (*_EDGES, None), counts))

    def cleaned(self, exclude: Collection[str] = (), fix: bool = False) -> list[AudioMeta]:
        """Return the files without errors, with measured amplitudes.

        Args:
            exclude: kinds of warnings whose files are left out too; one of each set of duplicates
                stays.
            fix: keep files whose only error is a wrong manifest entry, with the values of the file.

        Raises:
            ValueError: if a kind is unknown, or no file is left.
        """
        unknown = sorted(set(exclude) - set(KINDS))
        if unknown:
            raise ValueError(f'exclude={", ".join(unknown)}: expected any of {", ".join(WARNINGS)}')
        bad = {*ERRORS, *exclude} - ({'mismatch'} if fix else set())
        kept = []
        for file, meta in zip(self.files, self.metas):
            if file.digest is None or any(problem.kind in bad for problem in file.problems):
                continue
            assert file.sample_rate is not None
            own = AudioMeta(
                file.path, file.duration, file.sample_rate, file.channels, file.amplitude
            )
            if meta is not None:
                own = replace(own, weight=meta.weight, info_path=meta.info_path)
            kept.append(own)
        if not kept:
            raise ValueError(f'{self.source}: no file is left after cleaning')
        return kept

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON: totals, limits, and each file with measures and problems."""
        levels = {kind: 'error' if kind in ERRORS else 'warning' for kind in KINDS}
        files = []
        for file in self.files:
            problems = [
                {'kind': p.kind, 'level': levels[p.kind], 'detail': p.detail} for p in file.problems
            ]
            files.append({**asdict(file), 'problems': problems})
        return {
            'source': self.source,
            'files': len(self.files),
            'hours': self._hours(self.files),
            'errors': len(self.lines) + sum(file.has_error for file in self.files),
            'counts': self.counts,
            'limits': asdict(self.limits),
            'manifest': self.lines,
            'durations': [
                {'from': low, 'below': high, 'files': count}
                for low, high, count in self.durations()
            ],
            'entries': files,
        }

    def show(self, examples: int = 5) -> str:
        """Format the report as text.

        Args:
            examples: number of files to name for each kind of problem, the worst first.
        """
        readable = [
            AudioMeta(file.path, file.duration, file.sample_rate, file.channels)
            for file in self.files
            if file.sample_rate
        ]
        left = len(self.files) - len(readable)
        head = f'{self.source}: {summarize(readable)}'
        if left:
            head += f'; {left} more cannot be opened'
        lines = [
            head,
            '',
            *self._show_counts(),
            *self._show_examples(examples),
            '',
            *self._show_durations(),
        ]
        return printable('\n'.join(lines))

    __str__ = show

    @staticmethod
    def _hours(files: Sequence[Examined]) -> float:
        return sum(file.duration for file in files) / 3600

    def _having(self, kind: str) -> list[Examined]:
        return [file for file in self.files if file.has(kind)]

    def _show_counts(self) -> list[str]:
        fine = [file for file in self.files if not file.problems]
        lines = [
            f'{"":7}  {"":13} {"files":>8} {"hours":>8}',
            f'{"ok":7}  {"":13} {len(fine):8} {self._hours(fine):8.2f}',
        ]
        for kind, count in self.counts.items():
            level = 'ERROR' if kind in ERRORS else 'warning'
            hours = self._hours(self._having(kind))
            lines.append(f'{level:7}  {kind:13} {count:8} {hours:8.2f}  {KINDS[kind]}')
        return lines

    def _show_examples(self, most: int) -> list[str]:
        root = ''
        if self.files:
            root = os.path.commonpath([os.path.dirname(file.path) for file in self.files])
        inside = root + os.sep if root.strip(os.sep) else ''
        lines: list[str] = []
        for kind, count in self.counts.items() if most else ():
            named = []
            for file in self._having(kind):
                path = os.path.relpath(file.path, root)
                for problem in file.problems:
                    if problem.kind == kind:
                        named.append((problem.severity, path, problem.detail))
            named.sort(key=lambda example: (-example[0], example[1]))
            texts = [f'{path}: {detail.replace(inside, "")}' for _, path, detail in named]
            if not texts:  # invalid lines of a manifest belong to no file
                texts = self.lines
            lines += ['', f'{kind}, the worst {most} of {count}:' if count > most else f'{kind}:']
            lines += [f'  {text}' for text in texts[:most]]
        return [*lines, '', f'(paths below {root})'] if lines else lines

    def _show_durations(self) -> list[str]:
        rows = self.durations()
        most = max(count for _, _, count in rows) or 1
        lines = ['durations']
        for low, high, count in rows:
            label = (
                f'{_seconds(low)} and more'
                if high is None
                else f'{_seconds(low)} to {_seconds(high)}'
            )
            bar = '#' * max(int(_BAR * count / most), count > 0)
            lines.append(f'  {label:>16} {count:8} {bar}'.rstrip())
        return lines


def _seconds(seconds: float) -> str:
    return f'{seconds:g} s' if seconds < 60 else f'{seconds / 60:g} min'


def check(
    source: str | os.PathLike[str], limits: Limits | None = None, workers: int | None = None
) -> Report:
    """Examine every file of a manifest or folder, or a single file, in several processes.

    A folder with a data.jsonl or data.jsonl.gz is checked by this manifest, as training would use
    it.

    Args:
        source: see above.
        limits: thresholds of problems.
        workers: processes; by default twice the number of usable cores, at most 16.

    Raises:
        ValueError: no such source, no audio file in it, or none of the manifest's files exists.
    """
    limits = limits or Limits()
    path = Path(source).expanduser()
    lines: list[str] = []
    if not path.exists():
        raise ValueError(
            f'{path}: no such file or folder; expected a manifest (.jsonl, .jsonl.gz) or audio'
        )
    if is_shards(path):
        raise ValueError(
            f'{path}: these are shards; check their source (named in {HEAD}) and make them again'
        )
    manifest = manifest_of(path)
    if manifest is not None:
        metas, lines = read_manifest(manifest)
        items: Sequence[AudioMeta | str] = metas
    elif path.is_dir():
        items = [str(path.absolute() / name) for name, _, _ in find_audio(path)]
        if not items:
            raise ValueError(
                f'{path}: no audio in this folder; expected files ending in {" ".join(EXTENSIONS)}'
            )
    else:
        items = [str(path.absolute())]
    # at_least=1: a file that crashes its decoder must not take this process down
    files = map_files(
        partial(examine, limits=limits), items, workers, f'Examining {path.name}', _died, at_least=1
    )
    _note_duplicates(files)
    return Report(
        str(source),
        files,
        [item if isinstance(item, AudioMeta) else None for item in items],
        lines,
        limits,
    )


def _died(item: AudioMeta | str) -> Examined:
    found = Examined(item if isinstance(item, str) else item.path)
    found.add('unreadable', 'the decoding process crashed (bad file, or out of memory)')
    return found


def _note_duplicates(files: Sequence[Examined]) -> None:
    """Mark files with the same samples as another; the one with the fewest problems is kept."""
    groups: dict[str, list[Examined]] = defaultdict(list)
    for file in files:
        if file.digest is not None and not file.has_error:
            groups[file.digest].append(file)
    for group in groups.values():
        first = min(group, key=lambda file: len(file.problems))
        for file in group:
            if file is not first:
                again = (
                    'listed again'
                    if file.path == first.path
                    else f'the same samples as {first.path}'
                )
                file.add('duplicate', again, file.duration)
