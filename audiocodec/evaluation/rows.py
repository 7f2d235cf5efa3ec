"""Results of an evaluation: one row per item, system and rate, appended while it runs."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audiocodec.data import SegmentInfo
from audiocodec.evaluation.systems import Rendition
from audiocodec.metrics import Metric
from audiocodec.metrics.suite import Scores
from audiocodec.utils.files import flush, write_bytes
from audiocodec.utils.paths import safe_stem

INFO = 'evaluation.json'
VERSION = 1  # of the format of an evaluation's folder
ROWS = 'rows.jsonl'
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


def write_rows(folder: Path, rows: Sequence[Row], metrics: Mapping[str, Metric]) -> None:
    """Write all rows of an evaluation, in place of older ones, and what their metrics are."""
    (folder / ROWS).unlink(missing_ok=True)
    RowFile(folder / ROWS).add(rows)
    write_csv(folder / TABLE, rows)
    write_json(folder / INFO, {'version': VERSION, 'metrics': describe_metrics(metrics)})


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
