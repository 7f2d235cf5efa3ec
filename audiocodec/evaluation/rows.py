"""Results of an evaluation: one row per item, system and rate, appended while it runs."""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audiocodec.data import SegmentInfo
from audiocodec.evaluation.systems import Rendition
from audiocodec.metrics import Metric
from audiocodec.metrics.suite import Scores
from audiocodec.utils.files import flush

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


def make_row(
    system: str, rendition: Rendition, segment: SegmentInfo, item: int | None = None
) -> Row:
    """Return the row of a rendition of one item, without its scores.

    Args:
        system: name of the system.
        rendition: of the item alone.
        segment: origin of the item.
        item: number of the item; None: `segment.index`.
    """
    return {
        'system': system,
        'rate': rendition.rate,
        'item': segment.index if item is None else item,
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
        path: the file; existing rows are kept.

    Attributes:
        rows: all rows by key, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        kept = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                row = _parsed(line)
                if row is None:
                    break
                self.rows[key_of(row)] = row
                kept += len(line)
            os.truncate(path, kept)
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        rows = list(rows)
        with open(self.path, 'a') as file:
            file.writelines(json.dumps(row) + '\n' for row in rows)
            flush(file)
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
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(temporary, path)


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as a table, with an empty cell for what a row lacks."""
    rows = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    temporary = path.with_name(f'.{path.name}.tmp')
    with open(temporary, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _flat(row: Row) -> Row:
    reasons = row.get('unscored')
    if reasons is None:
        return row
    return {**row, 'unscored': '; '.join(f'{name}: {reason}' for name, reason in reasons.items())}
