"""Results of an evaluation: one row per item, system and rate, appended while it runs."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from audiocodec.data import SegmentInfo
from audiocodec.evaluation.systems import Rendition
from audiocodec.metrics import Metric
from audiocodec.metrics.suite import Score, Scores
from audiocodec.utils import distrib
from audiocodec.utils.files import flush, write_bytes
from audiocodec.utils.paths import safe_stem

INFO = 'evaluation.json'
VERSION = 1  # of the format of an evaluation's folder
ROWS = 'rows.jsonl'
_PART = 'rows_of_worker_'  # beginning of the name of the file of a worker, apart from the first
TABLE = 'rows.csv'
KEYS = ('system', 'rate', 'item')  # which identify a row
Row = dict[str, Any]
Key = tuple[Any, ...]


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what identifies a row."""
    return tuple(row[name] for name in KEYS)


def label(system: str, rate: float) -> str:
    """Return the name of a system at a rate, in tables and reports."""
    return f'{system}@{rate:g}'


def audio_name(version: str) -> str:
    """Return the name of the audio file of a version: 'reference' or a `label`."""
    return f'{safe_stem(f"{version}.flac")}.flac'


def make_row(system: str, rendition: Rendition, segment: SegmentInfo) -> Row:
    """Return the row of a rendition of one item, without its scores.

    Args:
        system: name of the system.
        rendition: of the item alone.
        segment: origin of the item.
    """
    return {
        'system': system,
        'rate': rendition.rate,
        'item': segment.index,
        'path': segment.meta.path,
        'offset': round(segment.seek_time, 6),
        'seconds': segment.n_frames / segment.sample_rate,
        'kbps': rendition.kbps,
        'delay': rendition.delay,
        'encode_seconds': rendition.encode_seconds,
        'decode_seconds': rendition.decode_seconds,
    }


def score_columns(scores: Scores) -> Row:
    """Return scores as columns; null, and a reason in `unscored`, where there is none."""
    columns: Row = {
        name: None if score.reason is not None else score.value for name, score in scores.items()
    }
    reasons = {name: score.reason for name, score in scores.items() if score.reason is not None}
    return {**columns, 'unscored': reasons} if reasons else columns


def scores_of(row: Row, metrics: Iterable[str]) -> Scores:
    """Return the scores in a row, as `score_columns` wrote them."""
    reasons = row.get('unscored', {})
    scores = {}
    for name in metrics:
        value = row.get(name)
        scores[name] = Score(math.nan if value is None else value, reasons.get(name))
    return scores


class RowFile:
    """File of rows, in JSON lines. Rows survive a kill; a line that was cut short is dropped.

    Args:
        path: the file; existing rows are read. Nothing is changed before `add`.

    Attributes:
        rows: all rows by key, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        self._size = 0  # bytes of complete rows
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                row = _parsed(line)
                if row is None:
                    break
                self.rows[key_of(row)] = row
                self._size += len(line)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, in place of what is not a row at the end of the file."""
        rows = list(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'ab') as file:
            file.truncate(self._size)
            file.writelines(f'{json.dumps(row)}\n'.encode() for row in rows)
            flush(file)
            self._size = file.tell()
        self.rows.update((key_of(row), row) for row in rows)


def _parsed(line: bytes) -> Row | None:
    """Return the row of a line; None if it is not complete."""
    if not line.endswith(b'\n'):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(name in row for name in KEYS) else None


class SharedRows:
    """Rows of a folder that the workers of an evaluation write, each into a file of its own.

    The files become one when the evaluation is over, or at the start of the next one if it was
    interrupted.

    Args:
        folder: folder of the evaluation.

    Attributes:
        rows: those of all workers when the files were last merged, and later ones of this worker.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = RowFile(folder / ROWS)
        self.rows = self._file.rows

    def merge(self) -> None:
        """Merge the files of all workers, and read the rows. Every worker must call it."""
        distrib.barrier()
        distrib.from_rank_zero(lambda: _merge_files(self.folder))
        merged = RowFile(self.folder / ROWS)
        self.rows = merged.rows
        rank = distrib.rank()
        self._file = RowFile(self.folder / f'{_PART}{rank}.jsonl') if rank else merged

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows of this worker; see `RowFile.add`."""
        rows = list(rows)
        self._file.add(rows)
        self.rows.update((key_of(row), row) for row in rows)


def row_files(folder: Path) -> list[Path]:
    """Return the files of rows that a folder may have, that of the first worker first."""
    return [folder / ROWS, *sorted(folder.glob(f'{_PART}*.jsonl'))]


def _merge_files(folder: Path) -> None:
    """Move the rows of other workers into the file of the first."""
    first, *others = row_files(folder)
    file = RowFile(first)
    for path in others:
        rows = RowFile(path).rows
        file.add(row for key, row in rows.items() if key not in file.rows)
        path.unlink()


def describe_metrics(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return description, unit and direction of each metric, as plain values."""
    return {
        name: {
            'description': metric.description,
            'unit': metric.unit,
            'higher_is_better': metric.higher_is_better,
        }
        for name, metric in metrics.items()
    }


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all."""
    write_bytes(path, f'{json.dumps(content, indent=1)}\n'.encode())


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as a table, with an empty cell for what a row lacks."""
    rows = [_flat(row) for row in rows]
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _flat(row: Row) -> Row:
    reasons = row.get('unscored')
    if reasons is None:
        return row
    return {**row, 'unscored': '; '.join(f'{name}: {reason}' for name, reason in reasons.items())}
